"""Coqui voices: any model of ``coqui-tts``, and Piper voices that were converted for it."""

import contextlib
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.speech.coqui_phonemes import use_bundled_espeak
from pipelines.speech.settings import SpeechSettings
from pipelines.speech.stretch import Stretcher
from pipelines.speech.timing import even_word_ends
from pipelines.speech.voices.coqui_convert import CONFIG, MARK
from pipelines.speech.voices.interface import Samples, VoiceError, check_speaker
from pipelines.speech.voices.phonemizer import Phonemizer

log = logging.getLogger(__name__)

PIECE_SECONDS = 0.5  # of sound; the whole sentence is there at once, but its reader takes it piece by piece
WARM_UP = "Ready to speak."


class CoquiVoice:
    """One voice; see ``Voice``."""

    def __init__(
        self, synthesizer: Any, language: str, settings: SpeechSettings, phonemizer: Phonemizer | None = None
    ) -> None:
        self._synthesizer = synthesizer
        self._model = synthesizer.tts_model
        self._phonemizer = phonemizer  # of a voice that was converted
        self._lock = threading.Lock()  # the models have state
        self._asked_language = settings.language or None
        self._clone = str(Path(settings.clone).expanduser()) if settings.clone else None
        self.rate = int(synthesizer.output_sample_rate)
        self.language = language
        self.speakers = tuple(_names(getattr(self._model, "speaker_manager", None), "speaker_names"))

    def say(self, text: str, speaker: str, speed: float, threads: Callable[[], int]) -> Iterator[Samples | None]:
        """Speak one sentence."""
        if not any(map(str.isalnum, text)):  # these models make a noise of it
            return
        import torch

        torch.set_num_threads(max(threads(), 1))  # of this thread
        with self._lock:
            audio = self._synthesize(text, speaker or (self.speakers[0] if self.speakers else None))
        if speed != 1.0:  # what the models take for a speed makes no sound of half the length, or nothing at all
            stretcher = Stretcher(self.rate, 1 / speed)
            audio = np.concatenate([stretcher.feed(audio), stretcher.end()])
        words = even_word_ends(text, len(audio))
        step = round(PIECE_SECONDS * self.rate)
        for begin in range(0, len(audio), step):
            yield Samples(audio[begin : begin + step], words)
            words = ()

    def close(self) -> None:
        """End the process that reads text."""
        if self._phonemizer is not None:
            self._phonemizer.close()

    def _synthesize(self, text: str, speaker: str | None) -> "np.ndarray[Any, np.dtype[np.float32]]":
        spoken = self._model.synthesize(
            text,
            speaker=speaker if self._clone is None else None,
            speaker_wav=self._clone,
            language=self._asked_language,
            use_griffin_lim=self._synthesizer.vocoder_model is None,
        )
        wave = spoken["wav"]
        if self._synthesizer.vocoder_model is not None:
            wave = self._synthesizer._run_vocoder(spoken["outputs"]["model_outputs"][0], "cpu")
        return np.asarray(wave, dtype=np.float32).reshape(-1)


def load(place: Path | str, settings: SpeechSettings, threads: int) -> CoquiVoice:
    """Load a Coqui model: a folder, a checkpoint with its ``config.json`` beside it, or the name of one of Coqui's.

    Raises: VoiceError that names it and says what is wrong.
    """
    logging.getLogger("TTS").setLevel(logging.ERROR)  # at lower levels it logs what it is to say
    if settings.clone and not Path(settings.clone).expanduser().is_file():
        raise VoiceError(f"There is no file {settings.clone}: [speech] clone is a recording of the voice to imitate.")
    os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        import torch

        torch.set_num_threads(threads)
        with _quiet():
            synthesizer, language, phonemizer = _open(place, settings)
        _remove_weight_norm(synthesizer.tts_model)
        voice = CoquiVoice(synthesizer, language, settings, phonemizer)
        for _ in voice.say(WARM_UP, settings.speaker, 1.0, lambda: threads):
            pass
    except VoiceError:
        raise
    except (Exception, SystemExit) as error:  # Coqui exits where its question about a licence has no answer
        log.debug("the voice could not be loaded", exc_info=True)
        raise VoiceError(f"The Coqui model {place} can't be used: {error}") from None
    check_speaker(voice, place, settings.speaker)
    return voice


def _open(place: Path | str, settings: SpeechSettings) -> tuple[Any, str, Phonemizer | None]:
    phonemizer = None
    if isinstance(place, str):
        from TTS.api import TTS

        synthesizer = TTS(place, progress_bar=False).synthesizer
    else:
        from TTS.utils.synthesizer import Synthesizer

        checkpoint, config = _files(place)
        if (config.parent / MARK).is_file():
            phonemizer = use_bundled_espeak()
        synthesizer = Synthesizer(tts_checkpoint=checkpoint, tts_config_path=config)
    language = settings.language or synthesizer.tts_config.get("phoneme_language") or "en"
    return synthesizer, str(language), phonemizer


def _files(place: Path) -> tuple[Path, Path]:
    """The checkpoint and its configuration. A folder without a single checkpoint is a model that loads itself."""
    folder = place if place.is_dir() else place.parent
    config = folder / CONFIG
    if not config.is_file():
        raise VoiceError(f"There is no {config}: a Coqui model comes with its configuration beside it.")
    try:
        json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VoiceError(f"{config} is not the configuration of a Coqui model: {error}") from None
    checkpoints = [place] if place.is_file() else sorted(folder.glob("*.pth"))
    if not checkpoints:
        raise VoiceError(f"There is no model in {folder}: no .pth file.")
    return (checkpoints[0] if len(checkpoints) == 1 else folder), config


def _remove_weight_norm(model: Any) -> None:
    """It is for training, and costs a third of the time."""
    from torch.nn.utils import parametrize

    for module in model.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")


def _names(manager: Any, attribute: str) -> list[str]:
    try:
        return list(getattr(manager, attribute))
    except (AttributeError, TypeError):
        return []


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Coqui prints while it loads."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
