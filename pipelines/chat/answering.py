"""What the innermost stage is, wherever its model computes: here, or behind a server elsewhere."""

import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing

from prometheus_client import Counter
from prometheus_client.registry import Collector

from pipelines.events import CallDelta, Event, Finished, TextDelta, Turn, Usage
from pipelines.flow import Next
from pipelines.metrics import latency
from pipelines.tracing import generating


class Observer:
    """What is measured of replies; this one ignores it."""

    def first_token(self, seconds: float) -> None:
        """From the turn to its first text."""

    def next_token(self, seconds: float) -> None:
        """From one text to the next, for each token in it."""

    def finished(self, usage: Usage) -> None:
        """A reply has ended."""


class Measured(Observer):
    """Counts what replies are made of."""

    def __init__(self) -> None:
        self._ttft = latency("loquent_time_to_first_token_seconds", "From the turn to its first text.")
        self._itl = latency("loquent_inter_token_latency_seconds", "Between texts, for each token.")
        self._prompt = Counter("loquent_prompt_tokens", "Tokens of prompts.", registry=None)
        self._generated = Counter("loquent_generation_tokens", "Tokens generated.", registry=None)

    @property
    def collectors(self) -> tuple[Collector, ...]:
        """The metrics."""
        return self._ttft, self._itl, self._prompt, self._generated

    def first_token(self, seconds: float) -> None:
        """From the turn to its first text."""
        self._ttft.observe(seconds)

    def next_token(self, seconds: float) -> None:
        """From one text to the next, for each token in it."""
        self._itl.observe(seconds)

    def finished(self, usage: Usage) -> None:
        """A reply has ended."""
        self._prompt.inc(usage.input_tokens)
        self._generated.inc(usage.output_tokens)


class AnsweringStage:
    """A stage that answers with a language model's reply; it never calls ``next``."""

    def __init__(self, observer: Observer | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._observer = observer or Observer()
        self._clock = clock

    async def __call__(self, turn: Turn, next: Next) -> AsyncGenerator[Event]:
        """Answer; ``next`` is never called."""
        last = turn.begun if turn.begun is not None else self._clock()
        first = True
        with generating(turn.trace) as generation:
            async with aclosing(self._answer(turn)) as reply:
                async for event in reply:
                    if isinstance(event, TextDelta | CallDelta) and event.tokens:
                        now = self._clock()
                        if first:
                            self._observer.first_token(now - last)
                            generation.first_token()
                        elif turn.speech is None:  # spoken text is read as it is said, not as it is made
                            self._observer.next_token((now - last) / event.tokens)
                        last, first = now, False
                    if isinstance(event, Finished):
                        self._observer.finished(event.usage)
                        usage = event.usage
                        generation.counted(usage.input_tokens, usage.cached_tokens, usage.output_tokens)
                    yield event

    def _answer(self, turn: Turn) -> AsyncGenerator[Event]:
        """The reply's events."""
        raise NotImplementedError

    @property
    def model_name(self) -> str:
        """The model's name as clients see it, where only its server knows that; else ""."""
        raise NotImplementedError

    @property
    def ahead(self) -> int:
        """Replies that must end before another one could begin."""
        raise NotImplementedError

    def forget(self, tenants: Iterable[str]) -> None:
        """Drop what is cached of the texts of these tenants."""
        raise NotImplementedError

    async def close(self) -> None:
        """End every reply, and what makes them."""
        raise NotImplementedError
