"""Punctuation as a voice needs it, and words that espeak-ng can hold; the last rules, for every language."""

from pipelines.speech.written.rules import Rule, rules

REPEATED = 3  # of a character that is written many times over, so many are read
MARKS = r"\s!-\-/:-@\[-`{-~\u2010-\u205e"  # punctuation but the dot
LETTER = rf"[^{MARKS}\d.]"
DOTS = rf"[{MARKS}]*\.[{MARKS}.]*"  # dots between letters, with what espeak-ng overlooks there
ABBREVIATION = 10  # letters of one that are read without a pause
SPACED = r"[^\s\u0e00-\u0eff\u1000-\u109f\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"  # of scripts with spaces
WORD = 64  # characters of one that are read without a space

TIDY: tuple[Rule, ...] = rules(
    (r"(.)\1{3,}", lambda found: found[1] * (1 if found[1] in ".-=_~#*+" else REPEATED)),
    (r"…|\.{2,}", ", "),
    (r"\s*[—–―]\s*(?=\D)", ", "),
    (r"[“”„«»\"]|''|``", ""),
    (r"[‘’]", "'"),
    (r"\[{2,}|\]{2,}", " "),  # Piper would take what is between them for phonemes
    (r"\s+", " "),
    (r"\s+([,.;:!?](?!\d))", lambda found: found[1]),
    (r"(?:,\s*){2,}", ", "),
    # Words that are longer than espeak-ng's buffers, which it does not guard: letters with dots between them, which it
    # takes for one abbreviation until a clause ends, and endings on endings ('s's's).
    (rf"((?:{LETTER}{DOTS}){{{ABBREVIATION - 1}}}{LETTER}){DOTS}(?={LETTER})", lambda found: f"{found[1]}, "),
    (rf"{SPACED}{{{WORD}}}(?={SPACED})", lambda found: f"{found[0]} "),
    (r"^[\s,;:.!?]+(?!\d)|\s+$", ""),
)
