"""The sound card: plays a reply while it streams in, and stops at once for barge-in."""

import threading
from types import TracebackType
from typing import Any, Self

from loquent import LoquentError

RATE = 24_000  # samples a second, mono, 16 bits
BUFFER_SECONDS = 20.0  # of sound that may be buffered
LATENCY_SECONDS = 0.05  # of the card's own buffer


class Player:
    """Plays PCM on the default sound card, one reply after another."""

    def __init__(self) -> None:
        self._buffer = bytearray()  # at most BUFFER_SECONDS
        self._changed = threading.Condition()
        self._stream: Any = None
        self._played = 0  # samples of this reply
        self._stopped = False

    def __enter__(self) -> Self:
        """Open the card. Raises: LoquentError that says what is missing."""
        try:
            import sounddevice
        except ModuleNotFoundError:
            raise LoquentError(
                "To play sound install: pip install 'loquent[sound]'; or write a file with -o."
            ) from None
        except OSError:
            raise LoquentError(
                "To play sound install PortAudio (on Debian: apt install libportaudio2); or write a file with -o."
            ) from None
        try:
            self._stream = sounddevice.RawOutputStream(
                samplerate=RATE, channels=1, dtype="int16", latency=LATENCY_SECONDS, callback=self._fill
            )
            self._stream.start()
        except sounddevice.PortAudioError as error:
            raise LoquentError(f"There is no sound card to play on ({error}); write a file with -o instead.") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self.stop()
        self._stream.stop()  # plays what the card has taken
        self._stream.close()

    def begin(self) -> None:
        """Start a new reply."""
        with self._changed:
            self._buffer.clear()
            self._played, self._stopped = 0, False

    def play(self, pcm: bytes) -> None:
        """Buffer this for playing; block while the buffer is full. After ``stop`` it is dropped."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or len(self._buffer) < BUFFER_SECONDS * RATE * 2)
            if not self._stopped:
                self._buffer += pcm

    def drain(self) -> None:
        """Wait until everything is played."""
        with self._changed:
            self._changed.wait_for(lambda: not self._buffer)

    def stop(self) -> None:
        """Stop playing, until the next reply."""
        with self._changed:
            self._stopped = True
            self._buffer.clear()
            self._changed.notify_all()

    @property
    def heard(self) -> int | None:
        """Milliseconds of this reply that were played before it was stopped; ``None`` when it was not."""
        return self._played * 1000 // RATE if self._stopped else None

    def _fill(self, out: Any, frames: int, time: Any, status: Any) -> None:
        """Fill the card's buffer; called on PortAudio's thread."""
        with self._changed:
            piece = bytes(self._buffer[: 2 * frames])
            del self._buffer[: 2 * frames]
            self._played += len(piece) // 2
            self._changed.notify_all()
        out[: len(piece)] = piece
        out[len(piece) :] = bytes(2 * frames - len(piece))
