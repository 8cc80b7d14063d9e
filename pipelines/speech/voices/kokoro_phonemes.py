"""Kokoro's symbols: from espeak-ng's phonemes to what the model was trained on.

The model knows 114 of 178 ids. A diphthong or an affricate is one symbol there, as its makers' own phonemizer (misaki)
writes it around espeak-ng.
"""

import re
from collections.abc import Sequence

# By the first letter of a speaker's name: the espeak-ng voice that reads for it. Japanese ("j") and Chinese ("z") are
# missing: espeak-ng names kanji in English, and writes Chinese tones as digits, which the model has no symbols for.
LANGUAGES = {"a": "en-us", "b": "en-gb-x-rp", "e": "es", "f": "fr", "h": "hi", "i": "it", "p": "pt-br"}

# The model's ids, from config.json of hexgrad/Kokoro-82M: each run of characters counts on from its number.
RUNS = {
    1: ";:,.!?", 9: '—…"()“” \u0303ʣʥʦʨᵝ\uab67AI', 31: "O", 33: "Q", 35: "ST", 39: "W", 41: "Yᵊabcdef",
    50: "hijklmnopqrstuvwxyzɑɐɒæ", 75: "βɔɕç", 80: "ɖðʤ", 83: "ə", 85: "ɚɛɜ", 90: "ɟ", 92: "ɡ", 99: "ɥ", 101: "ɨɪʝ",
    110: "ɯɰŋɳɲɴø", 118: "ɸθœ", 123: "ɹ", 125: "ɾɻ", 128: "ʁɽʂʃʈʧ", 135: "ʊʋ", 138: "ʌɣɤ", 142: "χʎ", 147: "ʒʔ",
    156: "ˈˌː", 162: "ʰ", 164: "ʲ", 169: "↓", 171: "→↗↘", 177: "ᵻ",
}  # fmt: skip
IDS = {symbol: first + place for first, run in RUNS.items() for place, symbol in enumerate(run)}

Rule = tuple[re.Pattern[str], str]


def _rules(*pairs: tuple[str, str]) -> tuple[Rule, ...]:
    return tuple((re.compile(pattern), symbol) for pattern, symbol in pairs)


CEDILLA = ("c\u0327", "ç")  # phonemes come decomposed
DIPHTHONGS = (("aɪ", "I"), ("aʊ", "W"), ("eɪ", "A"), ("ɔɪ", "Y"), ("dʒ", "ʤ"), ("tʃ", "ʧ"))

ENGLISH = (
    *DIPHTHONGS,
    ("ʲ(?=[oə])", "j"),
    ("ʲ|\u0303", ""),  # the glide between two words, and French vowels in English
    ("əl(?![aeiouæɑɐɒɔəɛɜɪʊʌᵻAIWYˈˌ])", "ᵊl"),  # a syllable without a vowel
    ("(\\S)\u0329", r"ᵊ\1"),
    ("ɚ", "əɹ"),
    ("r", "ɹ"),
    ("[xç]", "k"),
    ("ɐ", "ə"),
    ("ɬ", "l"),
)
AMERICAN = _rules(
    CEDILLA, *ENGLISH, ("oʊ", "O"), ("ɜːɹ|ɜː", "ɜɹ"), ("ɪə", "iə"), ("ː", ""), ("o", "ɔ"), ("ɾ", "T"), ("ʔ", "t")
)
BRITISH = _rules(CEDILLA, *ENGLISH, ("eə", "ɛː"), ("iə", "ɪə"), ("əʊ", "Q"), ("o", "ɔ"), ("ɾ", "T"), ("ʔ", "t"))
OTHERS = _rules(CEDILLA, *DIPHTHONGS, ("oʊ", "O"), ("əʊ", "Q"), ("dz", "ʣ"), ("ts", "ʦ"), ("[ʲ-]", ""))
RULES = {"en-us": AMERICAN, "en-gb-x-rp": BRITISH}


def symbols(groups: Sequence[Sequence[str]], language: str) -> str:
    """The symbols of one text that espeak-ng has read, all of which the model has an id for; words apart by " "."""
    text = " ".join("".join(group) for group in groups)
    for pattern, symbol in RULES.get(language, OTHERS):
        text = pattern.sub(symbol, text)
    return "".join(filter(IDS.__contains__, text)).strip()
