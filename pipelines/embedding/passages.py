"""What is embedded, and what comes of it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Span = tuple[int, int]  # of characters
DIMENSIONS = 384  # of every model that is here


@dataclass(frozen=True, slots=True)
class Passage:
    """A text to embed, and spans of it."""

    text: str
    windows: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True)
class Embedding:
    """A text's embedding, and those of its parts."""

    whole: Floats  # (DIMENSIONS,), of its first ``TOKENS`` tokens
    windows: Floats  # (N, DIMENSIONS): rows that lie beyond those, and the spans that hold at least three tokens
    tokens: int = 0  # of the whole
    rows: int = 1  # that the text took
    spans: tuple[Span, ...] = ()  # of the text, which the windows are of
