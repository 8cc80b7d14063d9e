"""What a detector was measured at."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

ALIKE = 0.97  # cosine to a message that was trained on, from which on a message is not unseen


@dataclass(frozen=True, slots=True)
class Row:
    """One measured share: what of, how many of how many, and what must be reached."""

    measure: str
    hits: int
    of: int
    least: float | None = None
    most: float | None = None

    @property
    def share(self) -> float:
        """Of all that were tried."""
        return self.hits / self.of if self.of else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's, for 95 %."""
        if not self.of:
            return 0.0, 1.0
        z, n, p = 1.96, self.of, self.share
        middle, spread = p + z * z / (2 * n), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
        return max((middle - spread) / (1 + z * z / n), 0.0), (middle + spread) / (1 + z * z / n)

    @property
    def met(self) -> bool:
        """Whether the goal is reached."""
        return (self.least is None or self.share >= self.least) and (self.most is None or self.share <= self.most)


@dataclass(frozen=True, slots=True)
class Area:
    """An area under the ROC curve: the VAE's, and its baseline's, the distance to the five nearest normal messages."""

    measure: str
    vae: float
    nearest: float
    least: float | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What the detector was measured at."""

    rows: tuple[Row, ...]
    areas: tuple[Area, ...]
    latent: Floats  # (N, 2): latent means of the semantic head, projected, for a picture
    labels: tuple[str, ...]
    curves: "dict[str, tuple[Floats, Floats]]"  # of each class: false and true positives of all heads together
