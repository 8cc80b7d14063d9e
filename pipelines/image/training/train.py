"""How the generator learns: both networks together, step by step, so that a stopped run goes on as if it had not been.

What is random in a step comes from the seed and the step's number alone. Everything else is in the checkpoint, which
is written beside its place and then moved there: a run that is killed at any point resumes from the last one.
"""

import copy
import hashlib
import json
import math
import threading
import time
from collections.abc import Generator as Steps
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipelines.downloads.progress import Progress, Stopped
from pipelines.embedding.model import EmbeddingModel
from pipelines.embedding.passages import Passage
from pipelines.image.captions import coloured
from pipelines.image.generator import Generator, Shape
from pipelines.image.noise import POSES, noise
from pipelines.image.training import losses
from pipelines.image.training.augment import Disturbance, posed
from pipelines.image.training.dataset import Dataset, Pair, PresetName
from pipelines.image.training.discriminator import Discriminator, Judging
from pipelines.image.training.measure import rank

FORMAT = 1
TOGETHER = 48  # captions embedded at once


class TrainingError(Exception):
    """Training can't go on; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Preset:
    """How long and how large; with the seed it decides everything."""

    name: PresetName
    steps: int
    batch: int = 32
    generator: Shape = field(default_factory=Shape)
    discriminator: Judging = field(default_factory=Judging)
    rate: float = 4e-4  # of learning, of both networks
    last_rate: float = 4e-5
    warm: int = 200  # steps in which the rate grows
    average: float = 0.998  # what a step keeps of the averaged generator
    recolours: float = 0.35  # share of recoloured pictures
    pixels: float = 20.0  # weight of L1 at the start
    features: float = 2.0  # weight of feature matching at the start
    supported: float = 0.8  # share of the steps after which both are gone
    captions: float = 0.3  # weight of the captions' loss
    seek: float = 0.5  # weight of mode seeking
    least_difference: float = 0.012  # between two drawings that differ in the free part of their noise
    seek_every: int = 4
    flat: float = 1.0  # weight of the gradient penalties at the start; a fifth of it at the end
    flat_every: int = 8
    wording: float = 0.01  # deviation of what is added to each number of a caption's embedding
    saved_every: int = 200


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("mood", steps=15_000),
        Preset(
            "full",
            steps=120_000,
            batch=64,
            generator=Shape(hidden=384, widths=(320, 256, 160, 64), last=32),
            discriminator=Judging(widths=(64, 128, 256, 384)),
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Wording:
    """Captions of every pair, embedded."""

    texts: tuple[str, ...]
    vectors: Tensor  # (captions, 384)
    of: tuple[tuple[int, ...], ...]  # rows for each pair of ``Dataset.trained_on``


def embed_captions(pictures: Dataset, model: EmbeddingModel, *, threads: int) -> Steps[Progress, None, Wording]:
    """Embed what every picture may be called."""
    texts: list[str] = []
    rows: list[tuple[int, ...]] = []
    for pair in pictures.trained_on:
        captions = wordings(pictures, pair)
        rows.append(tuple(range(len(texts), len(texts) + len(captions))))
        texts += captions
    vectors = yield from embedded(texts, model, threads=threads)
    return Wording(tuple(texts), vectors, tuple(rows))


def wordings(pictures: Dataset, pair: Pair) -> list[str]:
    """Captions of a pair, the plainest first."""
    concept = pictures.concepts[pair.concept]
    if pair.colour is not None:
        return [coloured(caption, pair.colour) for caption in concept.captions]
    known = list(concept.captions)
    return [*known, f"{concept.label}, {', '.join(concept.tags[:3])}", f"a picture of a {concept.label}"]


def embedded(texts: Sequence[str], model: EmbeddingModel, *, threads: int) -> Steps[Progress, None, Tensor]:
    """(N, 384) of the texts."""
    found: list[Any] = []
    for start in range(0, len(texts), TOGETHER):
        yield Progress("embedding captions", start, len(texts))
        some = [Passage(text) for text in texts[start : start + TOGETHER]]
        found += [each.whole for each in model.embed(some, threads=threads)]
    return torch.from_numpy(np.stack(found))


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's examples."""

    real: Tensor  # (B, 4, SIDE, SIDE), posed as the noise says
    text: Tensor  # (B, 384)
    style: Tensor  # (B,)
    noise: Tensor  # (B, noise)
    same: Tensor  # (B, B): which of them say the same in the same style


