"""An encoder in one call of the kernels, against PyTorch's operators on the same weights."""

import threading

import numpy as np
import pytest
import torch
from torch import Tensor

from pipelines import kernels
from pipelines.embedding.encoder import Affine, LayerWeights, Norm, Table, Weights
from pipelines.embedding.matrices import Dense, Fours
from pipelines.embedding.packed import PackedEncoder, can_be_packed
from pipelines.embedding.plain import PlainEncoder
from pipelines.kernels import Form

pytestmark = pytest.mark.skipif(not kernels.forms(), reason="the processor has no products with packed weights")
WORDS, LONGEST = 100, 96


def weights(width: int, inner: int, *, layers: int = 2, fours: bool = False) -> Weights:
    """An encoder's, by chance; biases are large, so that one that is left out shows."""
    chance = torch.Generator().manual_seed(0)

    def numbers(*shape: int, size: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=chance) * size

    def affine(outputs: int, inputs: int) -> Affine:
        if not fours:
            return Affine(Dense(numbers(outputs, inputs, size=inputs**-0.5)), numbers(outputs))
        quants = torch.randint(16, (outputs, inputs // 32, 32), generator=chance).byte()
        scales = (numbers(outputs, inputs // 32, 1).abs() * 0.2 * inputs**-0.5).half().float()
        return Affine(Fours(quants, scales), numbers(outputs))

    def norm() -> Norm:
        return Norm(1 + numbers(width, size=0.2), numbers(width))

    return Weights(
        words=Table(numbers(WORDS, width)),
        places=numbers(LONGEST, width),
        first=norm(),
        layers=[
            LayerWeights(
                query=affine(width, width),
                key=affine(width, width),
                value=affine(width, width),
                mixed=affine(width, width),
                after_attention=norm(),
                up=affine(inner, width),
                down=affine(width, inner),
                after=norm(),
            )
            for _ in range(layers)
        ],
        heads=width // 32,
        epsilon=1e-12,
    )


def texts(*lengths: int) -> list[list[int]]:
    chance = np.random.default_rng(1)
    return [chance.integers(WORDS, size=length).tolist() for length in lengths]


@pytest.mark.parametrize("form", kernels.forms())
@pytest.mark.parametrize("fours", [False, True])
@pytest.mark.parametrize(("width", "inner"), [(64, 32), (384, 1536), (96, 224)])
def test_it_is_what_the_plain_operators_give(form: Form, width: int, inner: int, fours: bool) -> None:
    given = weights(width, inner, fours=fours)
    rows = texts(1, 2, 15, 16, 17, 33, LONGEST, 8)
    exact = PlainEncoder(given, torch.float32)(rows)
    found = PackedEncoder(given, form)(rows)
    assert [each.shape for each in found] == [(len(row), width) for row in rows]
    for one, other in zip(found, exact, strict=True):
        assert np.linalg.norm(one - other) < 0.02 * np.linalg.norm(other)


@pytest.mark.parametrize("left_out", range(3))
def test_every_bias_counts(left_out: int) -> None:
    """That of the keys alone changes nothing, whatever it is."""
    full, other = weights(64, 64, layers=1), weights(64, 64, layers=1)
    of = other.layers[0]
    changed = [of.query, of.key, of.value][left_out]
    changed.bias.zero_()
    one, two = (PackedEncoder(each, kernels.forms()[0])(texts(12))[0] for each in (full, other))
    assert (np.abs(one - two).max() > 0.01) == (left_out != 1)


def test_threads_beside_each_other_disturb_nothing() -> None:
    given, rows = weights(384, 1536), texts(40, 3, 20)
    encoders = [PackedEncoder(given, kernels.forms()[0]) for _ in range(4)]
    expected = encoders[0](rows)
    failures: list[int] = []

    def run(number: int) -> None:
        for threads in (1, 2) * 10:
            found = encoders[number](rows, threads=threads)
            if not all((one == other).all() for one, other in zip(found, expected, strict=True)):
                failures.append(number)

    running = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for each in running:
        each.start()
    for each in running:
        each.join()
    assert not failures


@pytest.mark.parametrize(
    ("words", "lengths"),
    [
        (torch.zeros(3, 64), [2]),
        (torch.zeros(3, 64), [3, 0]),
        (torch.zeros(3, 64), [4, -1]),
        (torch.zeros(LONGEST + 1, 64), [LONGEST + 1]),
        (torch.zeros(3, 32), [3]),
        (torch.zeros(3, 64).double(), [3]),
        (torch.zeros(3), [3]),
    ],
)
def test_words_that_do_not_fit_are_refused(words: Tensor, lengths: list[int]) -> None:
    encoder = PackedEncoder(weights(64, 64), kernels.forms()[0])
    with pytest.raises(RuntimeError, match=r"text|words"):
        encoder._encoder.run(words, lengths, True)


def test_weights_that_do_not_fit_are_refused() -> None:
    tensors = [torch.zeros(LONGEST, 64), torch.zeros(64), torch.zeros(64)]
    for given in (tensors, [*tensors, *[torch.zeros(64)] * 12], [each.double() for each in tensors]):
        with pytest.raises(RuntimeError, match=r"encoder|packed"):
            torch.classes.loquent.Encoder(given, int(kernels.forms()[0]), 1e-12)


def test_an_encoder_with_other_heads_is_not_packed() -> None:
    given = weights(64, 64)
    assert can_be_packed(given)
    assert not can_be_packed(Weights(given.words, given.places, given.first, given.layers, 4, given.epsilon))
    assert not can_be_packed(weights(64, 40))
