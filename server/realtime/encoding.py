"""A reply's sound in the encoding that its client wants."""

import base64
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from pipelines.events import AUDIO_RATE
from pipelines.listening.audio import A_LAW, MU_LAW, RATES
from pipelines.listening.events import Encoding

if TYPE_CHECKING:
    from numpy.typing import NDArray


@cache
def _codes(encoding: Encoding) -> "NDArray[np.uint8]":
    """For each sample of 16 bits, counted from the least, the byte of G.711 that stands for the nearest one."""
    values = (MU_LAW if encoding == "audio/pcmu" else A_LAW).astype(np.int32)
    order = np.argsort(values)
    middles = (values[order][1:] + values[order][:-1]) / 2
    nearest = np.searchsorted(middles, np.arange(-32768, 32768))
    return order[nearest].astype(np.uint8)


class SoundEncoder:
    """Encodes the sound of one message, delta by delta; G.711 has 8,000 samples a second."""

    def __init__(self, encoding: Encoding) -> None:
        import soxr

        self._codes = _codes(encoding)
        self._resampler = soxr.ResampleStream(AUDIO_RATE, RATES[encoding], 1, dtype="int16", quality="HQ")

    def __call__(self, delta: str, *, last: bool = False) -> str:
        """More PCM as base64, encoded; some of it comes with the next delta, and the rest with the last one."""
        samples = np.frombuffer(base64.b64decode(delta), dtype="<i2")
        made = self._resampler.resample_chunk(samples, last=last)
        return base64.b64encode(self._codes[made.astype(np.int32) + 32768].tobytes()).decode()