class Run:
    """A training run: the networks, their optimisers and the way so far."""

    def __init__(self, preset: Preset, pictures: Dataset, wording: Wording, *, seed: int, device: torch.device) -> None:
        self.preset, self.pictures, self.seed, self.device = preset, pictures, seed, device
        self.wording = wording
        self.pairs = pictures.trained_on
        self.plain = len(pictures.concepts)
        self._images = torch.from_numpy(np.stack([pictures.of(pair) for pair in self.pairs]))
        torch.manual_seed(seed)
        self.generator = Generator(preset.generator).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.discriminator = Discriminator(preset.discriminator).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for network in (self.generator, self.discriminator):
            network.reader.fit(wording.vectors.to(device))
        self.averaged = copy.deepcopy(self.generator).requires_grad_(False)
        self.optimisers = [
            torch.optim.Adam(network.parameters(), lr=preset.rate, betas=(0.0, 0.99), fused=True)
            for network in (self.generator, self.discriminator)
        ]
        self.step = 0
        self.history: list[dict[str, float]] = []
        self.untold: dict[str, list[float]] = {}  # losses of the steps since the last entry there

    @property
    def fingerprint(self) -> str:
        """What a checkpoint must have been made with to be gone on with."""
        said = [FORMAT, asdict(self.preset), self.seed, self.device.type, self.wording.texts]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    # One step.

    def advance(self) -> dict[str, float]:
        """Train both networks on one batch; returns the losses."""
        chance = torch.Generator().manual_seed((self.seed << 32) + self.step)
        twins = self.step % self.preset.seek_every == 0
        batch = self._batch(chance, twins=twins)
        disturb = Disturbance.draw(len(batch.real), batch.real.shape[-1], chance).to(self.device)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self._rate()
        with self._precision():
            drawn = self.generator(batch.text, batch.style, batch.noise)
        told = self._teach_discriminator(batch, drawn.detach(), disturb)
        told |= self._teach_generator(batch, drawn, disturb, twins=twins)
        self._average()
        self.step += 1
        return {name: float(value.detach()) for name, value in told.items()}

    def _teach_discriminator(self, batch: Batch, drawn: Tensor, disturb: Disturbance) -> dict[str, Tensor]:
        judge = self.discriminator
        real, fake = disturb(batch.real), disturb(drawn)
        with self._precision():
            features, _ = judge.look(torch.cat((real, fake)))
            captions = judge.read(batch.text, batch.style)
            of_real, of_fake = features.chunk(2)
            right, wrong = judge.judge(of_real, captions), judge.judge(of_fake, captions)
            adversarial = losses.pairing(right, wrong)
            fitting = losses.fitting(of_real, captions, batch.same)
        loss = adversarial + self.preset.captions * fitting
        told = {"discriminator": adversarial, "captions of real": fitting, "lead": (right - wrong).mean()}
        if self.step % self.preset.flat_every == 0:

            def whole(pictures: Tensor) -> Tensor:
                with self._precision():
                    judged: Tensor = judge.judge(judge.look(pictures)[0], judge.read(batch.text, batch.style))
                    return judged

            flat = losses.penalty(whole, real) + losses.penalty(whole, fake)
            weight = self.preset.flat * (1 - 0.8 * self._progress())
            loss = loss + weight / 2 * self.preset.flat_every * flat
            told["slope"] = flat
        self._descend(1, loss)
        return told

    def _teach_generator(self, batch: Batch, drawn: Tensor, disturb: Disturbance, *, twins: bool) -> dict[str, Tensor]:
        judge = self.discriminator.requires_grad_(False)
        support = self.support
        with self._precision():
            with torch.no_grad():
                of_real, real_grids = judge.look(disturb(batch.real))
                captions = judge.read(batch.text, batch.style)
                right = judge.judge(of_real, captions)
            of_fake, fake_grids = judge.look(disturb(drawn))
            adversarial = losses.pairing(judge.judge(of_fake, captions), right)
            fitting = losses.fitting(of_fake, captions, batch.same)
            matching = losses.matching(fake_grids, real_grids)
        pixels = (drawn - batch.real).abs().mean()
        loss = adversarial + self.preset.captions * fitting
        if support > 0:
            loss = loss + support * (self.preset.pixels * pixels + self.preset.features * matching)
        told = {
            "generator": adversarial,
            "captions of drawn": fitting,
            "pixels": pixels,
            "features": matching,
        }
        if twins:
            one, other = drawn.chunk(2)
            seek = losses.seeking(one, other, least=self.preset.least_difference)
            loss = loss + self.preset.seek * seek
            told["sameness"] = seek
        self._descend(0, loss)
        judge.requires_grad_(True)
        return told

    def _descend(self, which: int, loss: Tensor) -> None:
        optimiser = self.optimisers[which]
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([each for group in optimiser.param_groups for each in group["params"]], 10.0)
        optimiser.step()

    @torch.no_grad()
    def _average(self) -> None:
        keep = min(self.preset.average, (1 + self.step) / (10 + self.step))
        mine, theirs = list(self.averaged.parameters()), list(self.generator.parameters())
        torch._foreach_lerp_(mine, theirs, 1 - keep)

    def _batch(self, chance: torch.Generator, *, twins: bool) -> Batch:
        """Pictures, captions, styles and noise by chance; ``twins``: every caption twice, with noise that differs only
        where it is free."""
        count = self.preset.batch // 2 if twins else self.preset.batch
        others = len(self.pairs) - self.plain
        recoloured = torch.rand(count, generator=chance) < (self.preset.recolours if others else 0.0)
        which = torch.randint(self.plain, (count,), generator=chance)
        if others:
            which = torch.where(recoloured, torch.randint(others, (count,), generator=chance) + self.plain, which)
        style = torch.randint(self._images.shape[1], (count,), generator=chance)
        chosen = torch.rand(count, generator=chance)
        rows = [self._row(int(n), float(share)) for n, share in zip(which, chosen, strict=True)]
        text = self.wording.vectors[rows]
        text = text + torch.randn(text.shape, generator=chance) * self.preset.wording
        z = noise(count, self.preset.generator.noise, chance)
        if twins:
            again = noise(count, self.preset.generator.noise, chance)
            z = torch.cat((z, torch.cat((z[:, :POSES], again[:, POSES:]), 1)))
            which, style, text = which.repeat(2), style.repeat(2), text.repeat(2, 1)
        real = posed(self._images[which, style], z)
        same = (which[:, None] == which) & (style[:, None] == style)
        to = self.device
        return Batch(real.to(to, memory_format=torch.channels_last), text.to(to), style.to(to), z.to(to), same.to(to))

    def _row(self, pair: int, share: float) -> int:
        """One of the pair's captions: its label half of the time."""
        rows = self.wording.of[pair]
        return rows[0] if share < 0.5 else rows[int((share - 0.5) * 2 * len(rows))]

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=_bfloat16(self.device))

    def _progress(self) -> float:
        return self.step / self.preset.steps

    @property
    def support(self) -> float:
        """What is left of L1 and feature matching: from 1 down to 0."""
        return max(0.0, 0.5 + 0.5 * math.cos(math.pi * min(1.0, self._progress() / self.preset.supported)))

    def _rate(self) -> float:
        preset = self.preset
        cosine = 0.5 + 0.5 * math.cos(math.pi * self._progress())
        return min(1.0, (self.step + 1) / preset.warm) * (preset.last_rate + (preset.rate - preset.last_rate) * cosine)

    def judged(self) -> dict[str, float]:
        """How many of the known captions the averaged generator draws so that the true picture is the nearest."""
        text = self.wording.vectors[[self.wording.of[n][0] for n in range(self.plain)]]
        generator = self.averaged.to("cpu") if self.device.type != "cpu" else self.averaged
        top1, top10 = rank(generator, self.pictures, text, torch.Generator().manual_seed(self.seed))
        self.averaged.to(self.device)
        return {"top-1": top1, "top-10": top10}

    # Checkpoints.

    def save(self, path: Path) -> None:
        """Write everything that the next step depends on."""
        state = {
            "fingerprint": self.fingerprint,
            "step": self.step,
            "networks": [each.state_dict() for each in (self.generator, self.discriminator, self.averaged)],
            "optimisers": [each.state_dict() for each in self.optimisers],
            "history": self.history,
            "untold": self.untold,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        making = path.with_suffix(".making")
        torch.save(state, making)
        making.replace(path)

    def resume(self, path: Path) -> bool:
        """Go on from a checkpoint, if it is there. Raises: TrainingError when it is another run's."""
        if not path.is_file():
            return False
        try:
            state: Mapping[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
        except Exception as error:
            raise TrainingError(f"{path} can't be read ({type(error).__name__}); delete it to begin anew.") from None
        if state["fingerprint"] != self.fingerprint:
            raise TrainingError(f"{path} was made with another preset, seed or data; delete it to begin anew.")
        for network, kept in zip((self.generator, self.discriminator, self.averaged), state["networks"], strict=True):
            network.load_state_dict(kept)
        for optimiser, kept in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(kept)
        self.step, self.history = state["step"], list(state["history"])
        self.untold = {name: list(values) for name, values in state.get("untold", {}).items()}
        return True


def _bfloat16(device: torch.device) -> bool:
    return device.type == "cuda" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


LOGGED_EVERY = 50  # steps
JUDGED_EVERY = 1000  # steps


def train(run: Run, checkpoint: Path, stop: threading.Event) -> Steps[Progress, None, None]:
    """Train to the preset's last step, from the checkpoint where there is one.

    Raises: TrainingError, Stopped; what was done until then is in the checkpoint.
    """
    run.resume(checkpoint)
    preset = run.preset
    begun, first = time.monotonic(), run.step
    while run.step < preset.steps:
        if stop.is_set():
            run.save(checkpoint)
            raise Stopped
        for name, value in run.advance().items():
            run.untold.setdefault(name, []).append(value)
        if run.step % LOGGED_EVERY == 0 or run.step == preset.steps:
            means = {name: sum(values) / len(values) for name, values in run.untold.items()}
            if not all(math.isfinite(value) for value in means.values()):
                raise TrainingError(f"The losses ran away by step {run.step}; try another --seed.")
            if run.step % JUDGED_EVERY == 0 or run.step == preset.steps:
                means |= run.judged()
            run.history.append({"step": run.step, **means})
            run.untold.clear()
        if run.step % preset.saved_every == 0 or run.step == preset.steps:
            run.save(checkpoint)
        pace = (run.step - first) * preset.batch / (time.monotonic() - begun)
        yield Progress(f"training {preset.name}, {pace:.0f} images/s", run.step, preset.steps)
