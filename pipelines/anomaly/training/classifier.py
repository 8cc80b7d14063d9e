"""How the classifiers of instructions are trained: small networks on embeddings, with hard negatives, and a linear
model of the wording.

Where one message in 150 may be a false alarm, it is the few harmless messages most like attacks that count. So a first
network looks for those among all that is harmless, and the others are trained on them as well ("hard negative mining",
as in Felzenszwalb et al. 2010).
"""

import threading
from collections.abc import Generator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional

from pipelines.anomaly.classifier import Classifier
from pipelines.anomaly.training.train import Excerpts, Floats
from pipelines.anomaly.wording import BUCKETS, Wording, features
from pipelines.downloads.progress import Progress, Stopped

HIDDEN = 64
NETWORKS = 5  # one alone finds two attacks in a hundred more or fewer, as it is seeded
EPOCHS = 12
BATCH = 512
DROPPED_INPUTS, DROPPED = 0.1, 0.2
HARD = 3000  # harmless texts that the others are trained on again
HARD_WEIGHT = 0.4
LEAST_DEVIATION = 1e-4
REGULARISED = 2.0  # the inverse strength of the wording's penalty


class Group(NamedTuple):
    """Texts of one sort."""

    excerpts: Excerpts
    wanted: bool  # whether they are what is looked for
    weight: float  # of all of them together


def fit(
    groups: Sequence[Group], harmless: Floats, stop: threading.Event, *, seed: int, what: str
) -> Generator[Progress, None, Classifier]:
    """Train it; the networks' hard negatives are found among ``harmless`` (M, DIMENSIONS). Raises: Stopped."""
    groups = [group for group in groups if len(group.excerpts.texts)]
    yield Progress(f"reading the wording for the {what}")
    wording = _wording(groups, stop)
    everything = np.concatenate([group.excerpts.embeddings for group in groups])
    mean = everything.mean(0).astype(np.float32)
    deviation = np.maximum(everything.std(0), LEAST_DEVIATION).astype(np.float32)
    yield Progress(f"training the {what}", 0, NETWORKS + 1)
    scout = _classifier([_network(groups, mean, deviation, stop, seed)], mean, deviation, wording)
    hard = harmless[np.argsort(-scout.meaning(harmless), kind="stable")[:HARD]]
    mined = Group(Excerpts(("",) * len(hard), hard), False, HARD_WEIGHT)
    trained = []
    for number in range(NETWORKS):
        yield Progress(f"training the {what}", number + 1, NETWORKS + 1)
        trained.append(_network([*groups, mined], mean, deviation, stop, seed * NETWORKS + number))
    return _classifier(trained, mean, deviation, wording)


def _wording(groups: Sequence[Group], stop: threading.Event) -> Wording:
    """A logistic regression on the features of every group's texts."""
    rows = []
    for text in (text for group in groups for text in group.excerpts.texts):
        if stop.is_set():
            raise Stopped
        rows.append(features(text))
    ends = np.cumsum([0, *(len(places) for places, _ in rows)])
    matrix = csr_matrix(
        (np.concatenate([amounts for _, amounts in rows]), np.concatenate([places for places, _ in rows]), ends),
        shape=(len(rows), 2 * BUCKETS),
    )
    counts = [len(group.excerpts.texts) for group in groups]
    labels = np.repeat([group.wanted for group in groups], counts)
    weights = np.repeat([group.weight * len(rows) / count for group, count in zip(groups, counts, strict=True)], counts)
    model = LogisticRegression(C=REGULARISED, solver="liblinear", max_iter=200, random_state=0)
    model.fit(matrix, labels, sample_weight=weights)
    return Wording(model.coef_[0].astype(np.float32), float(model.intercept_[0]))


def _network(
    groups: Sequence[Group], mean: Floats, deviation: Floats, stop: threading.Event, seed: int
) -> nn.Sequential:
    torch.manual_seed(seed)
    counts = [len(group.excerpts.texts) for group in groups]
    inputs = torch.from_numpy(np.concatenate([(group.excerpts.embeddings - mean) / deviation for group in groups]))
    labels = torch.cat([torch.full((n,), float(group.wanted)) for group, n in zip(groups, counts, strict=True)])
    each = torch.cat([torch.full((n,), group.weight / n) for group, n in zip(groups, counts, strict=True)])
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


def _classifier(networks: Sequence[nn.Sequential], mean: Floats, deviation: Floats, wording: Wording) -> Classifier:
    def stacked(name: str) -> Floats:
        return np.stack([network.state_dict()[name].numpy() for network in networks]).astype(np.float32)

    return Classifier(
        mean,
        deviation,
        stacked("1.weight"),
        stacked("1.bias"),
        stacked("4.weight")[:, 0],
        stacked("4.bias")[:, 0],
        wording,
    )
