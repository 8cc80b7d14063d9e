"""Many who ask at once, beside many that are idle: each gets its answer, and is told how long its queue is.

Run ``python -m bench.faults active --count 200``; 2,000 idle websockets are open meanwhile.
"""

import asyncio
import json
import time
from dataclasses import dataclass, field

import aiohttp

from bench.faults.idle import open_idle
from bench.faults.process import Process
from bench.loads import percentile

IDLE = 2000
TOKENS = 30  # of a reply
PATIENCE = 300.0  # seconds


@dataclass
class Found:
    """What was found."""

    asked: int = 0
    answered: int = 0
    refused: int = 0
    queued: list[int] = field(default_factory=list)  # the lengths that were told
    first: list[float] = field(default_factory=list)  # seconds to the first token
    seconds: float = 0.0  # until the last answer


async def active(count: int) -> Found:
    """Let so many ask at once."""
    server = Process({"limits.connections": IDLE + count + 100, "limits.heartbeat": 120.0})
    server.start()
    found = Found(asked=count)
    try:
        await server.ready()
        idle = await open_idle(server.port, IDLE)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as http, asyncio.timeout(PATIENCE):
            sockets = [await http.ws_connect(f"{server.url}/v1/realtime", compress=0) for _ in range(count)]
            begun = time.perf_counter()
            await asyncio.gather(*(_ask(socket, number, found) for number, socket in enumerate(sockets)))
            found.seconds = time.perf_counter() - begun
            for socket in sockets:
                await socket.close()
        for each in idle:
            each.transport.close()
    finally:
        server.end()
    return found


async def _ask(socket: aiohttp.ClientWebSocketResponse, number: int, found: Found) -> None:
    text = [{"type": "input_text", "text": f"Question {number}: what is good about the sea?"}]
    item = {"type": "message", "role": "user", "content": text}
    await socket.send_json({"type": "conversation.item.create", "item": item})
    response = {"output_modalities": ["text"], "max_output_tokens": TOKENS}
    begun = time.perf_counter()
    await socket.send_json({"type": "response.create", "response": response})
    first = 0.0
    async for message in socket:
        event = json.loads(message.data)
        match event["type"]:
            case "response.created":
                queue = (event.get("loquent") or {}).get("queue")
                if queue:
                    found.queued.append(queue["ahead"])
            case "response.output_text.delta" if not first:
                first = time.perf_counter() - begun
                found.first.append(first)
            case "response.done":
                done = event["response"]["status"] in ("completed", "incomplete")
                found.answered += done
                found.refused += not done
                return


def told(found: Found) -> str:
    """What was found, in words."""
    return (
        f"{found.asked} ask at once beside {IDLE} idle: {found.answered} answered, {found.refused} refused, "
        f"{len(found.queued)} queued and told so (at most {max(found.queued, default=0)} ahead), first token p50 "
        f"{percentile(found.first, 0.5):.0f} ms, p95 {percentile(found.first, 0.95):.0f} ms, "
        f"all done in {found.seconds:.1f} s"
    )
