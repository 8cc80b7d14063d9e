"""Scores of embeddings, the higher, the less normal: of a VAE, of several, and of baselines that a VAE must beat."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from pipelines.anomaly.detector import Scaled
from pipelines.anomaly.training.train import Floats

Score = Callable[[Floats], Floats]  # (N, inputs) → (N,)

NEAREST = 5
DIRECTIONS = 32  # of the principal components
STEPS, STEP = 20, 0.05  # of Adam, in search of a message's own posterior
DRAWS = 4  # of the latent, the same ones at every step
TOGETHER = 2048  # rows that are scored in one batch


def elbo(head: Scaled) -> Score:
    """The negative ELBO, at the mean of the latent: what the detector uses."""
    return lambda inputs: np.add(*head.score(inputs))


def reconstruction(head: Scaled) -> Score:
    """The first term alone, without the divergence."""
    return lambda inputs: head.score(inputs)[0]


def divergence(head: Scaled) -> Score:
    """The second term alone."""
    return lambda inputs: head.score(inputs)[1]


def regret(head: Scaled) -> Score:
    """The likelihood regret of Xiao, Yan and Amit (2020): what the ELBO gains when the posterior's mean and
    log-variance are optimised for one message, instead of coming from the encoder."""

    def score(inputs: Floats) -> Floats:
        return np.concatenate([_gain(head, each) for each in _batches(inputs)])

    return score


def _gain(head: Scaled, inputs: Floats) -> Floats:
    vae = head.vae.requires_grad_(False)
    rows = torch.from_numpy(head.standard(inputs))
    draws = torch.randn(DRAWS, 1, vae.shape.latent, generator=torch.Generator().manual_seed(0))
    found = [each.clone().requires_grad_() for each in vae.encode(rows)]

    def negative_elbo() -> torch.Tensor:
        mean, log_variance = found
        latent = mean + draws * (log_variance / 2).exp()  # (DRAWS, N, latent)
        error, apart = vae.terms(rows, latent, mean, log_variance)
        return error.sum(-1).mean(0) + apart

    before = negative_elbo().detach()
    optimizer = torch.optim.Adam(found, lr=STEP)
    for _ in range(STEPS):
        optimizer.zero_grad()
        negative_elbo().sum().backward()
        optimizer.step()
    return (before - negative_elbo().detach()).numpy()


def standardised(score: Score, calm: Floats) -> Score:
    """In standard deviations of the scores of normal messages."""
    known = score(calm)
    middle, spread = float(known.mean()), float(known.std())
    return lambda inputs: (score(inputs) - middle) / spread


def together(scores: Sequence[Score], combine: Callable[[Floats], Floats]) -> Score:
    """Several scores as one; ``combine`` takes (scores, N) to (N,)."""
    return lambda inputs: combine(np.stack([score(inputs) for score in scores]))


def total(scored: Floats) -> Floats:
    """(scores, N) → (N,): their sum."""
    return np.asarray(scored.sum(0), dtype=np.float32)


def mean(scored: Floats) -> Floats:
    """(scores, N) → (N,): their mean."""
    return np.asarray(scored.mean(0), dtype=np.float32)


def least(scored: Floats) -> Floats:
    """(scores, N) → (N,): the least, which is high only where all are."""
    return np.asarray(scored.min(0), dtype=np.float32)


def nearest(known: Floats) -> Score:
    """The mean cosine distance to the nearest normal messages."""

    def score(inputs: Floats) -> Floats:
        found = [np.partition(each @ known.T, -NEAREST, axis=1)[:, -NEAREST:].mean(1) for each in _batches(inputs)]
        return np.asarray(1 - np.concatenate(found), dtype=np.float32)

    return score


def whitening(known: Floats) -> Callable[[Floats], Floats]:
    """(N, inputs) → (N, inputs), where known messages have no covariance, by the estimate of Ledoit and Wolf (2004)."""
    from sklearn.covariance import ledoit_wolf

    middle = known.mean(0)
    values, vectors = np.linalg.eigh(ledoit_wolf(known - middle, assume_centered=True)[0])
    turned = (vectors / np.sqrt(values)).astype(np.float32)
    return lambda inputs: np.asarray((inputs - middle) @ turned, dtype=np.float32)


def behind(change: Callable[[Floats], Floats], score: Score) -> Score:
    """The score of inputs that are changed first."""
    return lambda inputs: score(change(inputs))


def mahalanobis(known: Floats) -> Score:
    """The Mahalanobis distance to the mean, squared."""
    return behind(whitening(known), lambda inputs: np.square(inputs).sum(1))


def principal(known: Floats) -> Score:
    """What is left of a message, squared, without its part along the principal components."""
    middle = known.mean(0)
    directions = components(known - middle, DIRECTIONS)

    def score(inputs: Floats) -> Floats:
        apart = inputs - middle
        return np.asarray(np.square(apart - apart @ directions.T @ directions).sum(1), dtype=np.float32)

    return score


def components(centred: Floats, count: int) -> Floats:
    """(N, inputs) → (count, inputs): the directions in which they vary most."""
    vectors = np.linalg.eigh(centred.T @ centred)[1]  # in rising order
    return np.ascontiguousarray(vectors[:, ::-1][:, :count].T, dtype=np.float32)


def _batches(inputs: Floats) -> list[Floats]:
    return [inputs[start : start + TOGETHER] for start in range(0, len(inputs), TOGETHER)]
