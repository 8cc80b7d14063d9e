"""Piper voices: VITS in ONNX, whose sound begins long before the sentence is computed.

A Piper voice is one graph, from phonemes to samples. Here it is cut into three: what reads the sentence and plans its
sound (text encoder and durations), the flow, and the vocoder; the last two are nine tenths of the work. They see some
frames around each place only, so they run over windows with as much overlap as they see, and their samples are those of
the whole. Between two windows others may have the processor.
"""

import json
import logging
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.speech.settings import SpeechSettings
from pipelines.speech.stretch import stretched
from pipelines.speech.timing import even_word_ends, word_ends
from pipelines.speech.voices.interface import Samples, VoiceError, WordEnd, check_speaker
from pipelines.speech.voices.phonemizer import Phonemizer
from pipelines.speech.voices.piper_graph import PARTS
from pipelines.speech.voices.sessions import GraphPart

if TYPE_CHECKING:
    from piper import PiperConfig

log = logging.getLogger(__name__)

Floats = NDArray[np.float32]

FIRST_FRAMES = 16  # of the first window: about a fifth of a second
MOST_FRAMES = 192  # of later ones: what they overlap is computed twice
GROWTH = 4  # times the window before
MOST_FLOW_FRAMES = 256
CONTEXTS = (8, 12, 16, 24, 32, 48)  # frames around a window that what comes of it may depend on
SAME = 1e-4  # an inaudible difference of samples
MOST_PHONEMES = 600  # of one reading; 300 characters of ordinary text have fewer
WARM_UP = "Ready to speak."
# Speeds that the model makes itself: beyond them its phonemes have a frame each, or drone. The rest is stretched.
SLOWEST, FASTEST = 0.5, 1.4
STEADY = 0.05  # a share of a sentence's length that it may differ by without being stretched


class PiperVoice:
    """One voice; see ``Voice``."""

    def __init__(
        self, config: "PiperConfig", phonemizer: Phonemizer | None, model: "_Model", settings: SpeechSettings
    ) -> None:
        self.rate = config.sample_rate
        self.language = config.espeak_voice
        self.speakers = tuple(config.speaker_id_map)
        self._phonemizer = phonemizer  # None where the voice reads characters
        self._config = config
        self._model = model
        self._usual: Floats | None = None  # durations of the first sentence, which load() lets it say at speed 1
        self._noise = config.noise_scale if settings.noise == "voice" else settings.noise
        self._rhythm = config.noise_w_scale if settings.rhythm == "voice" else settings.rhythm

    def say(self, text: str, speaker: str, speed: float, threads: Callable[[], int]) -> Iterator[Samples | None]:
        """Speak one sentence."""
        parts = list(_parted(self._phonemes(text)))
        told = text if len(parts) == 1 else ""  # which of several parts holds a word is unknown
        for phonemes in parts:
            yield from self._say(told, phonemes, speaker, speed, threads)

    def close(self) -> None:
        """End the process that reads text."""
        if self._phonemizer is not None:
            self._phonemizer.close()

    def _say(
        self, text: str, phonemes: list[str], speaker: str, speed: float, threads: Callable[[], int]
    ) -> Iterator[Samples | None]:
        ids, places = self._ids(phonemes)
        if not places:
            return
        scale = self._scale(speed)
        scales = (self._noise, self._config.length_scale * scale, self._rhythm)
        speaker_id = self._config.speaker_id_map.get(speaker, self._config.default_speaker_id)
        plan = self._model.plan(ids, scales, speaker_id, threads())
        if self._usual is None:
            self._usual = plan.durations
        factor = plan.factor(speed, scale)
        words = self._words(text, phonemes, places, plan)
        words = tuple(WordEnd(word.character, round(word.sample * factor)) for word in words)
        yield None
        for audio in stretched(self._model.sound(plan, threads), self.rate, factor):
            if audio is None:
                yield None
                continue
            yield Samples(audio, words)
            words = ()

    def _scale(self, speed: float) -> float:
        """What to multiply durations with for this speed.

        The model rounds every duration up to whole frames, so half of the scale does not make half of the sound. The
        sentence that the voice said first shows how much it makes; others differ from it by a few percent.
        """
        if speed == 1.0 or self._usual is None:
            return 1.0
        wanted = np.ceil(self._usual).sum() / min(max(speed, SLOWEST), FASTEST)
        low, high = 0.0, 2 / SLOWEST
        for _ in range(20):
            middle = (low + high) / 2
            low, high = (low, middle) if np.ceil(self._usual * middle).sum() > wanted else (middle, high)
        return low

    def _phonemes(self, text: str) -> list[str]:
        """All of the text's as one utterance; espeak-ng may see several sentences in it."""
        return self._phonemes_of([text])[0]

    def _phonemes_of(self, texts: Sequence[str]) -> list[list[str]]:
        """Those of each text."""
        if self._phonemizer is None:
            return [list(unicodedata.normalize("NFD", text)) for text in texts]
        return [
            [phoneme for group in groups for phoneme in (*group, " ")][:-1]
            for groups in self._phonemizer.phonemes(texts)
        ]

    def _ids(self, phonemes: Sequence[str]) -> tuple[list[int], list[int]]:
        """What the model reads, and how many of its ids there are behind each phoneme; one that it lacks is silent.

        No places where nothing of the text has a sound.
        """
        known = self._config.phoneme_id_map
        pad = known["_"]
        ids = [*known["^"], *pad]
        places = []
        sounds = False
        for phoneme in phonemes:
            if phoneme in known:
                ids += [*known[phoneme], *pad]
                sounds = sounds or phoneme.isalnum()
            places.append(len(ids))
        return [*ids, *known["$"]], places if sounds else []

    def _words(self, text: str, phonemes: Sequence[str], places: Sequence[int], plan: "_Plan") -> tuple[WordEnd, ...]:
        if plan.durations is None:
            return even_word_ends(text, plan.frames * self._model.frame)
        behind = np.cumsum(np.ceil(plan.durations)) * self._model.frame
        ends = [int(behind[place - 1]) for place in places]
        counts: dict[str, int] = {}

        def count(word: str) -> int:
            if not counts:  # all in one request: each costs two switches of the process
                words = list(dict.fromkeys(text.split()))
                counts.update(zip(words, map(len, self._phonemes_of(words)), strict=True))
            return counts[word]

        return word_ends(text, phonemes, ends, count)


