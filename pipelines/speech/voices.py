"""From what ``[speech]`` says to a voice that can speak."""

import threading
from collections.abc import Callable, Generator
from importlib.util import find_spec
from pathlib import Path

from pipelines.packages import PACKAGES, PackageError, Progress, install
from pipelines.speech.settings import SpeechSettings
from pipelines.speech.voice import Voice
from pipelines.threads import cores

NEEDED = {"piper": ("piper", "onnx", "soxr"), "coqui": ("TTS", "soxr")}  # modules
EXTRAS = {"piper": "voice", "coqui": "coqui"}
MOST_THREADS = 2  # of one sentence; more of them win little


def why_silent(settings: SpeechSettings) -> str:
    """What is missing on this machine to speak at all, and how to get it; "" when nothing is."""
    missing = [name for name in NEEDED[settings.engine] if find_spec(name) is None]
    if not missing:
        return ""
    extra = EXTRAS[settings.engine]
    return f"No voice is installed, there is no module {missing[0]}: pip install 'loquent[{extra}]'."


Load = Callable[[], Voice]


def prepare(settings: SpeechSettings, stop: threading.Event) -> Generator[Progress, None, Load]:
    """Put the voice on this machine's disk; returns what loads it, on the thread that calls it.

    Raises: PackageError when there is no such voice to be had, VoiceError when it is none; so may loading.
    """
    from pipelines.speech import piper
    from pipelines.speech.piper_parts import cut

    path = yield from _find(settings, stop)
    parts = yield from cut(path, stop)
    return lambda: piper.load(path, parts, settings, settings.threads or min(MOST_THREADS, cores()))


def _find(settings: SpeechSettings, stop: threading.Event) -> Generator[Progress, None, Path]:
    voice = settings.voice
    if voice in PACKAGES and PACKAGES[voice].role == "voice":
        return (yield from install(PACKAGES[voice], stop))
    path = Path(voice).expanduser()
    if not path.exists():
        known = ", ".join(name for name, package in PACKAGES.items() if package.role == "voice")
        raise PackageError(
            f"There is no voice {voice!r}: [speech] voice is the path of a Piper voice (an .onnx file), or {known}."
        )
    return path
