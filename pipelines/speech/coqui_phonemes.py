"""Phonemes for Coqui from the espeak-ng in Piper's package."""

from contextlib import suppress
from typing import Any

from pipelines.speech.voices.phonemizer import Phonemizer


def use_bundled_espeak() -> Phonemizer:
    """Let voices that were converted hear the phonemes that they were trained on; returns what must be closed.

    Coqui's own way runs a program that may not be installed, and splits sentences at every punctuation mark before, so
    that 3.5 becomes three, five.
    """
    from TTS.tts.utils.text.phonemizers import PHONEMIZERS, ESpeak, get_default_phonemizer

    phonemizer = Phonemizer("en-us")

    class BundledEspeak(ESpeak):  # type: ignore[misc]
        """The same interface, without a program."""

        def __init__(self, language: str, **_: Any) -> None:
            self._language = language

        def phonemize(self, text: str, separator: str = "", language: str | None = None) -> str:
            """The text's phonemes, its sentences apart by a space."""
            (groups,) = phonemizer.phonemes([text], language or self._language)
            return " ".join("".join(group) for group in groups)

    with suppress(ValueError):
        get_default_phonemizer("en-us")  # registers Coqui's own; what comes later stays
    PHONEMIZERS["espeak"] = BundledEspeak
    return phonemizer
