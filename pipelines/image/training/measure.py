"""How good a generator is: what it draws against the pictures it learned from."""

from collections.abc import Callable, Sequence
from collections.abc import Generator as Steps
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipelines.downloads.progress import Progress
from pipelines.image.captions import COLOURS
from pipelines.image.generator import CHANNELS, Generator
from pipelines.image.noise import DRAWN, POSES, noise
from pipelines.image.training.augment import Disturbance, posed
from pipelines.image.training.dataset import Dataset, Pair, apart, hue_of, shifted

TOGETHER = 64  # pictures drawn in one pass
HUE_WITHIN = 30  # degrees
SUBSET = 200  # of the pictures between which one estimate of KID is made
SUBSETS = 50
FEATURE_STEPS = 900  # of the feature network's training
FEATURES = 128
AGAIN = 4  # drawings of each caption and style, for the diversity

Draw = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Result:
    """The figures; distances are root mean squares over the pixels, on white, of a range from 0 to 1."""

    top1: float  # of drawings of known captions: nearest to the true picture among all concepts of the style
    top10: float
    top1_real: float  # the same of the real pictures, as the noise poses them: what can be had
    pairs: float  # of held-out colours and objects: nearest to the object, and the hue right
    pairs_object: float
    pairs_hue: float
    pair_count: int
    diversity: float  # between drawings of one caption and style, as a share of that between styles of real ones
    diversity_real: float  # the same of real pictures, as the noise poses them
    nearest: float  # median distance of a drawing from the nearest picture that was trained on
    nearest_real: float  # the same of real pictures, as the noise poses them
    nearest_held_out: float  # the same of drawings of held-out pairs
    kid: float  # kernel distance of drawings from real pictures, × 1000
    kid_deviation: float
    kid_floor: float  # the same of real pictures from real ones
    feature_accuracy: float  # of the network whose features it is measured in, on pictures as the noise poses them


def white(pictures: Tensor) -> Tensor:
    """(…, 4, H, W), colours multiplied by opacity → (…, 3, H, W) on white."""
    return pictures[..., :3, :, :] + 1 - pictures[..., 3:, :, :]


def drawn(generator: Generator, text: Tensor, style: Tensor, z: Tensor) -> Tensor:
    """(N, 384), (N,), (N, noise) → (N, 4, SIDE, SIDE)."""
    with torch.inference_mode():
        pieces = [
            generator(text[n : n + TOGETHER], style[n : n + TOGETHER], z[n : n + TOGETHER]).float()
            for n in range(0, len(text), TOGETHER)
        ]
        return torch.cat(pieces)


def rank(generator: Generator, pictures: Dataset, text: Tensor, chance: torch.Generator) -> tuple[float, float]:
    """Top-1 and top-10 share of the plain concepts in every style; text (concepts, 384)."""
    real = torch.from_numpy(pictures.pixels)  # (N, S, 4, H, W)
    drawings = _every_style(generator, real, text, chance)
    return _ranks(drawings, real)


def _every_style(generator: Generator, real: Tensor, text: Tensor, chance: torch.Generator) -> Tensor:
    """(N, S, 4, H, W): each of (N, 384) in each style."""
    count, styles = real.shape[:2]
    style = torch.arange(styles).repeat(count)
    z = noise(count * styles, generator.shape.noise, chance, spread=DRAWN)
    return _styled(drawn(generator, text.repeat_interleave(styles, 0), style, z), styles)


def _styled(pictures: Tensor, styles: int) -> Tensor:
    """(N · S, …) → (N, S, …)."""
    return pictures.reshape(-1, styles, *pictures.shape[1:])


def _ranks(pictures: Tensor, real: Tensor) -> tuple[float, float]:
    found = []
    for style in range(real.shape[1]):
        distances = torch.cdist(white(pictures[:, style]).flatten(1), white(real[:, style]).flatten(1))
        found.append((distances < distances.diagonal()[:, None]).sum(1))
    ranks = torch.cat(found)
    return float((ranks == 0).float().mean()), float((ranks < 10).float().mean())


def _posed(real: Tensor, size: int, chance: torch.Generator) -> Tensor:
    """(N, S, 4, H, W), each as some noise has it."""
    flat = real.flatten(0, 1)
    return _styled(posed(flat, noise(len(flat), size, chance, spread=DRAWN)), real.shape[1])


