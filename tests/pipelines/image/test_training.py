"""How the generator learns: eight pictures by heart, the same from the same seed, and on from where it was killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.downloads.progress import Stopped, finish
from pipelines.embedding import minilm as english
from pipelines.image.generator import SIDE
from pipelines.image.noise import POSES, noise
from pipelines.image.training import losses, measure
from pipelines.image.training.augment import Disturbance, posed
from pipelines.image.training.train import Run, TrainingError, Wording, embed_captions, train
from tests import tiny_generator
from tests.support import ROOT

CPU = torch.device("cpu")


def wording(count: int = 8) -> Wording:
    """Captions without a model: far apart."""
    vectors = torch.nn.functional.normalize(torch.randn(count, 384, generator=torch.Generator().manual_seed(5)))
    return Wording(tuple(map(str, range(count))), vectors, tuple((n,) for n in range(count)))


def fresh(steps: int, *, seed: int = 0) -> Run:
    return Run(tiny_generator.preset(steps), tiny_generator.pictures(), wording(), seed=seed, device=CPU)


def numbers(run: Run) -> torch.Tensor:
    """Everything that was learned."""
    networks = (run.generator, run.discriminator, run.averaged)
    return torch.cat([value.flatten() for each in networks for value in each.state_dict().values()])


@pytest.mark.timeout(900)  # half a minute of two idle cores, and other processes may have them
def test_eight_pictures_are_learned_by_heart(minilm: Path) -> None:
    torch.set_num_threads(2)
    pictures = tiny_generator.pictures()
    captions = finish(embed_captions(pictures, english.load(minilm, exact=True), threads=2))
    preset = tiny_generator.preset(300, batch=16)
    run = Run(preset, pictures, captions, seed=0, device=CPU)
    begun = [run.advance() for _ in range(5)]
    while run.step < preset.steps:
        last = run.advance()
    assert last["pixels"] < begun[0]["pixels"] / 3
    plain = captions.vectors[[rows[0] for rows in captions.of]]
    top1, top10 = measure.rank(run.averaged, pictures, plain, torch.Generator().manual_seed(1))
    assert top1 >= 23 / 24, "each of 8 pictures in 3 styles is recognised"
    assert top10 == 1


def test_the_same_seed_learns_the_same_and_another_does_not() -> None:
    torch.set_num_threads(1)
    runs = [fresh(10), fresh(10), fresh(10, seed=1)]
    for run in runs:
        for _ in range(5):
            run.advance()
    assert torch.equal(numbers(runs[0]), numbers(runs[1]))
    assert not torch.equal(numbers(runs[0]), numbers(runs[2]))


def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    whole, first, second = fresh(9), fresh(9), fresh(9)
    finish(train(whole, tmp_path / "whole.pt", threading.Event()))
    stop = threading.Event()
    steps = train(first, tmp_path / "parts.pt", stop)
    for _ in range(5):
        next(steps)
    stop.set()
    with pytest.raises(Stopped):
        finish(steps)
    assert first.step == 5
    finish(train(second, tmp_path / "parts.pt", threading.Event()))
    assert second.step == 9
    assert torch.equal(numbers(whole), numbers(second))
    assert second.history == whole.history


KILLED = """
import sys, threading, torch
from pathlib import Path
from tests.pipelines.image.test_training import fresh
from pipelines.image.training.train import train
torch.set_num_threads(1)
for step in train(fresh(100000), Path(sys.argv[1]), threading.Event()):
    print(step.done, flush=True)