def _parted(phonemes: list[str]) -> Iterator[list[str]]:
    """Parts that the model can read at once: what it takes grows with the square of their length."""
    begin = 0
    while len(phonemes) - begin > MOST_PHONEMES:
        part = phonemes[begin : begin + MOST_PHONEMES]
        last = len(part) - 1 - part[::-1].index(" ") if " " in part else len(part) - 1
        yield part[: last + 1]
        begin += last + 1
    yield phonemes[begin:]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is known of a sentence's sound before it is computed."""

    frames: int
    durations: Floats | None  # (ids,), of each, before they are rounded up to frames; None where the voice gives none
    tensors: dict[str, Floats]  # what the flow and the vocoder read; those of all frames have these last

    def factor(self, speed: float, scale: float) -> float:
        """How much longer to make the sound that was planned with this scale, so that it has the speed."""
        usual = np.ceil(self.durations / scale).sum() if self.durations is not None else self.frames / scale
        factor = float(usual / speed / self.frames)
        return 1.0 if abs(factor - 1) < STEADY else factor


class _Windowed(GraphPart):
    """A part that can be computed over windows of frames."""

    context = 0  # frames that it sees on each side of a window

    def over(self, tensors: Mapping[str, Floats], frames: int, begin: int, end: int, threads: int = 1) -> Floats:
        """What becomes of the frames from ``begin`` to ``end``, of ``frames`` in all: the last axis is theirs."""
        left, right = max(begin - self.context, 0), min(end + self.context, frames)
        given = {
            name: tensors[name][..., left:right] if tensors[name].shape[-1] == frames else tensors[name]
            for name in self.inputs
        }
        (made,) = self.with_threads(threads).run(None, given)
        each = made.shape[-1] // (right - left)
        return np.asarray(made[..., (begin - left) * each : (end - left) * each], dtype=np.float32)

    def measure(self, tensors: Mapping[str, Floats], frames: int) -> None:
        """Find out how much it sees. Raises: ValueError when that is more than is worth while."""
        self.context = frames
        begin, end = frames // 2 - 4, frames // 2 + 4
        whole = self.over(tensors, frames, begin, end)
        for self.context in CONTEXTS:
            if np.abs(self.over(tensors, frames, begin, end) - whole).max() < SAME:
                return
        raise ValueError(f"its sound depends on more than {CONTEXTS[-1]} frames around")


