"""What is heard and is no turn: synthesised noises, and recordings from Debian's packages where they can be had.

Coughs, laughter and other voices without words are Hedgewars' (each voice has its own), music on hold is Asterisk's,
and loops are Sonic Pi's. The packages are fetched by name and hash into the cache and only unpacked.
"""

import hashlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.heard.speakers import ENGLISH, JOE, Speakers, lines, loud, resampled, silence
from pipelines.downloads.cache import cache_folder
from pipelines.events import AUDIO_RATE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]  # (N,), mono, within [-1, 1], AUDIO_RATE a second

PACKAGES = {  # Debian's, with the SHA-256 of the file
    "hedgewars-data": "722225903a72604403e6e0026e40e9a6953f47a74d94efc5f55504bc05bb4761",
    "asterisk-moh-opsound-wav": "8f9d808a729d305c2d3343993f21ca5e6829e411682618dc8ea7aa8bc24a566c",
    "sonic-pi-samples": "25f2312d2fae005e6ad0f4726b8ed3084e776006a5a132083506e960224ac79d",
}
VOICES = ("British", "Classic", "Default", "HillBilly", "Mobster", "Pirate", "Russian", "Surfer")
CHORDS = ((220.0, 261.6, 329.6), (196.0, 246.9, 293.7), (174.6, 220.0, 261.6), (164.8, 207.7, 246.9))


