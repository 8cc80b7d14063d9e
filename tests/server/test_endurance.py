"""Ten thousand short requests, many of them cancelled: nothing of them may stay (ollama#18106)."""

import asyncio
import gc
import json
import random
from collections.abc import Sequence

import aiohttp
import psutil
import pytest
import torch

from pipelines.chat.engine.mailbox import Generate, Mailbox
from pipelines.chat.engine.stream import Stream
from pipelines.chat.model.interface import Segment
from tests.support import Running, ScriptedModel, eventually, running, scripted_pipeline

REQUESTS = 10_000
ROUNDS = 3  # of them: what leaks grows in each, what the allocator of a process that did much else takes does not
WARM = 2_000  # of them, before memory counts: pools and caches fill up at first
CLIENTS = 24
LEFT_BYTES = 1024  # that a request may leave behind


class Steady(ScriptedModel):
    """Says the same word for ever, and unlike a script remembers nothing itself."""

    def __init__(self) -> None:
        super().__init__(())
        self.word = self.tokenizer.token("word ")

    def forward(self, segments: Sequence[Segment]) -> torch.Tensor:
        logits = torch.zeros(sum(segment.wanted for segment in segments), len(self.tokenizer.pieces))
        logits[:, self.word] = 1.0
        return logits


async def ask(server: Running, http: aiohttp.ClientSession, chance: random.Random) -> None:
    """One request, which may go away before its answer, amid it, or hear it out."""
    tokens, leaves = chance.randint(1, 8), chance.random()
    body = {"messages": [{"role": "user", "content": f"{chance.random()}"}], "max_tokens": tokens, "stream": True}
    if leaves < 0.1:
        asking = asyncio.ensure_future(http.post(f"{server.url}/v1/chat/completions", data=json.dumps(body)))
        for _ in range(chance.randint(1, 8)):
            await asyncio.sleep(0)
        asking.cancel()
        for response in await asyncio.gather(asking, return_exceptions=True):
            if isinstance(response, aiohttp.ClientResponse):
                response.close()
        return
    async with http.post(f"{server.url}/v1/chat/completions", data=json.dumps(body | {"max_tokens": 500})) as response:
        assert response.status == 200
        for _ in range(tokens):
            await response.content.readuntil(b"\n\n")
        response.close()


@pytest.mark.timeout(600)
async def test_ten_thousand_short_requests_leave_nothing_behind() -> None:
    model = Steady()
    chance = random.Random(0)
    process = psutil.Process()
    async with running(scripted_pipeline(model, streams=16, waiting=64)) as server:
        connector = aiohttp.TCPConnector(limit=0)

        async def many(http: aiohttp.ClientSession, count: int) -> tuple[int, int]:
            left = iter(range(count))

            async def client() -> None:
                for _ in left:
                    await ask(server, http, chance)

            await asyncio.gather(*(client() for _ in range(CLIENTS)))
            await eventually(lambda: (server.engine.running, server.engine.queued) == (0, 0), "every place is free")
            await eventually(lambda: server.backend.requests == 0, "no request is in flight")
            gc.collect()
            return process.memory_info().rss, sum(
                type(thing) in (Generate, Mailbox, Stream) for thing in gc.get_objects()
            )

        async with aiohttp.ClientSession(connector=connector) as http:
            before, kept = await many(http, WARM)
            tasks = len(asyncio.all_tasks())
            grown, still_kept = [], kept
            for _ in range(ROUNDS):
                after, still_kept = await many(http, REQUESTS - WARM)
                grown.append(after - before)
                if grown[-1] <= (REQUESTS - WARM) * LEFT_BYTES:
                    break
                before = after
            await eventually(lambda: len(asyncio.all_tasks()) <= tasks + CLIENTS, "no task but open connections'")
        await eventually(lambda: not server.backend.requests, "nothing is in flight")
        assert server.engine.aborted > REQUESTS / 2
        assert not server.engine._waiting
        assert server.engine._slots is not None
        assert not any(slot.taken for slot in server.engine._slots._slots)
        assert still_kept <= kept + CLIENTS
        assert min(grown) <= (REQUESTS - WARM) * LEFT_BYTES, grown
