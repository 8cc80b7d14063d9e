"""Variants of the VAE's training. The default one is that of ``train.fit``, weight for weight; a test compares them."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipelines.anomaly.detector import Scaled
from pipelines.anomaly.training.train import LEAST_DEVIATION, SEMANTIC, Floats
from pipelines.anomaly.vae import VAE, Shape

BATCH = 256
PATIENCE = 6  # epochs without a gain


@dataclass(frozen=True, slots=True)
class Objective:
    """What is minimised: the reconstruction error and ``beta`` times the divergence."""

    beta: float = 1.0  # at the end
    anneal: int = 10  # epochs in which the divergence comes to count; 1: from the start
    noise: float = 0.0  # standard deviations of the noise on the inputs; what is reconstructed is clean
    free_bits: float = 0.0  # nats of a latent dimension's divergence, as the mean of a batch, that cost nothing
    latent: int = SEMANTIC[1]

    def loss(self, vae: VAE, inputs: Tensor, beta: float) -> Tensor:
        """(N, inputs) → its mean over the batch, in nats."""
        if not self.noise and not self.free_bits:
            return vae.negative_elbo(inputs, beta=beta).mean()
        noisy = inputs + self.noise * torch.randn_like(inputs) if self.noise else inputs
        mean, log_variance = vae.encode(noisy)
        latent = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        reconstruction, divergence = vae.terms(inputs, latent, mean, log_variance)
        if self.free_bits:
            each = (mean.square() + log_variance.exp() - log_variance - 1).mean(0) / 2  # (latent,)
            return reconstruction.sum(1).mean() + beta * each.clamp(min=self.free_bits).sum()
        return (reconstruction.sum(1) + beta * divergence).mean()


OBJECTIVES = {
    "as shipped, with its divergence: β to 1 in ten epochs": Objective(),
    "β = 1 from the start": Objective(anneal=1),
    "β to 0.5": Objective(beta=0.5),
    "β to 2": Objective(beta=2.0),
    "denoising, 0.3 deviations": Objective(noise=0.3),
    "denoising, 0.6 deviations": Objective(noise=0.6),
    "free bits, 0.25 nats a dimension": Objective(free_bits=0.25),
    "latent of 16": Objective(latent=16),
    "latent of 64": Objective(latent=64),
}


def fit(inputs: Floats, objective: Objective, *, seed: int, epochs: int = 60) -> Scaled:
    """(N, inputs) → a VAE of the epoch that was best on a tenth of the inputs that it was not trained on."""
    torch.manual_seed(seed)
    order = np.random.default_rng(seed).permutation(len(inputs))
    held, used = order[: max(len(inputs) // 10, 1)], order[max(len(inputs) // 10, 1) :]
    mean = inputs[used].mean(0).astype(np.float32)
    deviation = np.maximum(inputs[used].std(0), LEAST_DEVIATION).astype(np.float32)
    head = Scaled(VAE(Shape(inputs.shape[1], SEMANTIC[0], objective.latent)), mean, deviation)
    training = torch.from_numpy(head.standard(inputs[used]))
    optimizer = torch.optim.AdamW(head.vae.parameters(), lr=2e-3, weight_decay=1e-5)
    best, chosen, since = float("inf"), head.vae.state_dict(), 0
    for epoch in range(epochs):
        share = min(1.0, (epoch + 1) / objective.anneal)
        for batch in torch.randperm(len(training)).split(BATCH):
            loss = objective.loss(head.vae, training[batch], share * objective.beta)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if share < 1.0:
            continue
        reconstruction, divergence = head.score(inputs[held])
        held_out = float((reconstruction + objective.beta * divergence).mean())
        if held_out < best - 0.01:
            best, since = held_out, 0
            chosen = {name: value.clone() for name, value in head.vae.state_dict().items()}
        elif (since := since + 1) >= PATIENCE:
            break
    head.vae.load_state_dict(chosen)
    return Scaled(head.vae.eval(), mean, deviation)
