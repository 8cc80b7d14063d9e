"""The variational autoencoder behind two of the heads: what it reconstructs badly is unlike what it was trained on.

Kingma and Welling, "Auto-Encoding Variational Bayes" (2013). Encoder and decoder have one hidden layer each; the
decoder is a Gaussian with one learned variance a dimension, so that dimensions which vary anyway count for less.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a VAE."""

    inputs: int
    hidden: int
    latent: int


class VAE(nn.Module):
    """``inputs`` → ``hidden`` → ``latent`` → ``hidden`` → ``inputs``."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.encoder = nn.Sequential(nn.Linear(shape.inputs, shape.hidden), nn.GELU())
        self.mean = nn.Linear(shape.hidden, shape.latent)
        self.log_variance = nn.Linear(shape.hidden, shape.latent)
        self.decoder = nn.Sequential(
            nn.Linear(shape.latent, shape.hidden), nn.GELU(), nn.Linear(shape.hidden, shape.inputs)
        )
        self.noise = nn.Parameter(torch.zeros(shape.inputs))  # log-variance of the decoder

    def encode(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """(N, inputs) → mean and log-variance of the latent, (N, latent) each."""
        hidden = self.encoder(inputs)
        return self.mean(hidden), self.log_variance(hidden).clamp(-8, 4)

    def negative_elbo(self, inputs: Tensor, *, beta: float = 1.0) -> Tensor:
        """(N, inputs) → (N,), in nats; one sample of the latent, ``beta`` times the divergence."""
        mean, log_variance = self.encode(inputs)
        latent = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        reconstruction, divergence = self.terms(inputs, latent, mean, log_variance)
        return reconstruction.sum(1) + beta * divergence

    @torch.inference_mode()
    def score(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """(N, inputs) → reconstruction error of each dimension (N, inputs), divergence (N,); nats, without chance."""
        mean, log_variance = self.encode(inputs)
        return self.terms(inputs, mean, mean, log_variance)

    def terms(self, inputs: Tensor, latent: Tensor, mean: Tensor, log_variance: Tensor) -> tuple[Tensor, Tensor]:
        """The two terms of the negative ELBO for a latent (N, latent) of the posterior with this mean and log-variance:
        reconstruction error of each dimension (N, inputs), divergence (N,); nats."""
        noise = self.noise.clamp(-6, 4)
        error = (inputs - self.decoder(latent)).square() / noise.exp()
        reconstruction = (error + noise + math.log(2 * math.pi)) / 2
        divergence = (mean.square() + log_variance.exp() - log_variance - 1).sum(1) / 2
        return reconstruction, divergence
