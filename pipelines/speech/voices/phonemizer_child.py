"""The program that turns text into phonemes for a voice. It runs in a process of its own; see ``phonemizer``.

It stands alone and imports little, so that it starts within some ten milliseconds. Messages go both ways over the
socket that is its standard input: their length in four bytes, then JSON. The first one is the setup, each later one a
request.
"""

import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

Groups = list[list[str]]  # the phonemes of one text, by sentence
Reader = Callable[[str, str], Groups]  # from a text and an espeak-ng voice

LENGTH = 4  # bytes before each message
MOST_BYTES = 4 << 20  # of one message


def encoded(message: object) -> bytes:
    """A message as it is sent. Raises: ValueError when it is larger than ``MOST_BYTES``."""
    data = json.dumps(message).encode()
    if len(data) > MOST_BYTES:
        raise ValueError(f"a message of {len(data)} bytes")
    return len(data).to_bytes(LENGTH, "big") + data


def received(read: Callable[[int], bytes]) -> Any:
    """The next message. ``read(n)`` returns at most ``n`` bytes, and none at the end.

    Raises: EOFError at the end, ValueError when the message is malformed or larger than ``MOST_BYTES``.
    """
    length = int.from_bytes(_exactly(LENGTH, read), "big")
    if length > MOST_BYTES:
        raise ValueError(f"a message of {length} bytes")
    return json.loads(_exactly(length, read))


def _exactly(size: int, read: Callable[[int], bytes]) -> bytes:
    data = bytearray()
    while len(data) < size:
        more = read(size - len(data))
        if not more:
            raise EOFError
        data += more
    return bytes(data)


def bundled(setup: dict[str, Any]) -> Reader:
    """What reads text as the setup says: espeak-ng alone, or all that Piper does for one voice."""
    if setup["config"]:
        return _library(setup)
    # The package without its __init__, which imports onnxruntime.
    package = ModuleType("piper")
    package.__path__ = [setup["piper"]]
    sys.modules["piper"] = package
    from piper import espeakbridge
    from piper.phonemize_espeak import EspeakPhonemizer

    espeak = EspeakPhonemizer()
    clusters = {tuple(cluster) for cluster in setup["clusters"]} or None

    def read(text: str, voice: str) -> Groups:
        espeakbridge.get_phonemes(" ")  # after "a.." it would begin the next text, somebody else's, with a dot
        return espeak.phonemize(voice, text, vowel_clusters=clusters)

    espeak.phonemize("en", "")  # it has no voice before
    return read


def _library(setup: dict[str, Any]) -> Reader:
    sys.path.append(str(Path(setup["piper"]).parent))
    from piper import PiperConfig, PiperVoice

    config = PiperConfig.from_dict(json.loads(Path(setup["config"]).read_text(encoding="utf-8")))
    voice = PiperVoice(session=None, config=config)  # which is for sound only
    return lambda text, _: voice.phonemize(text)


def main(prepare: Callable[[dict[str, Any]], Reader] = bundled) -> None:
    """Serve until the other side closes the socket."""
    for ignored in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group; replies in flight still need phonemes
        signal.signal(ignored, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # it ends the process, also amid native code
    with suppress(EOFError):
        setup = _receive()
        signal.setitimer(signal.ITIMER_REAL, setup["patience"])
        _limit(setup["memory"])
        try:
            read = prepare(setup)
        except Exception as error:  # nobody's text is known yet, so its own words may be passed on
            _send({"error": str(error) or type(error).__name__})
            return
        _send({"ready": True})
        while True:
            signal.setitimer(signal.ITIMER_REAL, 0)
            request = _receive()
            # The other side ends a process that is late. This is for one whose other side was killed.
            signal.setitimer(signal.ITIMER_REAL, setup["deadline"] + 1)
            try:
                answer: dict[str, Any] = {"phonemes": [read(text, request["voice"]) for text in request["texts"]]}
            except MemoryError:  # the next request would fail as well
                return
            except Exception as error:  # its own words may hold the text
                answer = {"error": type(error).__name__}
            _send(answer)


def _limit(memory: int) -> None:
    """Give this process at most so many bytes, and let it leave no core file, which would hold what was to be said."""
    for kind, limit in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_DATA, memory)):
        with suppress(ValueError, OSError):  # systems that do not know this limit
            resource.setrlimit(kind, (limit, limit))


def _receive() -> Any:
    return received(lambda size: os.read(0, size))


def _send(message: object) -> None:
    data = encoded(message)
    while data:
        data = data[os.write(0, data) :]


if __name__ == "__main__":
    main()
