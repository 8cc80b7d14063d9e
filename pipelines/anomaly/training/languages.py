"""Which language a text is in, for corpora that do not say."""

from functools import lru_cache
from typing import Any

LANGUAGES = (
    "ar",
    "de",
    "en",
    "es",
    "fi",
    "fr",
    "hi",
    "it",
    "ja",
    "ko",
    "no",
    "nl",
    "pl",
    "pt",
    "ru",
    "th",
    "tr",
    "vi",
    "zh",
)


@lru_cache(maxsize=1)
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(list(LANGUAGES))
    return identifier


def guess(text: str) -> str:
    """The ISO 639-1 code of one of ``LANGUAGES``; "" when the text has no letters."""
    letters = "".join(each for each in text if each.isalpha() or each.isspace())
    return str(_identifier().classify(letters)[0]) if letters.strip() else ""
