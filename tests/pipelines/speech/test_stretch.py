"""Sound that is made longer or shorter: its length, its pitch, and that the pieces it comes in do not matter."""

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.speech.stretch import Stretcher, stretched

RATE = 22_050
PITCH = 137.0
TONE = (0.5 * np.sin(np.arange(3 * RATE) * (2 * np.pi * PITCH / RATE))).astype(np.float32)
FACTORS = (0.25, 0.4, 0.7, 1.5, 2.0, 4.0)


def made(factor: float, sound: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    pieces = [sound[at : at + size] for at in range(0, len(sound), size)]
    given = [piece for piece in stretched(pieces, RATE, factor) if piece is not None]
    return np.concatenate([np.zeros(0, dtype=np.float32), *given])


@pytest.mark.parametrize("factor", FACTORS)
def test_a_tone_keeps_its_pitch_and_its_loudness(factor: float) -> None:
    sound = made(factor, TONE, 4096)
    middle = sound[len(sound) // 4 : 3 * len(sound) // 4]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle)), 2**19))
    assert spectrum.argmax() * RATE / 2**19 == pytest.approx(PITCH, rel=0.005)
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(np.sqrt(np.mean(TONE**2)), rel=0.02)
    assert np.abs(np.diff(middle)).max() < 1.2 * np.abs(np.diff(TONE)).max(), "it has no seams"


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("samples", [0, 1, 100, 700, 5000, 22_051])
def test_the_length_is_exact_and_the_pieces_do_not_matter(factor: float, samples: int) -> None:
    noise = np.random.default_rng(3).standard_normal(samples).astype(np.float32)
    whole = Stretcher(RATE, factor)
    expected = np.concatenate([whole.feed(noise), whole.end()])
    assert len(expected) == round(samples * factor)
    for size in (1 if samples < 1000 else 97, 1024):
        if samples:
            assert np.array_equal(made(factor, noise, size), expected)


def test_it_comes_while_it_is_fed_and_what_others_wait_for_passes_through() -> None:
    pieces = [TONE[:8000], None, TONE[8000:16000], TONE[16000:24000]]
    given = list(stretched(pieces, RATE, 0.5))
    assert [piece is None for piece in given].count(True) == 1
    assert sum(piece is not None and len(piece) > 2000 for piece in given) >= 3