def _chance(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def white(seconds: float, level: float = -40.0, seed: int = 0) -> "Floats":
    """Noise with the same power at all frequencies."""
    return loud(_chance(seed).standard_normal(round(seconds * AUDIO_RATE)).astype(np.float32), level)


def pink(seconds: float, level: float = -40.0, seed: int = 0) -> "Floats":
    """Noise with the same power in every octave."""
    spectrum = np.fft.rfft(_chance(seed).standard_normal(round(seconds * AUDIO_RATE)))
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    spectrum[0] = 0
    return loud(np.fft.irfft(spectrum, round(seconds * AUDIO_RATE)).astype(np.float32), level)


def hum(seconds: float, level: float = -35.0) -> "Floats":
    """A mains hum with its harmonics."""
    times = np.arange(round(seconds * AUDIO_RATE)) / AUDIO_RATE
    waves = sum(np.sin(2 * np.pi * 50 * n * times) / n for n in (1, 2, 3, 5, 7))
    return loud(np.asarray(waves, np.float32), level)


def music(seconds: float, level: float = -26.0, seed: int = 0) -> "Floats":
    """Chords of a plucked sound, a melody and drums."""
    chance, beat = _chance(seed), AUDIO_RATE // 2
    made = np.zeros(round(seconds * AUDIO_RATE) + 4 * beat, np.float32)
    times = np.arange(2 * beat) / AUDIO_RATE
    for number in range(round(seconds * AUDIO_RATE) // beat):
        begin = number * beat
        chord = CHORDS[number // 4 % len(CHORDS)]
        notes = [*(chord if number % 2 == 0 else ()), 2 * chord[int(chance.integers(3))]]
        for note in notes:
            tone = sum(np.sin(2 * np.pi * note * n * times) / n**1.5 for n in (1, 2, 3, 4))
            made[begin : begin + 2 * beat] += (tone * np.exp(-3 * times)).astype(np.float32)
        drum = np.sin(2 * np.pi * 60 * times) if number % 2 == 0 else chance.standard_normal(len(times)) * 0.5
        made[begin : begin + 2 * beat] += (2 * drum * np.exp(-25 * times)).astype(np.float32)
    return loud(made[: round(seconds * AUDIO_RATE)], level)


def babble(speakers: Speakers, count: int, seconds: float, level: float = -30.0, seed: int = 0) -> "Floats":
    """So many people who talk at once, none of them louder than the others."""
    chance, length = _chance(seed), round(seconds * AUDIO_RATE)
    texts = lines("heard-english.txt")
    made = np.zeros(length, np.float32)
    for number in range(count):
        at = -int(chance.integers(AUDIO_RATE))
        order = chance.permutation(len(texts))
        for place in order.tolist() * (1 + int(seconds) // 200):
            who = (JOE, *ENGLISH)[place % 9]  # as the corpus of words has it
            said = speakers.say(texts[place], who)
            begin, end = max(at, 0), min(at + len(said), length)
            if end > begin:
                made[begin:end] += said[begin - at : end - at]
            at += len(said) + int(chance.integers(AUDIO_RATE // 4))
            if at >= length:
                break
        made = np.roll(made, int(chance.integers(length))) if number % 2 else made
    return loud(made, level)


def street(seconds: float, level: float = -30.0, seed: int = 0) -> "Floats":
    """Traffic: a rumble, cars that pass, and now and then a horn."""
    chance = _chance(seed)
    made = pink(seconds, -35.0, seed)
    times = np.arange(len(made)) / AUDIO_RATE
    for _ in range(max(int(seconds / 4), 1)):
        at, width = chance.uniform(0, seconds), chance.uniform(0.7, 2.0)
        made += pink(seconds, -24.0, int(chance.integers(1 << 30))) * np.exp(-(((times - at) / width) ** 2))
    for _ in range(int(seconds / 15)):
        at = chance.uniform(0, seconds)
        on = ((times > at) & (times < at + 0.5)).astype(np.float32)
        made += 0.05 * on * np.sign(np.sin(2 * np.pi * 420 * times)).astype(np.float32)
    return loud(made.astype(np.float32), level)


def typing(seconds: float, seed: int = 0) -> "Floats":
    """A keyboard: seven keys a second, each with a click and a thud."""
    chance = _chance(seed)
    made = silence(seconds)
    at = 0.05
    while at < seconds - 0.1:
        made += _placed(_burst(chance, 0.004, chance.uniform(0.1, 0.3)), at, len(made))
        made += _placed(_thud(chance, chance.uniform(150, 300), 0.03, 0.08), at + 0.01, len(made))
        at += chance.uniform(0.07, 0.25)
    return made


def slam(seed: int = 0) -> "Floats":
    """A door that falls shut, and the room behind it."""
    chance = _chance(seed)
    made = silence(1.0)
    made += _placed(_thud(chance, chance.uniform(50, 90), 0.15, 0.9), 0.05, len(made))
    made += _placed(_burst(chance, 0.08, 0.5), 0.05, len(made))
    made += _placed(_burst(chance, 0.02, 0.2), 0.2 + chance.uniform(0, 0.1), len(made))
    return made


def click(seed: int = 0) -> "Floats":
    """A switch or a mouse, twice."""
    chance = _chance(seed)
    made = silence(0.6)
    for at in (0.1, 0.1 + chance.uniform(0.08, 0.25)):
        made += _placed(_burst(chance, 0.003, 0.5), at, len(made))
    return made


def throat(seed: int = 0) -> "Floats":
    """Somebody clears the throat: pulses of a rough voice through formants, twice."""
    chance = _chance(seed)
    made = silence(1.2)
    for at, length in ((0.1, 0.25), (0.45, 0.4)):
        times = np.arange(round(length * AUDIO_RATE)) / AUDIO_RATE
        pitch = chance.uniform(70, 110) * (1 + 0.1 * np.cumsum(chance.standard_normal(len(times))) / 100)
        pulses = np.maximum(np.sin(2 * np.pi * np.cumsum(pitch) / AUDIO_RATE), 0) ** 8
        rough = (pulses + 0.5 * chance.standard_normal(len(times))) * np.sin(np.pi * times / length)
        made += _placed(_formants(rough, (500, 1100, 2400)), at, len(made))
    return loud(made, -24.0)


def _formants(source: "NDArray[np.float64]", peaks: tuple[float, ...]) -> "Floats":
    spectrum = np.fft.rfft(source)
    frequencies = np.fft.rfftfreq(len(source), 1 / AUDIO_RATE)
    shape = sum(1 / (1 + ((frequencies - peak) / (0.15 * peak)) ** 2) for peak in peaks)
    return np.fft.irfft(spectrum * shape, len(source)).astype(np.float32)


def _burst(chance: np.random.Generator, seconds: float, level: float) -> "Floats":
    times = np.arange(round(6 * seconds * AUDIO_RATE)) / AUDIO_RATE
    return (level * chance.standard_normal(len(times)) * np.exp(-times / seconds)).astype(np.float32) * 0.4


def _thud(chance: np.random.Generator, pitch: float, seconds: float, level: float) -> "Floats":
    times = np.arange(round(5 * seconds * AUDIO_RATE)) / AUDIO_RATE
    return (level * np.sin(2 * np.pi * pitch * times + chance.uniform(0, 6)) * np.exp(-times / seconds)).astype(
        np.float32
    )


def _placed(sound: "Floats", at: float, length: int) -> "Floats":
    made = np.zeros(length, np.float32)
    begin = round(at * AUDIO_RATE)
    sound = sound[: max(length - begin, 0)]
    made[begin : begin + len(sound)] = sound
    return made


@cache
def package(name: str) -> Path | None:
    """The folder of a Debian package's files, fetched once; None where it can't be had."""
    folder = cache_folder() / "bench" / "debian" / name
    if folder.is_dir():
        return folder
    if shutil.which("apt-get") is None:
        return None
    folder.parent.mkdir(parents=True, exist_ok=True)
    fetched = subprocess.run(["apt-get", "download", "-q", name], cwd=folder.parent, capture_output=True)
    files = sorted(folder.parent.glob(f"{name}_*.deb"))
    if fetched.returncode or not files:
        return None
    if hashlib.sha256(files[-1].read_bytes()).hexdigest() != PACKAGES[name]:
        print(f"{files[-1].name} is not the one whose hash this bench knows; it is left out.")
        return None
    subprocess.run(["dpkg-deb", "-x", str(files[-1]), str(folder)], check=True)
    return folder


def recordings(name: str, pattern: str, longest: float = 60.0, level: float = -24.0) -> "Iterator[tuple[str, Floats]]":
    """The recordings of a package whose path matches, each with its name."""
    import soundfile

    folder = package(name)
    for path in sorted(folder.rglob(pattern)) if folder is not None else ():
        audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
        yield f"{path.parent.name}/{path.stem}", loud(resampled(audio[: int(longest * rate), 0].copy(), rate), level)


def disturbances(speakers: Speakers) -> "list[tuple[str, Floats]]":
    """What must not interrupt a reply: people who only listen, voices without words, and things."""
    found = [
        (text, speakers.say(text, who)) for number, text in enumerate(lines("heard-agreement.txt"))
        for who in [(JOE, *ENGLISH)[number % 9]]
    ]  # fmt: skip
    for kind, count in (("PoisonCough", 7), ("Laugh", 5), ("Hmm", 2)):
        of = [each for voice in VOICES for each in recordings("hedgewars-data", f"voices/{voice}/{kind}.ogg")]
        found += of[:count]
    found += recordings("sonic-pi-samples", "perc_door.flac")
    found += recordings("sonic-pi-samples", "misc_burp.flac")
    made: list[tuple[str, Callable[[int], Floats]]] = [
        ("typing", lambda seed: typing(2.0, seed)), ("a door", slam), ("clicks", click), ("a throat", throat),
        ("music", lambda seed: music(3.0, -24.0, seed)),
    ]  # fmt: skip
    seed = 0
    while len(found) < 50:
        name, make = made[seed % len(made)]
        found.append((name, make(seed)))
        seed += 1
    return found