def _distance(one: Tensor, other: Tensor) -> Tensor:
    """Root mean square between pictures (N, …) on white → (N,)."""
    return (white(one) - white(other)).square().flatten(1).mean(1).sqrt()


def judge(
    generator: Generator, pictures: Dataset, plain: Tensor, held_out: Tensor, *, seed: int
) -> Steps[Progress, None, Result]:
    """Every figure; plain (concepts, 384) and held_out (held-out pairs in order, 384) are captions' embeddings."""
    chance = torch.Generator().manual_seed(seed)
    size = generator.shape.noise
    yield Progress("measuring: captions")
    real = torch.from_numpy(pictures.pixels)
    drawings = _every_style(generator, real, plain, chance)
    top1, top10 = _ranks(drawings, real)
    poses = _posed(real, size, chance)
    yield Progress("measuring: colours")
    pairs = held_out_pairs(pictures)
    of_pairs = _pair_drawings(generator, real.shape[1], held_out, chance)
    right_object, right_hue = _pairs(pictures, pairs, of_pairs)
    yield Progress("measuring: diversity")
    between = np.mean([_distance(real[:, a], real[:, b]).mean() for a in range(real.shape[1]) for b in range(a)])
    again = [_every_style(generator, real, plain, chance) for _ in range(AGAIN)]
    posed_again = [_posed(real, size, chance) for _ in range(AGAIN)]
    yield Progress("measuring: distance to what was trained on")
    known = torch.cat(
        [real.flatten(0, 1), *(torch.from_numpy(pictures.of(pair)) for pair in pictures.trained_on if pair.colour)]
    )
    features, accuracy = yield from train_features(pictures, seed=seed)
    of_real, of_more, of_drawn = (features(each.flatten(0, 1)) for each in (poses, posed_again[0], drawings))
    mean, deviation = of_real.mean(0), of_real.std(0).clamp(min=1e-6)
    of_real, of_more, of_drawn = ((each - mean) / deviation for each in (of_real, of_more, of_drawn))
    kid, kid_deviation = kernel_distance(of_real, of_drawn, chance)
    floor, _ = kernel_distance(of_real, of_more, chance)
    return Result(
        top1,
        top10,
        _ranks(poses, real)[0],
        float((right_object & right_hue).float().mean()) if pairs else 0.0,
        float(right_object.float().mean()) if pairs else 0.0,
        float(right_hue.float().mean()) if pairs else 0.0,
        len(pairs),
        _spread(again) / float(between),
        _spread(posed_again) / float(between),
        _nearest(drawings.flatten(0, 1), known),
        _nearest(poses.flatten(0, 1), known),
        _nearest(of_pairs.flatten(0, 1), known) if pairs else 0.0,
        kid,
        kid_deviation,
        floor,
        accuracy,
    )


def held_out_pairs(pictures: Dataset) -> list[Pair]:
    """The held-out pairs, in one order."""
    return [pair for pair in pictures.recoloured if pair in pictures.held_out]


def _pair_drawings(generator: Generator, styles: int, text: Tensor, chance: torch.Generator) -> Tensor:
    """(pairs, S, 4, H, W)."""
    if not len(text):
        return torch.zeros(0, styles, CHANNELS, 1, 1)
    z = noise(len(text) * styles, generator.shape.noise, chance, spread=DRAWN)
    style = torch.arange(styles).repeat(len(text))
    return _styled(drawn(generator, text.repeat_interleave(styles, 0), style, z), styles)


def _pairs(pictures: Dataset, pairs: Sequence[Pair], drawings: Tensor) -> tuple[Tensor, Tensor]:
    """Whether the nearest of all concepts, each in the colour that was asked for, is the object, and whether the hue is
    right; (pairs × styles,) each."""
    objects, hues = [], []
    for style in range(pictures.pixels.shape[1]):
        candidates = {colour: _all_in(pictures, style, target) for colour, target in COLOURS.items()}
        for pair, picture in zip(pairs, drawings[:, style], strict=True):
            assert pair.colour is not None  # noqa: S101 - held-out pairs have one
            distances = (candidates[pair.colour] - white(picture)).square().flatten(1).mean(1)
            objects.append(int(distances.argmin()) == pair.concept)
            hue = hue_of(picture.numpy(), least=0.3)
            hues.append(hue is not None and apart(hue, COLOURS[pair.colour]) <= HUE_WITHIN)
    return torch.tensor(objects), torch.tensor(hues)


