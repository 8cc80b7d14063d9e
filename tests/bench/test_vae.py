"""What the bench of the VAE computes by itself: its copy of the training, its scores, its codes."""

import threading

import numpy as np
import pytest
import torch

from bench.novelty import scores
from bench.novelty.codes import codes, neighbours, recall
from bench.novelty.objectives import OBJECTIVES, Objective, fit
from bench.novelty.sets import Found, Task
from pipelines.anomaly.training import train
from pipelines.anomaly.training.train import Floats
from pipelines.downloads.progress import finish
from pipelines.embedding.passages import DIMENSIONS

EPOCHS = 14


def messages(count: int, seed: int) -> Floats:
    """Unit vectors near a plane of few dimensions."""
    plane = np.random.default_rng(0).standard_normal((8, DIMENSIONS))
    rng = np.random.default_rng(seed)
    found = rng.standard_normal((count, 8)) @ plane + 0.3 * rng.standard_normal((count, DIMENSIONS))
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), dtype=np.float32)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_the_default_objective_trains_the_shipped_vae_weight_for_weight() -> None:
    known = messages(600, 1)
    ours = fit(known, Objective(), seed=3, epochs=EPOCHS)
    shipped = finish(train.fit(known, train.SEMANTIC, threading.Event(), seed=3, what="semantic", epochs=EPOCHS)).head
    for name, value in shipped.vae.state_dict().items():
        assert torch.equal(ours.vae.state_dict()[name], value), name


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES.keys())
def test_every_objective_finds_what_lies_off_the_plane(objective: Objective) -> None:
    known = messages(600, 1)
    strange = np.random.default_rng(2).standard_normal((50, DIMENSIONS)).astype(np.float32) / DIMENSIONS**0.5
    task = Task(known, messages(300, 3), messages(300, 4), {"strange": strange}, known[:0], EPOCHS)
    head = fit(known, objective, seed=0, epochs=EPOCHS)
    for score in (scores.elbo(head), scores.reconstruction(head), scores.mahalanobis(known), scores.nearest(known)):
        found = task.measure(score)
        assert found.keys() == {"strange"}
        assert found["strange"].area > 0.9


def test_a_posterior_of_its_own_never_loses_likelihood() -> None:
    known = messages(600, 1)
    head = fit(known, Objective(), seed=0, epochs=EPOCHS)
    found = scores.regret(head)(messages(100, 5))
    assert found.shape == (100,)
    assert (found > -0.5).all()
    assert found.mean() > 0
    assert np.array_equal(found, scores.regret(head)(messages(100, 5)))


def test_false_alarms_and_the_area_are_counted_by_the_threshold_of_calm_messages() -> None:
    numbers = np.arange(1000, dtype=np.float32)
    task = Task(numbers, numbers, numbers[:500], {"high": numbers[500:] + 600}, numbers[:4], 1)
    found = task.measure(lambda inputs: inputs)
    assert found["high"] == Found(area=1.0, share=1.0)
    assert found["false alarms"].share == 0.0


def test_codes_have_their_sizes_and_long_ones_find_the_neighbours() -> None:
    known, asked = messages(400, 1), messages(30, 2)
    head = fit(known, Objective(), seed=0, epochs=EPOCHS)
    exact = neighbours(known, asked)
    found = {code.name: (code.size, recall(code, exact)) for code in codes(known, asked, head, 0)}
    assert [size for size, _ in found.values()] == [768, 384, 128, 32, 128, 32, 192, 48, 128, 32, 32, 48]
    assert found["embedding, float16, as examples are stored"][1].nearest > 0.98
    assert found["embedding, int8"][1].nearest > 0.97
    assert all(of.nearest <= of.candidates for _, of in found.values())
