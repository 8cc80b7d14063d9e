"""Which language a sentence is in, among those that a voice speaks."""

from collections.abc import Iterable

# Below it the language stays as it is. Of 70 short sentences in seven languages the wrong ones were below 0.58.
SURE = 0.6


class LanguageDetector:
    """Tells languages by their letters, in some 0.04 ms a sentence. Languages are ISO 639-1 codes."""

    def __init__(self, languages: Iterable[str]) -> None:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        self._identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        # German is one that Kokoro lacks: without it a German sentence would be the nearest of the others.
        self._identifier.set_languages(sorted({*languages, "de"}))

    def language(self, text: str) -> str:
        """The language of ``text``, "" when it is not certain."""
        code, confidence = self._identifier.classify(text)
        return str(code) if confidence >= SURE else ""