def _all_in(pictures: Dataset, style: int, target: float) -> Tensor:
    """(concepts, 3, H, W): every concept in one colour, those without a colour as they are."""
    found = []
    for picture in pictures.pixels[:, style]:
        hue = hue_of(picture, least=0.3)
        found.append(picture if hue is None else shifted(picture, target - hue))
    return white(torch.from_numpy(np.stack(found)))


def _spread(again: Sequence[Tensor]) -> float:
    """Mean distance between drawings of the same."""
    flat = [each.flatten(0, 1) for each in again]
    distances = [_distance(flat[a], flat[b]).mean() for a in range(len(flat)) for b in range(a)]
    return float(torch.stack(distances).mean())


def _nearest(pictures: Tensor, known: Tensor) -> float:
    """Median distance from the nearest of the known ones."""
    distances = torch.cdist(white(pictures).flatten(1), white(known).flatten(1)).min(1).values
    return float(distances.median() / (3 * known.shape[-1] * known.shape[-2]) ** 0.5)


# The network in whose features KID is measured: it learns to tell the real pictures apart, and never sees a drawing.


class Features(nn.Module):
    """A small convolutional network that names the concept of a picture."""

    def __init__(self, concepts: int) -> None:
        super().__init__()
        widths = (CHANNELS - 1, 32, 64, 128, FEATURES)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(FEATURES * 16, FEATURES), nn.ReLU())
        self.names = nn.Linear(FEATURES, concepts)

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 4, H, W) → (B, concepts)."""
        named: Tensor = self.names(self.body(white(pictures)))
        return named

    @torch.inference_mode()
    def features(self, pictures: Tensor) -> Tensor:
        """(B, 4, H, W) → (B, FEATURES), computed in pieces."""
        self.eval()
        return torch.cat([self.body(white(piece)) for piece in pictures.split(TOGETHER)])


def train_features(pictures: Dataset, *, seed: int) -> Steps[Progress, None, tuple[Callable[[Tensor], Tensor], float]]:
    """Train the feature network on the real pictures, as noise and DiffAugment change them; also tells how many of
    them, in new poses, it names rightly."""
    torch.manual_seed(seed)
    chance = torch.Generator().manual_seed(seed + 1)
    real = torch.from_numpy(pictures.pixels)
    network = Features(len(real))
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for step in range(FEATURE_STEPS):
        if step % 20 == 0:
            yield Progress("measuring: training the feature network", step, FEATURE_STEPS)
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * (1 - step / FEATURE_STEPS)
        which = torch.randint(len(real), (64,), generator=chance)
        style = torch.randint(real.shape[1], (64,), generator=chance)
        batch = posed(real[which, style], noise(64, POSES, chance))
        batch = Disturbance.draw(64, batch.shape[-1], chance)(batch)
        loss = functional.cross_entropy(network.train()(batch), which)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    network.eval()
    with torch.inference_mode():
        new = _posed(real, POSES, chance).flatten(0, 1)
        named = torch.cat([network(piece).argmax(1) for piece in new.split(TOGETHER)])
    accuracy = float((named == torch.arange(len(real)).repeat_interleave(real.shape[1])).float().mean())
    return network.features, accuracy


def kernel_distance(one: Tensor, other: Tensor, chance: torch.Generator) -> tuple[float, float]:
    """KID × 1000 (Bińkowski et al. 2018): the unbiased squared MMD under a cubic kernel of features (N, D), mean and
    deviation over subsets."""
    found = []
    for _ in range(SUBSETS):
        a, b = (each[torch.randperm(len(each), generator=chance)[:SUBSET]].double() for each in (one, other))
        scale = a.shape[1]
        within = [((x @ x.T / scale + 1) ** 3).fill_diagonal_(0).sum() / (len(x) * (len(x) - 1)) for x in (a, b)]
        found.append(within[0] + within[1] - 2 * ((a @ b.T / scale + 1) ** 3).mean())
    values = torch.stack(found) * 1000
    return float(values.mean()), float(values.std())
