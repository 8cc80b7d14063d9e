"""Who speaks to the ears: the bundled Piper voice and Kokoro's speakers, each sentence synthesised once."""

import hashlib
import itertools
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.cores import cores
from pipelines.downloads.cache import cache_folder
from pipelines.downloads.progress import finish
from pipelines.events import AUDIO_RATE
from pipelines.speech.normalise import speakable
from pipelines.speech.sentences import SentenceSplitter
from pipelines.speech.settings import BUNDLED_KOKORO, SpeechSettings
from pipelines.speech.voices.available import prepare
from pipelines.speech.voices.interface import Voice

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]  # (N,), mono, within [-1, 1], AUDIO_RATE a second

JOE = "joe"
# No installed voice speaks German: two Spanish speakers of Kokoro's read German phonemes, with an accent. Of what
# espeak-ng itself says, Whisper gets half of the words wrong.
GERMAN = ("de ef_dora", "de em_alex")
ENGLISH = ("af_heart", "am_michael", "bf_emma", "bm_george", "af_bella", "am_puck", "bf_isabella", "bm_fable")
LOUDNESS = -23.0  # dB of full scale, of the root mean square of what is spoken
PAUSE = AUDIO_RATE * 15 // 100  # samples between two sentences of a text


class Speakers:
    """Says texts, from a folder of the cache where they were said before."""

    def __init__(self) -> None:
        self._folder = cache_folder() / "bench" / "said"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._voices: dict[str, Voice] = {}

    def say(self, text: str, speaker: str) -> "Floats":
        """The text as ``speaker`` says it, LOUDNESS loud."""
        name = hashlib.sha256(f"{speaker}\n{text}".encode()).hexdigest()[:24]
        place = self._folder / f"{name}.npy"
        if not place.is_file():
            made = self._say(text, speaker)
            unfinished = place.with_suffix(f".{os.getpid()}.npy")
            np.save(unfinished, (np.clip(loud(made), -1, 1) * 32767).astype(np.int16))
            unfinished.rename(place)
        stored: Floats = np.load(place).astype(np.float32) / 32768
        return stored

    def parts(self, text: str, speaker: str) -> "list[Floats]":
        """The sentence, said at one go and cut at its first "|": in front of it nothing sounds like an end."""
        before, _, after = (part.strip() for part in text.partition("|"))
        name = hashlib.sha256(f"parts\n{speaker}\n{text}".encode()).hexdigest()[:24]
        place = self._folder / f"{name}.npy"
        sentence = f"{before} {after}"
        whole = self.say(sentence, speaker)
        if not place.is_file():
            voice, begun, ends = self._engine(speaker), 0, []
            for piece in voice.say(sentence, "" if speaker == JOE else speaker, 1.0, cores):
                if piece is not None:
                    ends += [(word.character, word.sample) for word in piece.words]
                    begun += len(piece.audio)
            end = next(sample for character, sample in ends if character >= len(before))
            np.save(place, np.array(end * len(whole) // begun))
        at = quietest(whole, int(np.load(place)))
        return [whole[:at], whole[at:]]

    def close(self) -> None:
        """End what runs beside the voices."""
        for voice in self._voices.values():
            voice.close()

    def _engine(self, speaker: str) -> Voice:
        reads = speaker.partition(" ")[0] if " " in speaker else ""
        name = "piper" if speaker == JOE else f"kokoro {reads}"
        if name not in self._voices:
            kokoro = SpeechSettings(engine="kokoro", voice=BUNDLED_KOKORO, language=reads)
            self._voices[name] = finish(prepare(SpeechSettings() if speaker == JOE else kokoro, threading.Event()))()
        return self._voices[name]

    def _say(self, text: str, speaker: str) -> "Floats":
        voice = self._engine(speaker)
        name = "" if speaker == JOE else speaker.split()[-1]
        splitter = SentenceSplitter()
        pieces: list[Floats] = []
        for piece in itertools.chain(splitter.feed(text), splitter.finish()):
            said = speakable(piece.text, _language(speaker)).text.strip() if piece.aloud else ""
            if said:
                parts = [each.audio for each in voice.say(said, name, 1.0, cores) if each is not None]
                pieces += [*parts, np.zeros(PAUSE * voice.rate // AUDIO_RATE, np.float32)]
        whole = np.concatenate(pieces[:-1]) if pieces else np.zeros(0, np.float32)
        return resampled(whole, voice.rate)


def _language(speaker: str) -> str:
    return {"d": "de", "e": "es", "f": "fr"}.get(speaker[0], "en-us")


def resampled(audio: "Floats", rate: int) -> "Floats":
    """Sound of ``rate`` samples a second as one of AUDIO_RATE."""
    import soxr

    made: Floats = audio if rate == AUDIO_RATE else soxr.resample(audio, rate, AUDIO_RATE)
    return made


def loud(audio: "Floats", level: float = LOUDNESS) -> "Floats":
    """The sound with this root mean square, in dB of full scale, over what of it is not silent."""
    power = np.square(audio[np.abs(audio) > 0.01 * np.abs(audio).max(initial=0.0)])
    if not len(power):
        return audio
    made: Floats = (audio * (10 ** (level / 20) / np.sqrt(power.mean()))).astype(np.float32)
    return made


def quietest(audio: "Floats", near: int, around: float = 0.08) -> int:
    """The sample in the quietest 10 ms within ``around`` seconds of one."""
    size = AUDIO_RATE // 100
    begin = max(near - round(around * AUDIO_RATE), 0)
    window = audio[begin : near + round(around * AUDIO_RATE)]
    count = len(window) // size
    if not count:
        return min(near, len(audio))
    power = np.square(window[: count * size]).reshape(count, size).sum(axis=1)
    return begin + int(power.argmin()) * size + size // 2


def pcm(audio: "Floats") -> bytes:
    """The sound as a client sends it."""
    return (np.clip(audio, -1, 1) * 32767).astype("<i2").tobytes()


def silence(seconds: float) -> "Floats":
    """Nothing at all."""
    return np.zeros(round(seconds * AUDIO_RATE), np.float32)


def lines(name: str) -> list[str]:
    """The lines of a text of ``bench/data``, without its comments."""
    text = (Path(__file__).parents[1] / "data" / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def dealt(texts: Iterable[str], speakers: Iterable[str]) -> list[tuple[str, str]]:
    """Each text with a speaker, in turn."""
    return list(zip(texts, itertools.cycle(tuple(speakers)), strict=False))
