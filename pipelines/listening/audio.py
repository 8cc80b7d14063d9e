"""The audio of one session: what a client sends, as samples that are listened to, as far as they are still needed."""

from typing import TYPE_CHECKING

import numpy as np

from pipelines.events import AUDIO_RATE
from pipelines.listening.events import Encoding
from pipelines.listening.interface import RATE

if TYPE_CHECKING:
    from numpy.typing import NDArray

RATES: dict[Encoding, int] = {"audio/pcm": 24_000, "audio/pcmu": 8_000, "audio/pcma": 8_000}  # samples a second
WIDTHS: dict[Encoding, int] = {"audio/pcm": 2, "audio/pcmu": 1, "audio/pcma": 1}  # bytes a sample


def _mu_law() -> "NDArray[np.int16]":
    """The samples that the bytes of G.711 µ-law stand for (ITU-T G.711)."""
    code = ~np.arange(256, dtype=np.int32) & 0xFF
    magnitude = (((code & 0x0F) << 3) + 0x84) << ((code & 0x70) >> 4)
    return np.where(code & 0x80, 0x84 - magnitude, magnitude - 0x84).astype(np.int16)


def _a_law() -> "NDArray[np.int16]":
    """Likewise, of G.711 A-law."""
    code = np.arange(256, dtype=np.int32) ^ 0x55
    exponent = (code & 0x70) >> 4
    magnitude = np.where(
        exponent == 0, ((code & 0x0F) << 4) + 8, (((code & 0x0F) << 4) + 0x108) << np.maximum(exponent - 1, 0)
    )
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)


MU_LAW, A_LAW = _mu_law(), _a_law()


class Decoder:
    """Turns a client's bytes into samples of RATE; a stream with a state of its own."""

    def __init__(self, encoding: Encoding) -> None:
        import soxr

        self.encoding = encoding
        self._resampler = soxr.ResampleStream(RATES[encoding], RATE, 1, dtype="int16", quality="HQ")
        self._odd = b""  # half a sample

    def __call__(self, data: bytes) -> "NDArray[np.int16]":
        """The samples of ``data``, (N,); some come with the next ones."""
        if self.encoding == "audio/pcm":
            data = self._odd + data
            whole = len(data) // 2 * 2
            self._odd = data[whole:]
            given = np.frombuffer(data[:whole], dtype="<i2")
        else:
            given = (MU_LAW if self.encoding == "audio/pcmu" else A_LAW)[np.frombuffer(data, dtype=np.uint8)]
        made: NDArray[np.int16] = self._resampler.resample_chunk(given)
        return made


class Recording:
    """The last samples of a stream, addressed by their number since its beginning."""

    def __init__(self) -> None:
        self._bytes = bytearray()  # bounded by whoever forgets them
        self._begin = 0  # the number of its first sample

    @property
    def end(self) -> int:
        """The number behind the last sample."""
        return self._begin + len(self._bytes) // 2

    @property
    def begin(self) -> int:
        """The number of the first sample that is still there."""
        return self._begin

    def add(self, samples: "NDArray[np.int16]") -> None:
        """Append them."""
        self._bytes += samples.tobytes()

    def forget(self, before: int) -> None:
        """Drop the samples before this one."""
        if before > self._begin:
            del self._bytes[: 2 * (before - self._begin)]
            self._begin = before

    def pcm(self, begin: int, end: int) -> bytes:
        """The samples from ``begin`` to ``end``, as far as they are there, as 16 bits each, little-endian."""
        first, last = max(begin - self._begin, 0), max(end - self._begin, 0)
        return bytes(self._bytes[2 * first : 2 * last])

    def samples(self, begin: int, end: int) -> "NDArray[np.float32]":
        """Likewise, within [-1, 1]."""
        return floats(self.pcm(begin, end))


def at_audio_rate(pcm: bytes) -> bytes:
    """Samples of RATE as samples of AUDIO_RATE, of 16 bits each."""
    import soxr

    made: NDArray[np.int16] = soxr.resample(np.frombuffer(pcm, dtype="<i2"), RATE, AUDIO_RATE)
    return made.tobytes()


def floats(pcm: bytes) -> "NDArray[np.float32]":
    """Samples of 16 bits as (N,) within [-1, 1]."""
    return np.frombuffer(pcm, dtype="<i2").astype(np.float32) / np.float32(32768)


def level(samples: "NDArray[np.float32]") -> float:
    """How loud they are, in dB below full scale."""
    power = float(np.dot(samples, samples)) / max(len(samples), 1)
    return 10 * float(np.log10(power + 1e-10))
