"""µ-law, as the server reads it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from clients.telephony.mulaw import Encoder, mu_law
from pipelines.listening.audio import MU_LAW


def test_every_code_is_the_nearest_to_its_own_value() -> None:
    codes = np.frombuffer(mu_law(MU_LAW.astype(np.int16)), dtype=np.uint8)
    assert np.array_equal(MU_LAW[codes], MU_LAW)


def test_every_sample_is_as_near_as_mu_law_comes() -> None:
    samples = np.arange(-32768, 32768, dtype=np.int32).astype(np.int16)
    heard = MU_LAW[np.frombuffer(mu_law(samples), dtype=np.uint8)].astype(np.int32)
    error = np.abs(heard - samples.astype(np.int32))
    loudness = np.abs(samples.astype(np.int32))
    assert (error <= loudness / 30 + 4)[loudness < 32_000].all()
    assert error.max() <= 1024  # where µ-law has no louder code


def values(sound: bytes) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    return MU_LAW[np.frombuffer(sound, dtype=np.uint8)].astype(float)


@given(st.lists(st.integers(1, 4_001), min_size=1, max_size=20))
def test_however_sound_is_cut_it_is_the_same(sizes: list[int]) -> None:
    times = np.arange(24_000) / 24_000
    pcm = (12_000 * np.sin(2 * np.pi * 300 * times)).astype("<i2").tobytes()
    whole, cut = Encoder(), Encoder()
    expected = whole.encode(pcm) + whole.end()
    parts, begin = [], 0
    for size in sizes:
        parts.append(cut.encode(pcm[begin : begin + size]))
        begin += size
    heard = values(b"".join([*parts, cut.encode(pcm[begin:]), cut.end()]))
    assert np.abs(heard - values(expected)).max() <= 512  # a rounding may take the next code
    assert abs(len(heard) - 8_000) <= 2
    assert np.abs(heard[1_000:7_000] - 12_000 * np.sin(2 * np.pi * 300 * np.arange(1_000, 7_000) / 8_000)).max() < 600
