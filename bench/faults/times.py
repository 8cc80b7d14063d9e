"""The times of a client without faults: to the first token of a reply, and from one to the next."""

import json
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp


@dataclass
class Times:
    """In seconds, each with the second at which it was taken."""

    first: list[tuple[float, float]] = field(default_factory=list)
    gaps: list[tuple[float, float]] = field(default_factory=list)


async def ask(socket: aiohttp.ClientWebSocketResponse, text: str, **response: Any) -> None:
    """Send a message, and ask for a response with these settings."""
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
    await socket.send_json({"type": "conversation.item.create", "item": item})
    await socket.send_json({"type": "response.create", "response": response})


async def talk(
    socket: aiohttp.ClientWebSocketResponse, text: str, tokens: int, times: Times, *, since: float = 0.0
) -> None:
    """One turn. Raises: AssertionError where it does not end well."""
    last = time.perf_counter()
    into = times.first
    await ask(socket, text, output_modalities=["text"], max_output_tokens=tokens)
    async for message in socket:
        now = time.perf_counter()
        event = json.loads(message.data)
        if event["type"] == "response.output_text.delta":
            into.append((now - since, now - last))
            into, last = times.gaps, now
        elif event["type"] == "response.done":
            if event["response"]["status"] not in ("completed", "incomplete"):
                raise AssertionError(f"a reply is {event['response']['status']}")
            return
        elif event["type"] == "error":
            raise AssertionError(f"an error: {event['error']['code']}")
    raise AssertionError("the socket closed before the reply was done")
