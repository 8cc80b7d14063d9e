"""The program that listens for wake words. It runs in a process of its own; see ``waking``.

It stands alone and imports little. Standard input is PCM, mono, 16 bits, 16,000 samples a second; for each detection
it prints a line: the model's name and the samples that it has read, of which the detection needed the last. The first
line says that it is ready. The arguments are the names of the models.
"""

import os
import resource
import signal
import sys
from contextlib import suppress

RATE = 16_000  # samples a second
READ_BYTES = 3_200  # at a time: 100 ms
PAUSE_SECONDS = 2  # after a detection, in which the same word is not detected again
MEMORY = 512 << 20  # bytes
READY = "ready"


def main(names: list[str]) -> None:
    """Listen until the end of the input."""
    for ignored in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group; the input ends when it is time
        signal.signal(ignored, signal.SIG_IGN)
    for kind, limit in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_DATA, MEMORY)):
        with suppress(ValueError, OSError):  # systems that do not know this limit
            resource.setrlimit(kind, (limit, limit))
    from pymicro_wakeword import MicroWakeWord, MicroWakeWordFeatures, Model

    words = [MicroWakeWord.from_builtin(Model(name)) for name in names]
    features = MicroWakeWordFeatures()
    quiet = dict.fromkeys(names, 0)  # the sample from which a word may be detected again
    print(READY, flush=True)  # noqa: T201 - to the parent
    read = 0
    while data := os.read(0, READ_BYTES):
        read += len(data) // 2
        for feature in features.process_streaming(data):
            for word in words:
                if word.process_streaming(feature) and read >= quiet[word.id]:
                    quiet[word.id] = read + PAUSE_SECONDS * RATE
                    print(word.id, read, flush=True)  # noqa: T201 - to the parent


if __name__ == "__main__":
    main(sys.argv[1:])
