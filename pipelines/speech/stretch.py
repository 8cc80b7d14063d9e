"""Longer or shorter sound of the same pitch, while it comes: WSOLA.

Frames are taken from the sound at one distance and laid over each other at another. Each is moved to where it best
continues the one before, so that the periods of a voice meet. W. Verhelst and M. Roelands, "An overlap-add technique
based on waveform similarity (WSOLA)", ICASSP 1993.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

FRAME_SECONDS = 0.03  # two periods of a low voice
MOVED_SECONDS = 0.012  # that a frame may be moved either way: a period of a low voice


def stretched(sound: Iterable[Floats | None], rate: int, factor: float) -> Iterator[Floats | None]:
    """The sound, ``factor`` times as long; ``None`` passes through."""
    if factor == 1.0:
        yield from sound
        return
    stretcher = Stretcher(rate, factor)
    for audio in sound:
        made = stretcher.feed(audio) if audio is not None else None
        if made is None or len(made):
            yield made
    if len(rest := stretcher.end()):
        yield rest


class Stretcher:
    """Makes one sound ``factor`` times as long."""

    def __init__(self, rate: int, factor: float) -> None:
        self._factor = factor
        self._hop = round(rate * FRAME_SECONDS / 2)  # samples of output of each frame
        self._moved = round(rate * MOVED_SECONDS)
        self._window = np.hanning(2 * self._hop + 1)[:-1].astype(np.float32)
        self._input: Floats = np.zeros(0, dtype=np.float32)
        self._begin = 0  # of ``_input``, in the whole sound
        self._frames = 0
        self._natural = 0  # where the frame before would go on
        self._tail: Floats = np.zeros(0, dtype=np.float32)  # the second half of the frame before, faded out
        self._given = 0
        self._taken = 0

    def feed(self, audio: Floats) -> Floats:
        """The next samples, (N,), as far as they are certain."""
        self._taken += len(audio)
        self._input = np.concatenate([self._input, audio])
        return self._made(self._begin + len(self._input))

    def end(self) -> Floats:
        """What is left; in all as many samples as were fed, times the factor."""
        whole = round(self._taken * self._factor)
        silence = np.zeros(3 * self._hop + 2 * self._moved + round(2 * self._hop / self._factor), dtype=np.float32)
        self._input = np.concatenate([self._input, silence])
        rest = self._made(self._begin + len(self._input))
        left = whole - (self._given - len(rest))
        return np.concatenate([rest, np.zeros(max(left - len(rest), 0), dtype=np.float32)])[:left]

    def _made(self, known: int) -> Floats:
        """The frames that lie within the first ``known`` samples."""
        made = []
        while (place := round(self._frames * self._hop / self._factor)) + self._moved + 2 * self._hop <= known:
            if known < self._natural + 2 * self._hop or known * self._factor < (self._frames + 1) * self._hop:
                break
            made.append(self._next(place))
        sound = np.concatenate(made) if made else np.zeros(0, dtype=np.float32)
        self._given += len(sound)
        return sound

    def _next(self, place: int) -> Floats:
        """The next frame, taken from around ``place``: the samples that it completes."""
        best = self._best(place) if self._frames else 0
        frame = self._at(best, 2 * self._hop)
        first, second = frame[: self._hop], frame[self._hop :]
        sound = first if not self._frames else self._tail + first * self._window[: self._hop]
        self._tail = second * self._window[self._hop :]
        self._natural = best + self._hop
        self._frames += 1
        self._forget(round(self._frames * self._hop / self._factor))
        return sound

    def _best(self, place: int) -> int:
        """Where around ``place`` the sound is most like what would follow the frame before."""
        expected = self._at(self._natural, self._hop)
        first = max(place - self._moved, self._begin)
        around = self._at(first, place + self._moved - first + self._hop)
        likeness = np.correlate(around, expected, "valid")
        power = np.concatenate([[0.0], np.cumsum(around.astype(np.float64) ** 2)])
        energy = power[self._hop :] - power[: -self._hop]
        return first + int(np.argmax(likeness / np.sqrt(energy + 1e-6)))

    def _at(self, begin: int, length: int) -> Floats:
        return self._input[begin - self._begin : begin - self._begin + length]

    def _forget(self, place: int) -> None:
        """What no later frame can be taken from."""
        least = max(min(place - self._moved, self._natural), self._begin)
        self._input = self._input[least - self._begin :]
        self._begin = least
