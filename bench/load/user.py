"""One user of the load: a Realtime session whose turns begin when they are due."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import aiohttp

from bench.load.figures import Measured
from bench.load.plan import Turn, Visit

PATIENCE = 60.0  # seconds that a user waits for a reply's end
CONNECTING = 10.0  # seconds
RATE, FRAME = 24_000, 0.1  # samples a second of what is sent; seconds of a message of it
SILENCE = 0.8  # seconds sent behind what is said, so that its end is heard


@dataclass(frozen=True, slots=True)
class Target:
    """The server, and what users send to it."""

    url: str
    key: str
    model: str
    tokens: int  # of a reply
    said: bytes  # PCM, 16 bit: what users who speak say
    begun: float  # the run's beginning, as ``time.monotonic`` has it, the same in every process of a machine


class TurnFailed(Exception):  # noqa: N818 - an outcome, not a fault
    """A turn that ended otherwise than with a reply; the message names it in the table."""


async def visit(http: aiohttp.ClientSession, target: Target, plan: Visit, measured: Measured) -> None:
    """Connect when the user comes, and take one turn after another; what fails ends the visit."""
    await _until(target, plan.comes, measured)
    taken = 0
    try:
        async with _connected(http, target, plan, measured) as socket:
            for turn in plan.turns:
                await _until(target, turn.due, measured)
                async with asyncio.timeout(PATIENCE):
                    await _take(socket, target, plan, turn, measured)
                measured.outcomes["completed"] += 1
                taken += 1
    except TurnFailed as failure:
        measured.outcomes[str(failure)] += 1
        taken += 1
    except TimeoutError:
        measured.outcomes["no end within the time limit"] += 1
        taken += 1
    except (aiohttp.ClientError, OSError, TypeError) as error:  # TypeError: what came was no text
        measured.outcomes[f"the connection failed ({type(error).__name__})"] += 1
        taken += 1
    if taken < len(plan.turns):
        measured.outcomes["not taken, because one before it failed"] += len(plan.turns) - taken


async def _until(target: Target, due: float, measured: Measured) -> None:
    """Wait for a moment of the plan, and note how late the generator is at it, unless a reply held it up."""
    ahead = target.begun + due - time.monotonic()
    if ahead > 0:
        await asyncio.sleep(ahead)
        measured.times["late"].append(time.monotonic() - target.begun - due)


@asynccontextmanager
async def _connected(
    http: aiohttp.ClientSession, target: Target, plan: Visit, measured: Measured
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    begun = time.monotonic()
    headers = {"Authorization": f"Bearer {target.key}"} if target.key else {}
    try:
        async with asyncio.timeout(CONNECTING):
            socket = await http.ws_connect(f"{target.url}/v1/realtime?model={target.model}", headers=headers)
    except aiohttp.WSServerHandshakeError as error:
        raise TurnFailed(f"refused ({error.status})") from None
    async with socket:
        await _configure(socket, target, plan)
        measured.times["connect"].append(time.monotonic() - begun)
        yield socket


async def _configure(socket: aiohttp.ClientWebSocketResponse, target: Target, plan: Visit) -> None:
    detection: dict[str, Any] | None = {"type": "server_vad", "create_response": True} if plan.kind == "audio" else None
    session = {
        "type": "realtime",
        "max_output_tokens": target.tokens,
        "output_modalities": ["text" if plan.kind == "text" else "audio"],
        "audio": {"input": {"turn_detection": detection}},
    }
    await socket.send_json({"type": "session.update", "session": session})
    async with asyncio.timeout(CONNECTING):
        while (event := _event(await socket.receive()))["type"] != "session.updated":
            _fail(event)


async def _take(
    socket: aiohttp.ClientWebSocketResponse, target: Target, plan: Visit, turn: Turn, measured: Measured
) -> None:
    """Say one thing, and read its reply to the end."""
    due = target.begun + turn.due
    if plan.kind == "audio":
        ended = await _speak(socket, target.said)
        sent = due = ended  # what is spoken has its length; nothing can be late before it is said
    else:
        sent = time.monotonic()
        await _write(socket, turn.text)
    texts: list[float] = []
    sounded = False
    while True:
        event = _event(await socket.receive())
        now = time.monotonic()
        match event["type"]:
            case "response.output_text.delta" | "response.output_audio_transcript.delta":
                texts.append(now)
            case "response.output_audio.delta" if not sounded:
                sounded = True
                measured.times["heard" if plan.kind == "audio" else "sound"].append(now - due)
            case "response.done":
                break
            case _:
                _fail(event)
    _done(event["response"])
    usage = event["response"]["usage"]
    measured.tokens += usage["output_tokens"]
    measured.read += usage["input_tokens"] - usage["input_token_details"]["cached_tokens"]
    if texts:
        measured.times["first"].append(texts[0] - due)
        measured.times["served"].append(texts[0] - sent)
        measured.times["gap"] += [later - earlier for earlier, later in pairwise(texts)]
    measured.seconds = max(measured.seconds, now - target.begun)


async def _write(socket: aiohttp.ClientWebSocketResponse, text: str) -> None:
    content = [{"type": "input_text", "text": text}]
    item = {"type": "message", "role": "user", "content": content}
    await socket.send_json({"type": "conversation.item.create", "item": item})
    await socket.send_json({"type": "response.create"})


async def _speak(socket: aiohttp.ClientWebSocketResponse, said: bytes) -> float:
    """Send sound as it would come from a microphone; the moment at which what was said ended."""
    size = int(RATE * FRAME) * 2
    frames = [said[at : at + size] for at in range(0, len(said), size)]
    begun = time.monotonic()
    for number, frame in enumerate([*frames, *[bytes(size)] * round(SILENCE / FRAME)]):
        await asyncio.sleep(begun + number * FRAME - time.monotonic())
        await socket.send_json({"type": "input_audio_buffer.append", "audio": base64.b64encode(frame).decode()})
    return begun + len(frames) * FRAME


def _event(message: aiohttp.WSMessage) -> dict[str, Any]:
    if message.type is not aiohttp.WSMsgType.TEXT:
        raise TurnFailed(f"the server closed the socket ({message.data})")
    event: dict[str, Any] = json.loads(message.data)
    return event


def _fail(event: dict[str, Any]) -> None:
    if event["type"] == "error":
        raise TurnFailed(f"error {event['error']['code']}")


def _done(response: dict[str, Any]) -> None:
    if response["status"] == "failed":
        raise TurnFailed(f"failed ({response['status_details']['error']['code']})")
    if response["status"] == "cancelled":
        raise TurnFailed("cancelled")
