"""The seam between the image stage and what draws for it: a thread of this process, or replicas elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pipelines.capacity import Capacity
from pipelines.events import StageError
from pipelines.image.repertoire import Repertoire, Words


@dataclass(frozen=True, slots=True)
class Order:
    """A picture to draw."""

    row: int  # of the caption, in the repertoire
    caption: str
    style: int
    seed: int
    size: int  # pixels of a side
    opaque: bool = False


class Drawn(Protocol):
    """What a generator can draw."""

    @property
    def words(self) -> Words:
        """In words."""

    @property
    def repertoire(self) -> Repertoire:
        """By what texts mean."""


class Paints(Protocol):
    """Draws for many at once: for replies first, then for direct requests."""

    capacity: Capacity  # a picture takes as many permits as it weighs

    @property
    def drawer(self) -> Drawn | None:
        """What can be drawn, once that is known."""

    @property
    def ready(self) -> bool:
        """Whether pictures can be drawn now."""

    @property
    def waiting(self) -> int:
        """Pictures that wait."""

    @property
    def drawn(self) -> int:
        """Pictures drawn so far."""

    async def start(self) -> None:
        """Returns once pictures can be drawn. Raises: WeightsError when the generator can't be used."""

    async def close(self) -> None:
        """End; what waits gets an error."""

    async def paint(self, orders: Sequence[Order], *, tenant: str = "", bulk: bool = False) -> list[bytes]:
        """Draw; returns PNG files in the order of the orders. ``bulk`` is behind what replies wait for.

        Raises: StageError while nothing can be drawn, or when there is no capacity; what drawing raises.
        """


def not_ready() -> StageError:
    """That no picture can be drawn now."""
    return StageError("unavailable", "image_not_ready", "Pictures can't be drawn yet; try again.")