"""


def test_a_run_that_is_killed_amid_a_step_resumes_from_its_last_checkpoint(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    path = tmp_path / "killed.pt"
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 7:
                break
        time.sleep(0.05)  # into whatever it does then
        os.kill(process.pid, signal.SIGKILL)
    resumed = fresh(100000)
    assert resumed.resume(path)
    assert resumed.step >= 6
    again = fresh(100000)
    while again.step < resumed.step + 1:
        again.advance()
    resumed.advance()
    assert torch.equal(numbers(resumed), numbers(again))


def test_a_checkpoint_of_another_run_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.pt"
    fresh(10).save(path)
    assert fresh(10).resume(path)
    assert not fresh(10).resume(tmp_path / "none.pt")
    with pytest.raises(TrainingError, match="another preset, seed or data"):
        fresh(10, seed=1).resume(path)
    with pytest.raises(TrainingError, match="another preset, seed or data"):
        fresh(11).resume(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(TrainingError, match="can't be read"):
        fresh(10).resume(path)


def test_losses_that_run_away_end_the_training(tmp_path: Path) -> None:
    run = fresh(100)
    with torch.no_grad():
        run.generator.paint.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match="ran away"):
        finish(train(run, tmp_path / "x.pt", threading.Event()))


def test_l1_and_matching_fade_so_that_the_end_is_adversarial() -> None:
    run = fresh(100)
    seen = []
    for step in (0, 20, 40, 60, 80, 99):
        run.step = step
        seen.append(run.support)
    assert seen[0] == 1
    assert seen == sorted(seen, reverse=True)
    assert seen[-2:] == [0, 0]


def test_the_pairing_loss_is_small_when_the_real_is_judged_better() -> None:
    better, worse = torch.tensor([3.0, 4.0]), torch.tensor([-3.0, -2.0])
    assert losses.pairing(better, worse) < 0.01
    assert losses.pairing(worse, better) > 5
    assert losses.pairing(better, better) == pytest.approx(np.log(2))


def test_the_penalty_is_the_squared_slope() -> None:
    weights = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(0))
    pictures = torch.rand(3, 4, 8, 8)
    slope = losses.penalty(lambda given: (given * weights).sum((1, 2, 3)), pictures)
    assert slope.item() == pytest.approx(weights.square().sum().item(), rel=1e-5)


def test_captions_that_say_the_same_are_no_wrong_ones_of_each_other() -> None:
    features = captions = torch.eye(3) * 20
    captions = torch.cat((captions[:2], captions[:1]))  # the third says what the first says
    features = captions.clone()
    apart = torch.eye(3, dtype=torch.bool)
    same = apart.clone()
    same[0, 2] = same[2, 0] = True
    assert losses.fitting(features, captions, same) < 0.01
    assert losses.fitting(features, captions, apart) > 0.3


def test_seeking_modes_ends_where_drawings_differ_enough() -> None:
    one = torch.zeros(2, 4, 8, 8)
    assert losses.seeking(one, one, least=0.1) == 1
    assert losses.seeking(one, one + 0.05, least=0.1) == pytest.approx(0.5)
    assert losses.seeking(one, one + 0.2, least=0.1) == 0


def test_noise_of_zero_poses_nothing_and_other_noise_moves_a_little() -> None:
    pictures = torch.from_numpy(tiny_generator.pictures().pixels[:, 0])
    still = posed(pictures, torch.zeros(8, POSES))
    assert torch.allclose(still, pictures, atol=1e-4)
    moved = posed(pictures, noise(8, POSES, torch.Generator().manual_seed(0)))
    change = (moved - pictures).abs().mean((1, 2, 3))
    assert (change > 1e-3).all()
    assert (change < 0.1).all()
    assert (moved[:, :3] <= moved[:, 3:] + 1e-6).all(), "no colour is more than its opacity"


def test_a_disturbance_is_the_same_for_what_is_compared_and_lets_a_gradient_pass() -> None:
    pictures = torch.rand(6, 4, SIDE, SIDE, requires_grad=True)
    disturb = Disturbance.draw(6, SIDE, torch.Generator().manual_seed(0))
    assert torch.equal(disturb(pictures), disturb(pictures))
    disturb(pictures).sum().backward()
    assert pictures.grad is not None
    assert 0.3 < (pictures.grad != 0).float().mean() < 1, "some of each picture is cut out or moved out"


def test_the_measures_find_that_real_pictures_are_real() -> None:
    pictures = tiny_generator.pictures(colours=True)
    assert pictures.held_out
    assert not pictures.held_out & set(pictures.trained_on)
    pairs = measure.held_out_pairs(pictures)
    shown = torch.stack([torch.from_numpy(pictures.of(pair)) for pair in pairs])
    right_object, right_hue = measure._pairs(pictures, pairs, shown)
    assert right_object.all()
    assert right_hue.all()
    wrong_object, wrong_hue = measure._pairs(pictures, pairs, torch.roll(shown, 1, 0).flip(-1).roll(9, -1))
    assert not (wrong_object & wrong_hue).all()


def test_the_kernel_distance_is_zero_between_the_same_and_grows_with_the_difference() -> None:
    chance = torch.Generator().manual_seed(0)
    one, same, other = (torch.randn(400, 16, generator=chance) for _ in range(3))
    near, _ = measure.kernel_distance(one, same, chance)
    far, _ = measure.kernel_distance(one, other + 1, chance)
    assert abs(near) < 50
    assert far > 500
