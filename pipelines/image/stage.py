"""The image stage: decides whether a reply comes with a picture, and has it drawn while the text streams.

A message that asks for a picture of something known is answered by a configured line, since a small model would say
that it can't draw; what the message asks besides goes to the model, whose reply then stands in the line's stead. In the
mood of a reply the nearest caption is looked for when its text is complete. What is like nothing known gets no picture,
and no error.
"""

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from pipelines.embedding.interface import Embeds
from pipelines.embedding.passages import Passage
from pipelines.events import Event, Finished, Picture, StageError, TextDelta, TextDone, Turn, Usage
from pipelines.flow import Next
from pipelines.image.asks import asked, sentences
from pipelines.image.captions import without_colour
from pipelines.image.interface import Drawn, Order, Paints, not_ready
from pipelines.image.settings import ImageSettings, StyleName
from pipelines.tracing import traced

if TYPE_CHECKING:
    from pipelines.image.repertoire import Found

log = logging.getLogger(__name__)

Result = TypeVar("Result")

SEEDS = 2**32
UNDERSTANDING = 0.3  # seconds that a message which asks for a picture waits for it to be understood
SENTENCES = 8  # of a reply, in which its mood is looked for
LONGEST = 2000  # characters of a reply that are read for its mood


@dataclass(frozen=True, slots=True)
class Wish:
    """A text, and what of the repertoire it means."""

    found: "Found"
    similar: tuple[str, ...]  # labels that are most alike


class ImageStage:
    """A stage that adds pictures to replies; it also draws for whoever asks directly."""

    def __init__(
        self,
        embedder: Embeds,
        painter: Paints,
        settings: ImageSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        choose: Callable[[int], int] = secrets.randbelow,
    ) -> None:
        self.embedder = embedder
        self.painter = painter
        self.settings = settings
        self.on_picture: Callable[[float], None] = lambda seconds: None
        self.outcomes: Counter[str] = Counter()  # of turns that wanted a picture: drawn, abstained, or why they failed
        self._clock = clock
        self._choose = choose
        self._broken = False  # it could not be started
        self._told = ""  # the last failure that was logged

    async def start(self) -> None:
        """Load the models. Raises: WeightsError, what loading the embedding model raises."""
        try:
            await self.embedder.start()
            await self.painter.start()
        except Exception:
            self._broken = True
            raise

    async def close(self) -> None:
        """End the painter."""
        await self.painter.close()

    @property
    def ready(self) -> bool:
        """Whether pictures can be drawn."""
        return self.painter.ready and self.embedder.ready

    @property
    def drawer(self) -> Drawn:
        """What can be drawn. Raises: StageError while there is none."""
        if self._broken:
            raise StageError("unavailable", "image_failed", "Pictures can't be drawn; the server's log says why.")
        if self.painter.drawer is None or not self.ready:
            raise not_ready()
        return self.painter.drawer

    async def understand(self, text: str) -> Wish:
        """What a text asks to be drawn means. Raises: StageError while the models are not ready."""
        repertoire = self.drawer.repertoire
        plain, colour = without_colour(text)
        passages = [Passage(text)] + ([Passage(plain)] if colour and plain else [])
        embeddings = [each.whole for each in await self.embedder.embed(passages)]
        found = repertoire.find(embeddings[0], embeddings[1] if len(embeddings) > 1 else None, colour)
        return Wish(found, tuple(repertoire.nearest(embeddings[0], 3)))

    async def feel(self, reply: str) -> "Found":
        """The caption that fits one of a reply's sentences best. Raises: StageError while the models are not ready."""
        repertoire = self.drawer.repertoire
        text = reply[:LONGEST]
        (embedding,) = await self.embedder.embed([Passage(text, sentences(text, most=SENTENCES))])
        founds = [repertoire.find(each) for each in (embedding.whole, *embedding.windows)]
        return max(founds, key=lambda found: found.similarity)

    async def draw(
        self,
        found: "Found",
        *,
        count: int = 1,
        size: int | None = None,
        seed: int | None = None,
        style: StyleName | None = None,
        opaque: bool = False,
        tenant: str = "",
        bulk: bool = False,
    ) -> list[Picture]:
        """Draw it ``count`` times, from seeds that follow each other; ``bulk`` is behind what replies wait for.

        Raises: StageError while the models are not ready or too many pictures wait; what drawing raises.
        """
        begun, drawer = self._clock(), self.drawer
        first = self._choose(SEEDS) if seed is None else seed
        styles = drawer.words.styles
        wanted = style or self.settings.style
        if wanted != "any" and wanted not in styles:
            raise StageError(
                "invalid_request", "unsupported_value", f"style: there are {', '.join(styles)}.", param="style"
            )
        orders = []
        for n in range(count):
            own = (first + n) % SEEDS
            chosen = own % len(styles) if wanted == "any" else styles.index(wanted)
            orders.append(Order(found.entry.row, found.entry.caption, chosen, own, size or self.settings.size, opaque))
        files = await self.painter.paint(orders, tenant=tenant, bulk=bulk)
        self.on_picture(self._clock() - begun)
        return [
            Picture(
                secrets.token_hex(16),
                order.caption,
                order.seed,
                styles[order.style],
                drawer.words.name,
                order.size,
                file,
            )
            for order, file in zip(orders, files, strict=True)
        ]

    def failed(self, reason: str) -> None:
        """Count a reply that was to have a picture and has none; the log has each run of a reason once."""
        self.outcomes[reason] += 1
        if reason != self._told:
            self._told = reason
            level = logging.INFO if reason == "image_not_ready" else logging.WARNING  # it is being loaded
            log.log(level, "replies have no pictures: %s", reason)

    def __call__(self, turn: Turn, next: Next) -> AsyncGenerator[Event]:
        """The reply, with a picture behind its text where it is to have one."""
        if self.settings.when == "never" or turn.image is False:
            return next(turn)
        return self._illustrate(turn, next)

    async def _illustrate(self, turn: Turn, next: Next) -> AsyncGenerator[Event]:
        drawing = _Drawing(self, turn)
        try:
            drawn = await drawing.begin_asked()
            reply = self._present(turn) if drawn and not drawing.rest else next(drawing.without_ask())
            async with aclosing(reply) as events:
                async for event in events:
                    if isinstance(event, TextDelta):
                        drawing.read(event.text)
                    if isinstance(event, Finished) and (picture := await drawing.picture(event)) is not None:
                        yield picture
                    yield event
        finally:
            await drawing.close()

    async def _present(self, turn: Turn) -> AsyncGenerator[Event]:
        """The text beside a picture that was asked for."""
        yield TextDelta(self.settings.line, tokens=0)
        yield TextDone()
        yield Finished("stop", Usage())


