"""A stage over scripted upstreams."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pipelines.chat.settings import ChatSettings
from pipelines.chat.upstream.outcomes import Outcome
from pipelines.chat.upstream.stage import Counts, UpstreamStage
from pipelines.events import Event, Message, StageError, TextDelta, Turn
from pipelines.flow import flow
from tests.pipelines.chat.upstream.scripted import ScriptedUpstream, upstreams

HI = (Message("user", "Hi"),)
TEST_LIMITS = {"connect_timeout": 1.0, "first_token_timeout": 0.3, "token_timeout": 0.2}


class Counted(Counts):
    """The outcomes, one after the other."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[str, Outcome]] = []
        self.retries = 0

    def request(self, upstream: str, outcome: Outcome) -> None:
        self.outcomes.append((upstream, outcome))

    def retry(self) -> None:
        self.retries += 1

    @property
    def kinds(self) -> list[Outcome]:
        return [outcome for _, outcome in self.outcomes]


class Sleeps:
    """A sleep that takes no time, and remembers for how long it was asked."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)


class Given:
    """The stage, and what was counted."""

    def __init__(self, stage: UpstreamStage, counts: Counted, sleeps: Sleeps) -> None:
        self.stage, self.counts, self.sleeps = stage, counts, sleeps
        self.number = 0

    async def ask(self, messages: tuple[Message, ...] = HI, **turn: Any) -> list[Event]:
        """All events of one turn."""
        self.number += 1
        async with flow(Turn(f"turn-{self.number}", messages, **turn), [self.stage]) as events:
            return [event async for event in events]

    async def said(self, **turn: Any) -> str:
        """Its text."""
        return text_of(await self.ask(**turn))

    async def failure(self, came: list[Event] | None = None, **turn: Any) -> tuple[list[Event], StageError]:
        """What came before its failure, and that."""
        self.number += 1
        came = [] if came is None else came
        try:
            async with flow(Turn(f"turn-{self.number}", HI, **turn), [self.stage]) as events:
                async for event in events:
                    came.append(event)
        except StageError as error:
            return came, error
        raise AssertionError(f"it did not fail: {came}")


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


@asynccontextmanager
async def stage_over(
    *scripted: ScriptedUpstream, upstream: dict[str, Any] | None = None, **chat: Any
) -> AsyncIterator[Given]:
    """A stage that has started, over upstreams that run."""
    async with upstreams(*scripted):
        elsewhere = TEST_LIMITS | {"urls": [each.url for each in scripted]} | (upstream or {})
        settings = ChatSettings.model_validate({"engine": "openai", "upstream": elsewhere} | chat)
        counts, sleeps = Counted(), Sleeps()
        stage = UpstreamStage(settings, counts=counts, sleep=sleeps)
        try:
            await stage.start()
            yield Given(stage, counts, sleeps)
        finally:
            await stage.close()
