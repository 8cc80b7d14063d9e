"""The seam between the stages and what embeds for them: a thread of this process, or replicas elsewhere."""

import threading
from collections.abc import Iterator, Sequence
from typing import Protocol

from pipelines.downloads.progress import Progress
from pipelines.embedding.passages import Embedding, Passage


class Embeds(Protocol):
    """Embeds with one model, for many readers at once."""

    name: str  # of the model, one of ``names.MODELS``
    imports: tuple[str, ...]  # modules that loading takes seconds for

    @property
    def ready(self) -> bool:
        """Whether texts can be embedded now."""

    def prepare(self, stop: threading.Event) -> Iterator[Progress]:
        """Put on the disk what is loaded here. Raises: PackageError."""

    async def start(self) -> None:
        """Returns once texts can be embedded; several may wait for it. Raises: what loading raises."""

    async def close(self) -> None:
        """End; what waits gets an error."""

    async def embed(self, passages: Sequence[Passage], *, bulk: bool = False) -> list[Embedding]:
        """Embed the passages; what is in ``bulk`` comes behind what turns wait for.

        Raises: StageError while it is not ready, or when too many texts wait; what the model raises.
        """