class _Drawing:
    """One turn's picture."""

    def __init__(self, stage: ImageStage, turn: Turn) -> None:
        self._stage = stage
        self._settings = stage.settings
        self._turn = turn
        self._work: asyncio.Task[Picture | None] | None = None
        self._reads = False  # whether the reply's mood is looked for
        self.rest = ""  # what the message asks besides the picture that is drawn
        self._text: list[str] = []

    async def begin_asked(self) -> bool:
        """Whether the turn asks for a picture that can be drawn; then it is being drawn."""
        last = self._turn.messages[-1]
        ask = asked(last.content) if last.role == "user" else None
        wanted = ask.subject if ask else None
        self._reads = bool(self._turn.image) or wanted == "" or self._settings.when == "mood"
        found = await self._in_time(partial(self._known, wanted), UNDERSTANDING) if wanted else None
        if ask and (found is not None or wanted == ""):
            self.rest = ask.rest
        if found is None:
            return False
        self._reads = False
        self._work = asyncio.create_task(self._in_time(partial(self._drawn, found)), name="image")
        return True

    def without_ask(self) -> Turn:
        """The turn with what its last message asks besides the picture, if it does."""
        if not self.rest:
            return self._turn
        *before, last = self._turn.messages
        return replace(self._turn, messages=(*before, replace(last, content=self.rest)))

    def read(self, text: str) -> None:
        """Take the next piece of the reply's text."""
        if self._reads:
            self._text.append(text)

    async def picture(self, finished: Finished) -> Picture | None:
        """The reply's picture, if it is to have one and it can be had in time."""
        if self._work is not None:
            return await self._work
        text = "".join(self._text).strip()
        if self._reads and text and finished.reason in ("stop", "length"):
            return await self._in_time(partial(self._felt, text))
        return None

    async def close(self) -> None:
        """End what is being drawn for a reply that nobody reads any more."""
        if self._work is not None and not self._work.done():
            self._work.cancel()
            await asyncio.wait([self._work])

    async def _in_time(
        self, work: Callable[[], Coroutine[Any, Any, Result | None]], seconds: float | None = None
    ) -> Result | None:
        """What the work comes to; nothing where it fails or takes too long, since the reply is there without it."""
        try:
            async with asyncio.timeout(min(seconds or self._settings.deadline, self._settings.deadline)):
                return await work()
        except Exception as error:
            reason = "deadline" if isinstance(error, TimeoutError) else getattr(error, "code", type(error).__name__)
            self._stage.failed(reason)
            return None

    async def _known(self, wanted: str) -> "Found | None":
        wish = await self._stage.understand(wanted)
        return self._near(wish.found, self._settings.asked_similarity)

    async def _felt(self, text: str) -> Picture | None:
        found = self._near(await self._stage.feel(text), self._settings.mood_similarity)
        return await self._drawn(found) if found is not None else None

    def _near(self, found: "Found", least: float) -> "Found | None":
        if found.similarity >= least:
            return found
        self._stage.outcomes["abstained"] += 1
        return None

    async def _drawn(self, found: "Found") -> Picture:
        with traced(self._turn.trace, "picture"):
            (picture,) = await self._stage.draw(found, tenant=self._turn.tenant)
        self._stage.outcomes["drawn"] += 1
        return picture
