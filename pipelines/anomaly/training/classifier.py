"""How the classifiers of instructions are trained: small networks on embeddings, with hard negatives.

Where one message in 150 may be a false alarm, it is the few harmless messages most like attacks that count. So a first
network looks for those among all that is harmless, and the others are trained on them as well ("hard negative mining",
as in Felzenszwalb et al. 2010).
"""

import threading
from collections.abc import Generator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pipelines.anomaly.detector import Classifier, Floats
from pipelines.downloads.progress import Progress, Stopped

HIDDEN = 64
NETWORKS = 3
EPOCHS = 12
BATCH = 512
DROPPED_INPUTS, DROPPED = 0.1, 0.2
HARD = 3000  # harmless texts that the others are trained on again
HARD_WEIGHT = 0.4
LEAST_DEVIATION = 1e-4


class Group(NamedTuple):
    """Embeddings of texts of one sort."""

    embeddings: Floats  # (N, DIMENSIONS)
    wanted: bool  # whether they are what is looked for
    weight: float  # of all of them together


def fit(
    groups: Sequence[Group], harmless: Floats, stop: threading.Event, *, seed: int, what: str
) -> Generator[Progress, None, Classifier]:
    """Train the networks; the hard negatives are found among ``harmless`` (M, DIMENSIONS). Raises: Stopped."""
    groups = [group for group in groups if len(group.embeddings)]
    everything = np.concatenate([group.embeddings for group in groups])
    mean = everything.mean(0).astype(np.float32)
    deviation = np.maximum(everything.std(0), LEAST_DEVIATION).astype(np.float32)
    yield Progress(f"training the {what}", 0, NETWORKS + 1)
    scout = _classifier([_network(groups, mean, deviation, stop, seed)], mean, deviation)
    hard = harmless[np.argsort(-scout.score(harmless), kind="stable")[:HARD]]
    trained = []
    for number in range(NETWORKS):
        yield Progress(f"training the {what}", number + 1, NETWORKS + 1)
        trained.append(
            _network([*groups, Group(hard, False, HARD_WEIGHT)], mean, deviation, stop, seed * NETWORKS + number)
        )
    return _classifier(trained, mean, deviation)


def _network(
    groups: Sequence[Group], mean: Floats, deviation: Floats, stop: threading.Event, seed: int
) -> nn.Sequential:
    torch.manual_seed(seed)
    inputs = torch.from_numpy(np.concatenate([(group.embeddings - mean) / deviation for group in groups]))
    labels = torch.cat([torch.full((len(group.embeddings),), float(group.wanted)) for group in groups])
    each = torch.cat([torch.full((len(group.embeddings),), group.weight / len(group.embeddings)) for group in groups])
    each *= len(labels)
    network = nn.Sequential(
        nn.Dropout(DROPPED_INPUTS),
        nn.Linear(inputs.shape[1], HIDDEN),
        nn.GELU(),
        nn.Dropout(DROPPED),
        nn.Linear(HIDDEN, 1),
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-3)
    for _ in range(EPOCHS):
        if stop.is_set():
            raise Stopped
        for batch in torch.randperm(len(inputs)).split(BATCH):
            loss = functional.binary_cross_entropy_with_logits(
                network(inputs[batch])[:, 0], labels[batch], weight=each[batch]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


def _classifier(networks: Sequence[nn.Sequential], mean: Floats, deviation: Floats) -> Classifier:
    def stacked(name: str) -> Floats:
        return np.stack([network.state_dict()[name].numpy() for network in networks]).astype(np.float32)

    return Classifier(
        mean, deviation, stacked("1.weight"), stacked("1.bias"), stacked("4.weight")[:, 0], stacked("4.bias")[:, 0]
    )
