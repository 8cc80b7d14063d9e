"""What a generator can draw, and which of it a text means."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.image.captions import coloured

Floats = NDArray[np.float32]

OWN_COLOUR = 0.03  # by how much a caption that names the colour itself may be less alike than the object without it


@dataclass(frozen=True, slots=True)
class Words:
    """What a generator can draw, in words."""

    name: str
    styles: tuple[str, ...]
    concepts: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]  # label, all captions, colours
    about: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that can be drawn, with the row of its caption's embedding."""

    caption: str
    row: int


@dataclass(frozen=True, slots=True)
class Found:
    """What a text means, and how alike they are: the cosine of their embeddings."""

    entry: Entry
    similarity: float


class Repertoire:
    """Concepts with their captions; some of them in other colours too."""

    def __init__(
        self,
        labels: Sequence[str],
        colours: Sequence[Sequence[str]],
        owners: Sequence[int],
        captions: Floats,
        drawn: Floats,
    ) -> None:
        """``owners`` says whose each of ``captions`` (K, 384) is; ``drawn`` (N, 384) has each concept and its colours,
        as the generator reads them."""
        self.labels = tuple(labels)
        self.drawn = drawn
        self._owners = np.array(owners)
        self.captions = _unit(captions)
        self._rows: list[dict[str | None, int]] = []
        row = 0
        for own in colours:
            self._rows.append({name: row + n for n, name in enumerate((None, *own))})
            row += 1 + len(own)
        self._recoloured = np.array([len(own) > 0 for own in colours])[self._owners]

    @property
    def entries(self) -> list[Entry]:
        """Everything that can be drawn."""
        return [self._entry(n, colour) for n, rows in enumerate(self._rows) for colour in rows]

    def find(self, whole: Floats, plain: Floats | None = None, colour: str | None = None) -> Found:
        """The nearest caption: of a text's embedding (384,), and of its embedding without the colour that it names."""
        likenesses = self.captions @ whole
        best = int(likenesses.argmax())
        owner, similarity = int(self._owners[best]), float(likenesses[best])
        if plain is not None and colour is not None:
            of_objects = np.where(self._recoloured, self.captions @ plain, -1)
            other = int(of_objects.argmax())
            if of_objects[other] >= similarity - OWN_COLOUR and colour in self._rows[int(self._owners[other])]:
                return Found(self._entry(int(self._owners[other]), colour), float(of_objects[other]))
        return Found(self._entry(owner, None), similarity)

    def nearest(self, whole: Floats, count: int) -> list[str]:
        """The labels that are most alike, for who asked for something else."""
        order = self._owners[(self.captions @ whole).argsort()[::-1]]
        return list(dict.fromkeys(self.labels[int(owner)] for owner in order))[:count]

    def _entry(self, owner: int, colour: str | None) -> Entry:
        label = self.labels[owner]
        return Entry(label if colour is None else coloured(label, colour), self._rows[owner][colour])


def _unit(vectors: Floats) -> Floats:
    unit: Floats = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-9)).astype(np.float32)
    return unit
