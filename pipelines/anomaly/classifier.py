"""Whether a text gives an assistant instructions that are not its user's to give: by what it means, and its wording."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from pipelines.anomaly.wording import Floats, Wording


@dataclass(frozen=True, slots=True)
class Classifier:
    """A few small networks with one hidden layer each, on the embedding, whose mean logit counts as much as that of a
    linear model of words and letters."""

    mean: Floats  # (DIMENSIONS,), of what they were trained on
    deviation: Floats  # (DIMENSIONS,), nowhere 0
    hidden: Floats  # (networks, hidden, DIMENSIONS)
    hidden_bias: Floats  # (networks, hidden)
    output: Floats  # (networks, hidden)
    output_bias: Floats  # (networks,)
    wording: Wording

    def score(self, embeddings: Floats, texts: Sequence[str]) -> Floats:
        """(N, DIMENSIONS) and the N texts that these are of → (N,)."""
        found: Floats = self.meaning(embeddings) + self.wording.score(texts)
        return found

    def meaning(self, embeddings: Floats) -> Floats:
        """What the networks alone say: (N, DIMENSIONS) → (N,)."""
        networks, size, width = self.hidden.shape
        inputs = torch.from_numpy(((embeddings - self.mean) / self.deviation).astype(np.float32))
        with torch.inference_mode():  # as one network, whose hidden layer is as wide as all of theirs
            hidden = torch.from_numpy(self.hidden).view(networks * size, width)
            inner = functional.gelu(functional.linear(inputs, hidden, torch.from_numpy(self.hidden_bias).view(-1)))
            total = inner @ torch.from_numpy(self.output).view(-1) + float(self.output_bias.sum())
        found: Floats = (total / networks).numpy()
        return found
