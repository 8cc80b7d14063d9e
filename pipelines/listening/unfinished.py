"""Whether words sound as if more of them were to come, in four languages.

A recogniser ends nearly everything with a full stop, so that one says little; the last word says more. Only words are
listed that hardly ever end a sentence: no particles ("turn it on"), no pronouns.
"""

ENGLISH, GERMAN, SPANISH, FRENCH = "en", "de", "es", "fr"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


TRAILING = {
    ENGLISH: _words(
        "a an the and or but because if whether which when while than of to for from with at between into "
        "is are was were am my your our their its i we they um uh er hmm"
    ),
    GERMAN: _words("ein eine einen einem einer und oder aber weil dass ob wenn von für zwischen äh ähm hm"),
    SPANISH: _words("un una el los las y o pero porque de a para con en por entre mi tu su que eh"),
    FRENCH: _words("un une le la les des du et ou mais parce que de à pour avec en dans entre mon ma mes euh"),
}
OPENERS = {  # of a clause that another one follows
    ENGLISH: _words("if when although though since because before after while unless until once"),
    GERMAN: _words("wenn als obwohl weil bevor nachdem während falls sobald"),
    SPANISH: _words("si cuando aunque porque antes después mientras"),
    FRENCH: _words("si quand lorsque puisque avant après pendant"),
}
FEWEST = 3  # words of such a clause
OPEN = ("...", "…", ",", "-", "–", "—", ":")


def unfinished(text: str, language: str) -> bool:
    """Whether more words are to be expected behind these. Languages that are not known here: never."""
    text = text.strip().casefold()
    if not text or text.endswith("?"):
        return False
    if text.endswith(OPEN):
        return True
    words = text.rstrip(".!").split()
    if not words or language not in TRAILING:
        return False
    if words[-1].strip(",;") in TRAILING[language]:
        return True
    return len(words) >= FEWEST and words[0] in OPENERS[language] and not any(word.endswith(",") for word in words)
