"""The chat stage: answers a ``Turn`` with the model's reply."""

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace

from pipelines.chat.engine.engine import Engine
from pipelines.chat.prompt import fit
from pipelines.chat.settings import ChatSettings
from pipelines.events import Event, Turn


class ChatStage:
    """A stage, callable on a stream of events. The ``Turn`` itself goes on, for the stages behind that need it."""

    def __init__(self, engine: Engine, settings: ChatSettings) -> None:
        self.engine = engine
        self._settings = settings
        # One thread: tokenizers are not made for two, and what waits for it keeps its place in the engine meanwhile.
        self._renderer = ThreadPoolExecutor(1, "chat-prompt")

    async def close(self) -> None:
        """End the engine and everything that waits for it."""
        await self.engine.close()
        self._renderer.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
        async for event in events:
            yield event
            if isinstance(event, Turn) and not event.answered:
                async with aclosing(self._answer(event)) as reply:
                    async for piece in reply:
                        yield piece

    async def _answer(self, turn: Turn) -> AsyncGenerator[Event]:
        model = self.engine.model
        configured = self._settings
        max_tokens = turn.sampling.max_tokens or configured.max_tokens
        self.engine.reserve(turn.tenant)
        rendering = self._renderer.submit(
            fit,
            model.tokenizer,
            turn.messages,
            context=model.context,
            max_tokens=max_tokens,
            overflow=configured.overflow,
        )
        try:
            prompt = await asyncio.wrap_future(rendering)
        except BaseException:
            # A cancel does not stop a rendering that has begun, so its place is not free before it ends.
            rendering.add_done_callback(lambda _: self.engine.release(turn.tenant))
            raise
        asked = turn.sampling
        sampling = replace(
            asked,
            temperature=configured.temperature if asked.temperature is None else asked.temperature,
            top_p=configured.top_p if asked.top_p is None else asked.top_p,
            max_tokens=min(max_tokens, model.context - len(prompt)),
        )
        async with aclosing(self.engine.generate(turn.id, prompt, sampling, turn.tenant)) as reply:
            async for event in reply:
                yield event
