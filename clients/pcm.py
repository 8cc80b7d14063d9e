"""Sound of any format as the server wants it: PCM, mono, 16 bits, with one sample rate."""

import numpy as np
import soxr
from numpy.typing import NDArray

MOST_CHANNELS = 8
RATES = range(4_000, 192_001)  # samples a second
WIDTHS = (1, 2, 3, 4)  # bytes a sample, signed, the least significant one first

Samples = NDArray[np.float32]  # (N,), mono, within [-1, 1]


class FormatError(Exception):
    """There is no such format of sound; the message says what is wrong."""


class Converter:
    """Converts a stream of sound, piece by piece; a piece may end amid a sample."""

    def __init__(self, rate: int, width: int, channels: int, *, out: int) -> None:
        """To ``out`` samples a second. Raises: FormatError."""
        if rate not in RATES:
            raise FormatError(f"A sample rate is {RATES.start} to {RATES.stop - 1}; it is {rate!r:.40}.")
        if width not in WIDTHS:
            raise FormatError(f"A sample has 1 to 4 bytes; it has {width!r:.40}.")
        if channels not in range(1, MOST_CHANNELS + 1):
            raise FormatError(f"Sound has 1 to {MOST_CHANNELS} channels; it has {channels!r:.40}.")
        self._width = width
        self._channels = channels
        self._rest = b""  # less than one sample of every channel
        self._resampler = None if rate == out else soxr.ResampleStream(rate, out, 1, dtype="float32")

    def convert(self, data: bytes) -> bytes:
        """The next piece."""
        return _pcm(self._resampled(self._mono(data), last=False))

    def end(self) -> bytes:
        """What the resampler still holds."""
        return _pcm(self._resampled(np.zeros(0, dtype=np.float32), last=True))

    def _mono(self, data: bytes) -> Samples:
        data = self._rest + data
        size = self._width * self._channels
        whole = len(data) - len(data) % size
        self._rest = data[whole:]
        samples = _floats(data[:whole], self._width).reshape(-1, self._channels)
        return samples.mean(axis=1, dtype=np.float32) if self._channels > 1 else samples[:, 0]

    def _resampled(self, samples: Samples, *, last: bool) -> Samples:
        if self._resampler is None:
            return samples
        resampled: Samples = self._resampler.resample_chunk(samples, last=last)
        return resampled


def _floats(data: bytes, width: int) -> Samples:
    if width == 3:
        padded = np.zeros((len(data) // 3, 4), dtype=np.uint8)
        padded[:, 1:] = np.frombuffer(data, dtype=np.uint8).reshape(-1, 3)
        data, width = padded.tobytes(), 4
    kind = {1: "<i1", 2: "<i2", 4: "<i4"}[width]
    return (np.frombuffer(data, dtype=kind) / float(1 << (8 * width - 1))).astype(np.float32)


def _pcm(samples: Samples) -> bytes:
    return bytes(np.clip(np.rint(samples * 32768.0), -32768, 32767).astype("<i2").tobytes())
