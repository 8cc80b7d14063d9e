"""Wyoming events on a stream, with a limit on everything that a peer can make large.

An event is a line of JSON, then ``data_length`` bytes of more JSON and ``payload_length`` bytes of sound. The wyoming
package reads lines, data and payloads of any size, and takes malformed ones for the end of the stream.
"""

import asyncio
import json
from typing import Any

from wyoming.event import Event, async_write_event

LINE_BYTES = 64 * 1024
DATA_BYTES = 128 * 1024
PAYLOAD_BYTES = 1024 * 1024
ARRIVAL_SECONDS = 30.0  # from an event's first byte to its last
SEND_SECONDS = 10.0


class FrameError(Exception):
    """The peer sent what is no event; the message says why."""


async def read_event(reader: asyncio.StreamReader) -> Event | None:
    """The next event, ``None`` at the end of the stream; waits without limit for the first byte.

    The reader's limit must be ``LINE_BYTES``.

    Raises: FrameError for anything malformed, too large or too slow, OSError when the connection is lost.
    """
    first = await reader.read(1)
    if not first:
        return None
    try:
        async with asyncio.timeout(ARRIVAL_SECONDS):
            return await _rest(reader, first)
    except TimeoutError:
        raise FrameError(f"An event did not arrive within {ARRIVAL_SECONDS:.0f} s.") from None
    except asyncio.IncompleteReadError:
        raise FrameError("The connection ended amid an event.") from None


async def _rest(reader: asyncio.StreamReader, first: bytes) -> Event:
    header = await _header(reader, first)
    data = header.get("data") or {}
    length = _length(header, "data_length", DATA_BYTES)
    if length:
        more = _json(await reader.readexactly(length))
        if isinstance(data, dict):
            data = {**data, **more}
    if not isinstance(data, dict):
        raise FrameError("An event's data is a JSON object.")
    length = _length(header, "payload_length", PAYLOAD_BYTES)
    payload = await reader.readexactly(length) if length else None
    return Event(header["type"], data, payload)


async def _header(reader: asyncio.StreamReader, first: bytes) -> dict[str, Any]:
    try:
        line = first if first == b"\n" else first + await reader.readuntil(b"\n")
    except asyncio.LimitOverrunError:
        raise FrameError(f"An event's first line may have {LINE_BYTES} bytes.") from None
    header = _json(line)
    if not isinstance(header.get("type"), str):
        raise FrameError("An event has a type.")
    return header


def _json(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise FrameError("An event is a line of JSON.") from None
    if not isinstance(value, dict):
        raise FrameError("An event is a JSON object.")
    return value


def _length(header: dict[str, Any], name: str, most: int) -> int:
    value = header.get(name)
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise FrameError(f"{name} is 0 to {most}; it is {value!r:.40}.")
    return value


def text_of(event: Event, name: str = "text", *, most: int) -> str:
    """A text among the event's data, "" where there is none. Raises: FrameError when it is no text, or too long."""
    value = event.data.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise FrameError(f"{event.type}: {name} is a text.")
    if len(value.encode(errors="replace")) > most:
        raise FrameError(f"{event.type}: {name} may have {most} bytes.")
    return value


def object_of(event: Event, name: str) -> dict[str, Any]:
    """A JSON object among the event's data, empty where there is none. Raises: FrameError when it is something else."""
    value = event.data.get(name) or {}
    if not isinstance(value, dict):
        raise FrameError(f"{event.type}: {name} is a JSON object.")
    return value


async def write_event(writer: asyncio.StreamWriter, event: Event) -> None:
    """Send an event. Raises: OSError (TimeoutError too) when the peer is gone or does not read."""
    async with asyncio.timeout(SEND_SECONDS):
        await async_write_event(event, writer)
