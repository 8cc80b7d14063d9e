"""The server's sound for the telephone: PCM with 24,000 samples a second becomes G.711 µ-law with 8,000."""

from functools import cache

import numpy as np
import soxr
from numpy.typing import NDArray

PCM_RATE = 24_000  # samples a second, mono, 16 bits
RATE = 8_000  # samples a second, mono, 8 bits
BIAS, CLIP = 132, 32_635  # of G.711


@cache
def _table() -> NDArray[np.uint8]:
    """The code of each sample, by its 16 bits read without a sign: (65536,)."""
    samples = np.arange(1 << 16, dtype=np.uint16).view(np.int16).astype(np.int32)
    magnitude = np.minimum(np.abs(samples), CLIP) + BIAS
    exponent = np.floor(np.log2(magnitude)).astype(np.int32) - 7
    mantissa = magnitude >> exponent + 3 & 0x0F
    sign = np.where(samples < 0, 0x80, 0)
    table: NDArray[np.uint8] = (~(sign | exponent << 4 | mantissa) & 0xFF).astype(np.uint8)
    return table


def mu_law(samples: NDArray[np.int16]) -> bytes:
    """Samples of 16 bits as µ-law."""
    return bytes(_table()[samples.view(np.uint16)].tobytes())


class Encoder:
    """Converts the sound of one reply, piece by piece."""

    def __init__(self) -> None:
        self._resampler = soxr.ResampleStream(PCM_RATE, RATE, 1, dtype="int16")
        self._rest = b""

    def encode(self, pcm: bytes) -> bytes:
        """The next piece."""
        pcm = self._rest + pcm
        whole = len(pcm) - len(pcm) % 2
        self._rest = pcm[whole:]
        return self._resampled(np.frombuffer(pcm[:whole], dtype="<i2"), last=False)

    def end(self) -> bytes:
        """What the resampler still holds."""
        return self._resampled(np.zeros(0, dtype=np.int16), last=True)

    def _resampled(self, samples: NDArray[np.int16], *, last: bool) -> bytes:
        return mu_law(np.ascontiguousarray(self._resampler.resample_chunk(samples, last=last), dtype=np.int16))
