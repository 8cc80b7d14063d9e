"""The chat stage: answers a turn with the language model's reply. It is the innermost one."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace

from pipelines.chat import source
from pipelines.chat.answering import AnsweringStage, Observer
from pipelines.chat.calls.choice import Chooser
from pipelines.chat.calls.reader import CallReader
from pipelines.chat.defaults import ENGINE, resolved
from pipelines.chat.engine.engine import Engine
from pipelines.chat.model.interface import Constraint
from pipelines.chat.prompt import Room, fit
from pipelines.chat.settings import ChatSettings
from pipelines.chat.writing import Writing, constraint_of, writing_of
from pipelines.events import Event, Finished, Sampling, Started, TextDelta, TextDone, Turn

# A prompt, what holds its reply to a form, and what the client should know of it.
Rendered = tuple[list[int], Constraint | None, tuple[str, ...]]

UNAIDED = 3_000_000_000  # weights, from which a model chooses functions well by itself


class ChatStage(AnsweringStage):
    """A stage around an engine."""

    def __init__(
        self,
        engine: Engine,
        settings: ChatSettings,
        *,
        defaults: Callable[[], Sampling] = lambda: ENGINE,
        chooser: Chooser | None = None,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(observer, clock)
        self.engine = engine
        self._settings = settings
        self._defaults = defaults  # of the model, known once it is on the disk
        self._chooser = chooser
        # One thread: tokenizers are not made for two, and what waits for it keeps its place in the engine meanwhile.
        self._renderer = ThreadPoolExecutor(1, "chat-prompt")

    async def close(self) -> None:
        """End the engine and everything that waits for it."""
        await self.engine.close()
        self._renderer.shutdown(wait=False, cancel_futures=True)

    @property
    def model_name(self) -> str:
        """The configuration knows it."""
        return ""

    @property
    def ahead(self) -> int:
        """Replies that must end before another one could begin."""
        return self.engine.ahead

    def forget(self, tenants: Iterable[str]) -> None:
        """Drop what the prefix cache holds of these tenants."""
        self.engine.forget(tenants)

    async def _answer(self, turn: Turn) -> AsyncGenerator[Event]:
        max_tokens = turn.sampling.max_tokens or self._settings.max_tokens
        model = self.engine.model
        context, encoder = model.context, model.encoder
        source.check(turn, self._settings.tasks, encodes=encoder is not None)
        if encoder is not None:
            turn = replace(turn, tools=None)
        self.engine.reserve(turn.tenant)
        try:
            writing = await writing_of(turn, self._helps(), context)
        except BaseException:
            self.engine.release(turn.tenant)
            raise
        prompt, constraint, notices = await self._rendered(turn, writing, max_tokens)
        asked = turn.sampling
        if writing.exact and asked.repetition_penalty is None:
            asked = replace(asked, repetition_penalty=1.0)
        sampling = resolved(asked, self._settings, self._defaults())
        if encoder is not None and sampling.repetition_prompt is None:
            sampling = replace(sampling, repetition_prompt=False)  # the input is no part of the decoder's text
        room = context - len(prompt) if encoder is None else encoder.reply
        sampling = replace(sampling, max_tokens=min(max_tokens, room))
        generated = self.engine.generate(turn.id, prompt, sampling, turn.tenant, constraint, turn.gather)
        async with aclosing(generated), aclosing(_read(generated, writing)) as reply:
            async for event in reply:
                yield replace(event, notices=notices) if isinstance(event, Started) and notices else event

    def _helps(self) -> Chooser | None:
        """What chooses functions for the model; None where it chooses itself."""
        chooser, model = self._chooser, self.engine.model
        if chooser is None or not chooser.ready or self._settings.tools == "native":
            return None
        return chooser if self._settings.tools == "guided" or model.parameters < UNAIDED else None

    async def _rendered(self, turn: Turn, writing: Writing, max_tokens: int) -> Rendered:
        """The prompt and what goes with it; the request's permit is released where there is none."""
        model = self.engine.model
        overflow = turn.overflow or self._settings.overflow
        room = Room(model.context, max_tokens, overflow, turn.retention, turn.retained_tokens)

        def render() -> Rendered:
            constraint = constraint_of(writing, model.tokenizer, turn.tenant)
            if model.encoder is not None:
                prompt, notices = source.read(model.encoder, turn, overflow)
                return prompt, constraint, notices
            prompt = fit(model.tokenizer, turn.messages, room, tools=writing.tools, prefill=turn.prefill)
            return prompt, constraint, ()

        rendering = self._renderer.submit(render)
        try:
            return await asyncio.wrap_future(rendering)
        except BaseException:
            # A cancel does not stop a rendering that has begun, so its place is not free before it ends.
            rendering.add_done_callback(lambda _: self.engine.release(turn.tenant))
            raise


async def _read(generated: AsyncGenerator[Event], writing: Writing) -> AsyncGenerator[Event]:
    """The reply's events, with its calls in the place of their text."""
    reader = CallReader() if writing.calls is not False else None
    async for event in generated:
        if isinstance(event, Finished):
            for last in reader.end() if reader else (TextDone(),):
                yield last
            if reader and reader.calls and event.reason == "stop":
                event = replace(event, reason="tool_calls")
            yield event
        elif reader and isinstance(event, TextDelta):
            for each in reader.feed(event):
                yield each
        else:
            yield event
