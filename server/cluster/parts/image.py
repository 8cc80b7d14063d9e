"""Pictures, for gateways whose generator is elsewhere: both ends of it."""

import hashlib
import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from pipelines.capacity import Capacity
from pipelines.embedding.passages import DIMENSIONS
from pipelines.events import StageError
from pipelines.image.formats import LARGEST, SMALLEST, weight
from pipelines.image.interface import Drawn, Order, Paints
from pipelines.image.repertoire import Repertoire, Words
from server.cluster.parts.answering import Load
from server.cluster.parts.asking import Replicas
from server.cluster.parts.wire import OF_FLOAT, OTHER_GENERATOR, Frame, MalformedError, floats

PAINT = "paint"
PNG = b"\x89PNG\r\n\x1a\n"
WORDS: TypeAdapter[Words] = TypeAdapter(Words)
Whole = Annotated[int, Field(ge=0)]


class _Order(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    row: Whole
    caption: str
    style: Whole
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    size: Annotated[int, Field(ge=SMALLEST, le=LARGEST)]
    opaque: bool


class _Asked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    drawer: str
    tenant: str
    bulk: bool
    orders: Annotated[list[_Order], Field(min_length=1)]


class _Drawn(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    sizes: list[Whole]  # bytes of each file


@dataclass(frozen=True, slots=True)
class RemoteDrawer:
    """What the replicas' generator can draw."""

    words: Words
    repertoire: Repertoire
    digest: str


class ImageAnswers:
    """Draws for gateways, on a replica."""

    def __init__(self, painter: Paints, load: Load) -> None:
        self._painter = painter
        self._load = load
        self._described: Frame | None = None  # once it is loaded

    def describe(self) -> Frame:
        """The generator, for ``RemotePainter``. Raises: StageError while it is not loaded."""
        if self._described is None:
            if (drawer := self._painter.drawer) is None:
                raise StageError("unavailable", "image_not_ready", "The generator is not loaded.")
            self._described = described(drawer)
        return self._described

    async def __call__(self, request: Frame) -> AsyncGenerator[Frame]:
        """An answer to ``RemotePainter``."""
        asked = _Asked.model_validate(request.head)
        drawer = self._painter.drawer
        if asked.drawer != self.describe().head["digest"] or drawer is None:
            raise StageError("unavailable", OTHER_GENERATOR, "Another generator draws here; try again.")
        rows, styles = len(drawer.repertoire.entries), len(drawer.words.styles)
        if any(each.row >= rows or each.style >= styles for each in asked.orders):
            raise MalformedError("what is ordered can't be drawn")
        orders = [Order(**dict(each)) for each in asked.orders]
        with self._load.of(len(orders)):
            files = await self._painter.paint(orders, tenant=asked.tenant, bulk=asked.bulk)
        yield Frame({"sizes": [len(file) for file in files]}, b"".join(files))


class RemotePainter:
    """Has pictures drawn by replicas; see ``Paints``. Needs no PyTorch."""

    def __init__(self, replicas: Replicas, *, waiting: int) -> None:
        self.capacity = Capacity(waiting, "pictures")
        self.waiting = 0
        self.drawn = 0
        self.drawer: RemoteDrawer | None = None
        self._replicas = replicas

    def learn(self, said: Frame) -> None:
        """Take note of what a replica says of its generator. Raises: MalformedError."""
        if self.drawer is None or said.head.get("digest") != self.drawer.digest:
            self.drawer = drawer_of(said)

    @property
    def ready(self) -> bool:
        """Whether a replica may be asked."""
        return self._replicas.ready and self.drawer is not None

    async def start(self) -> None:
        """Wait for the first replica."""
        await self._replicas.start()

    async def close(self) -> None:
        """End every request."""
        await self._replicas.close()

    async def paint(self, orders: Sequence[Order], *, tenant: str = "", bulk: bool = False) -> list[bytes]:
        """See ``Paints``."""
        digest = self.drawer.digest if self.drawer is not None else ""
        asked = {"drawer": digest, "tenant": tenant, "bulk": bulk, "orders": [asdict(each) for each in orders]}
        with self.capacity.permit(tenant, sum(weight(order.size) for order in orders)):
            self.waiting += len(orders)
            try:
                files = await self._replicas.ask_once(PAINT, asked, lambda answer: unpack(answer, len(orders)))
            finally:
                self.waiting -= len(orders)
        self.drawn += len(files)
        return files


def unpack(frame: Frame, count: int) -> list[bytes]:
    """The ``count`` files that were sent. Raises: MalformedError."""
    try:
        sizes = _Drawn.model_validate(frame.head).sizes
    except ValidationError:
        raise MalformedError("pictures that can't be read") from None
    if len(sizes) != count or sum(sizes) != len(frame.body):
        raise MalformedError("not as many pictures as were asked for")
    ends = [sum(sizes[: n + 1]) for n in range(count)]
    files = [frame.body[end - size : end] for size, end in zip(sizes, ends, strict=True)]
    if not all(file.startswith(PNG) for file in files):
        raise MalformedError("pictures that are no PNG files")
    return files


def described(drawer: Drawn) -> Frame:
    """A generator as it is sent: its words, and its captions' embeddings."""
    captions = drawer.repertoire.captions.astype("<f4").tobytes()
    words: dict[str, Any] = asdict(drawer.words)
    digest = hashlib.sha256(json.dumps(words, sort_keys=True).encode() + captions).hexdigest()
    return Frame({"words": words, "digest": digest}, captions)


def drawer_of(said: Frame) -> RemoteDrawer:
    """The generator that was sent. Raises: MalformedError."""
    try:
        words = WORDS.validate_python(said.head.get("words"))
    except ValidationError:
        raise MalformedError("a generator that can't be read") from None
    owners = [number for number, (_, captions, _) in enumerate(words.concepts) for _ in captions]
    if not owners or not words.styles or len(said.body) != len(owners) * DIMENSIONS * OF_FLOAT:
        raise MalformedError("a generator with other captions than it names")
    captions = floats(said.body).reshape(-1, DIMENSIONS)
    labels, colours = [label for label, _, _ in words.concepts], [each for _, _, each in words.concepts]
    nothing = np.zeros((0, DIMENSIONS), np.float32)  # what the generator reads stays with it
    digest = str(said.head.get("digest", ""))
    return RemoteDrawer(words, Repertoire(labels, colours, owners, captions, nothing), digest)
