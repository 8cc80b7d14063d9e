"""The chat stage: answers a turn with the language model's reply. It is the innermost one."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace

from pipelines.chat.defaults import ENGINE, resolved
from pipelines.chat.engine.engine import Engine
from pipelines.chat.prompt import fit
from pipelines.chat.settings import ChatSettings
from pipelines.events import Event, Finished, Sampling, TextDelta, TextDone, Turn, Usage
from pipelines.flow import Next


class Observer:
    """What is measured of replies; this one ignores it."""

    def first_token(self, seconds: float) -> None:
        """From the turn to its first text."""

    def next_token(self, seconds: float) -> None:
        """From one text to the next, for each token in it."""

    def finished(self, usage: Usage) -> None:
        """A reply has ended."""


class ChatStage:
    """A stage around an engine."""

    def __init__(
        self,
        engine: Engine,
        settings: ChatSettings,
        *,
        defaults: Callable[[], Sampling] = lambda: ENGINE,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engine = engine
        self._settings = settings
        self._defaults = defaults  # of the model, known once it is on the disk
        self._observer = observer or Observer()
        self._clock = clock
        # One thread: tokenizers are not made for two, and what waits for it keeps its place in the engine meanwhile.
        self._renderer = ThreadPoolExecutor(1, "chat-prompt")

    async def close(self) -> None:
        """End the engine and everything that waits for it."""
        await self.engine.close()
        self._renderer.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, turn: Turn, next: Next) -> AsyncGenerator[Event]:
        """Answer; ``next`` is never called."""
        last = turn.begun if turn.begun is not None else self._clock()
        first = True
        async with aclosing(self._answer(turn)) as reply:
            async for event in reply:
                if isinstance(event, TextDelta) and event.tokens:
                    now = self._clock()
                    if first:
                        self._observer.first_token(now - last)
                    elif turn.speech is None:  # spoken text is read as it is said, not as it is made
                        self._observer.next_token((now - last) / event.tokens)
                    last, first = now, False
                if isinstance(event, Finished):
                    self._observer.finished(event.usage)
                    yield TextDone()
                yield event

    async def _answer(self, turn: Turn) -> AsyncGenerator[Event]:
        model = self.engine.model
        max_tokens = turn.sampling.max_tokens or self._settings.max_tokens
        self.engine.reserve(turn.tenant)
        rendering = self._renderer.submit(
            fit,
            model.tokenizer,
            turn.messages,
            context=model.context,
            max_tokens=max_tokens,
            overflow=self._settings.overflow,
        )
        try:
            prompt = await asyncio.wrap_future(rendering)
        except BaseException:
            # A cancel does not stop a rendering that has begun, so its place is not free before it ends.
            rendering.add_done_callback(lambda _: self.engine.release(turn.tenant))
            raise
        sampling = resolved(turn.sampling, self._settings, self._defaults())
        sampling = replace(sampling, max_tokens=min(max_tokens, model.context - len(prompt)))
        async with aclosing(self.engine.generate(turn.id, prompt, sampling, turn.tenant)) as reply:
            async for event in reply:
                yield event