class _Model:
    """The three parts of a voice's graph."""

    def __init__(self, folder: Path, threads: int) -> None:
        reader, flow, vocoder = (folder / f"{name}.onnx" for name in PARTS)
        self.reader = GraphPart(reader, threads)
        self._flow, self._vocoder = _Windowed(flow, threads), _Windowed(vocoder, threads)
        (self._latent,) = self._flow.outputs
        self.frame = 0  # samples
        self._measure()

    def plan(self, ids: Sequence[int], scales: Sequence[float], speaker: int, threads: int = 1) -> _Plan:
        """Read the phonemes and plan their sound."""
        given: dict[str, Any] = {
            "input": np.array([ids], dtype=np.int64),
            "input_lengths": np.array([len(ids)], dtype=np.int64),
            "scales": np.array(scales, dtype=np.float32),
        }
        if "sid" in self.reader.inputs:
            given["sid"] = np.array([speaker], dtype=np.int64)
        durations, *tensors = self.reader.with_threads(threads).run(None, given)
        told = durations.reshape(-1) if durations.size == len(ids) else None
        frames = max(tensor.shape[-1] for tensor in tensors)  # what is of the speaker has one
        return _Plan(frames, told, dict(zip(self.reader.outputs[1:], tensors, strict=True)))

    def sound(self, plan: _Plan, threads: Callable[[], int]) -> Iterator[Floats | None]:
        """The samples, (N,) at a time: few at first, so that they are heard soon. ``None`` where others may go on."""
        tensors, frames = dict(plan.tensors), plan.frames
        latent: Floats | None = None  # (1, C, frames), as far as ``flowed``
        flowed = begin = 0
        size = FIRST_FRAMES
        while begin < frames:
            end = begin + size if begin + size + size // 2 < frames else frames
            least = min(end + self._vocoder.context, frames)
            while flowed < least:
                until = least if not flowed else min(flowed + MOST_FLOW_FRAMES, frames)
                made = self._flow.over(tensors, frames, flowed, until, threads())
                if latent is None:
                    latent = tensors[self._latent] = np.zeros((*made.shape[:2], frames), dtype=np.float32)
                latent[..., flowed:until] = made
                flowed = until
                yield None
            yield self._vocoder.over(tensors, frames, begin, end, threads()).reshape(-1)
            begin, size = end, min(GROWTH * size, MOST_FRAMES)

    def _measure(self) -> None:
        """Find out how long a frame is, and how much the parts see around one."""
        plan = self.plan([0] * 8, (0.0, 1.0, 0.0), 0)
        frames = 2 * max(CONTEXTS) + 8
        noise = np.random.default_rng(0)
        tensors = {
            # A mask has one channel and lets everything through.
            name: np.ones((1, 1, frames), dtype=np.float32)
            if tensor.shape[1] == 1
            else noise.standard_normal((1, tensor.shape[1], frames), dtype=np.float32)
            if tensor.shape[-1] == plan.frames
            else tensor
            for name, tensor in plan.tensors.items()
        }
        self._flow.measure(tensors, frames)
        tensors[self._latent] = self._flow.over(tensors, frames, 0, frames)
        self._vocoder.measure(tensors, frames)
        self.frame = self._vocoder.over(tensors, frames, 0, 8).size // 8


def load(path: Path, parts: Path, settings: SpeechSettings, threads: int) -> PiperVoice:
    """Load a Piper voice, an ``.onnx`` file with its ``.onnx.json`` beside it, that was cut into ``parts``.

    Raises: VoiceError that names the file and says what is wrong with it.
    """
    about = path.with_name(path.name + ".json")
    config = _read_config(about)
    phonemizer = _phonemizer(config, about)
    try:
        model = _Model(parts, threads)
        voice = PiperVoice(config, phonemizer, model, settings)
        for _ in voice.say(WARM_UP, "", 1.0, lambda: threads):  # espeak-ng reads its tables at its first word
            pass
    except Exception as error:
        log.debug("the voice could not be loaded", exc_info=True)
        raise VoiceError(f"The voice {path} is not one that can be spoken with: {error}") from None
    check_speaker(voice, path, settings.speaker)
    return voice


def _read_config(path: Path) -> Any:
    from piper import PiperConfig

    if not path.is_file():
        raise VoiceError(f"There is no file {path}: a Piper voice comes with its configuration beside it.")
    try:
        config = PiperConfig.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except KeyError as error:
        raise VoiceError(f"{path} is not the configuration of a Piper voice: {error} is missing.") from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise VoiceError(f"{path} is not the configuration of a Piper voice: {error}") from None
    if missing := {"_", "^", "$"} - set(config.phoneme_id_map):
        raise VoiceError(f"{path}: phoneme_id_map lacks {', '.join(sorted(missing))}.")
    return config


def _phonemizer(config: "PiperConfig", about: Path) -> Phonemizer | None:
    from piper.config import PhonemeType

    if config.phoneme_type == PhonemeType.TEXT:
        return None
    if config.phoneme_type == PhonemeType.ESPEAK and config.espeak_voice != "ar":  # Piper first puts vowels into Arabic
        return Phonemizer(config.espeak_voice, config.vowel_clusters or ())
    return Phonemizer(config.espeak_voice, config=about)
