"""How a package describes its part of the server: how it is prepared, started, closed and measured.

A package exports one function, ``part(settings, shared) -> Part``. The annotation of ``settings`` is the model of its
section in the configuration.
"""

import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from prometheus_client.registry import Collector
from pydantic import BaseModel

from pipelines.cores import Cores
from pipelines.downloads.progress import Progress
from pipelines.embedding.embedder import Embedder
from pipelines.embedding.interface import Embeds
from pipelines.embedding.names import MINILM
from pipelines.flow import Stage

Prepare = Callable[[threading.Event], Iterator[Progress]]


class Shared:
    """What the parts of one server have in common."""

    def __init__(
        self, elsewhere: Mapping[str, Any] | None = None, why_not: Callable[[str], str] = lambda what: ""
    ) -> None:
        """``elsewhere`` has what computes in other processes, by what it does: "embedding" (from a model's name to
        what embeds with it), "screening", "image" and "speech", each behind the seam that its part has for it.
        ``why_not`` tells why one of them is not there, or ""."""
        self.cores = Cores()
        self.elsewhere: Mapping[str, Any] = elsewhere or {}
        self.why_not = why_not
        self.embedders: dict[str, Embeds] = {}  # by the names of their models
        self.guides = True  # whether embeddings help the model to choose functions; the model's part says so

    def embeds(self, name: str = MINILM) -> Embeds:
        """What embeds with this model, made when the first part asks for it. Raises: KeyError for an unknown name."""
        if name not in self.embedders:
            make: Callable[[str], Embeds] = self.elsewhere.get("embedding", Embedder)
            self.embedders[name] = make(name)
        return self.embedders[name]


def _no_preparation(stop: threading.Event) -> Iterator[Progress]:
    return iter(())


async def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Part:
    """One stage and its life cycle, or that of something else which a server's sessions use."""

    name: str
    stage: Stage | None
    required: bool = True  # turns wait until it is ready; another part starts behind that
    prepare: Prepare = _no_preparation  # puts what it loads on the disk; runs in a thread, and looks at the event
    imports: tuple[str, ...] = ()  # modules that take seconds; imported one after the other, before any part starts
    start: Callable[[], Awaitable[None]] = _nothing  # returns once it is ready; raises what loading raises
    close: Callable[[], Awaitable[None]] = _nothing
    ready: Callable[[], bool] = lambda: True
    why: Callable[[], str] = lambda: ""  # it is not ready, where it knows
    missing: str = ""  # why it will never be ready, where that is known and no error
    metrics: tuple[Collector, ...] = field(default=())
    service: object | None = None  # where it is no stage: what is used of it


def has_been(ready: Callable[[], bool]) -> Callable[[], bool]:
    """Whether it was so, at any time that this was asked: turns wait for the first replica of what is elsewhere. When
    none is left later, each turn finds out for itself, and goes on as it can."""
    was = False

    def ever() -> bool:
        nonlocal was
        was = was or ready()
        return was

    return ever


def with_embedder(part: Part, embedder: Embeds) -> Part:
    """The same part, which brings what embeds as well, and puts nothing else on the disk."""

    async def start() -> None:
        await embedder.start()
        await part.start()

    return replace(part, prepare=embedder.prepare, imports=embedder.imports, start=start)


MakePart = Callable[[Any, Shared], Part]


def settings_model(make: MakePart) -> type[BaseModel]:
    """The model of the settings that ``make`` takes. Raises: TypeError where it is not annotated with one."""
    from typing import get_type_hints

    hints = [hint for name, hint in get_type_hints(make).items() if name != "return"]
    if not hints or not (isinstance(hints[0], type) and issubclass(hints[0], BaseModel)):
        raise TypeError(f"{make!r} must be annotated as part(settings: A_PYDANTIC_MODEL, shared: Shared) -> Part")
    return hints[0]
