"""Reads the server's events. Unknown ones are ignored; malformed ones are errors."""

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from loquent.errors import ConnectionFailedError, RefusedError
from loquent.pieces import Done, Heard, Picture, Piece, Screening, Sound, Text, ToolCall

Event = dict[str, Any]
Kind = TypeVar("Kind")
HEARD = "conversation.item.input_audio_transcription.completed"


def malformed(what: str) -> ConnectionFailedError:
    """The error for a server that does not keep to the protocol."""
    return ConnectionFailedError(f"What answers is no Loquent server: {what}.", "malformed")


def event_of(message: str | bytes) -> Event:
    """The event of a message. Raises: ConnectionFailedError."""
    try:
        event = json.loads(message) if isinstance(message, str) else None
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict):
        raise malformed("a message is no JSON object")
    field(event, "type", str)
    return event


def field(values: Mapping[str, Any], name: str, kind: type[Kind]) -> Kind:
    """A field that must be there, of this type. Raises: ConnectionFailedError."""
    value = values.get(name)
    if not isinstance(value, kind):
        raise malformed(f"{values.get('type', 'an event')!s:.60} has no valid {name}")
    return value


def inner(values: Mapping[str, Any], name: str) -> Event:
    """An object that may be missing. Raises: ConnectionFailedError when it is something else."""
    return {} if values.get(name) is None else field(values, name, dict)


def texts(values: Mapping[str, Any], name: str) -> list[str]:
    """A list that may be missing, of texts. Raises: ConnectionFailedError when it is something else."""
    return [] if values.get(name) is None else [str(each) for each in field(values, name, list)]


def error_of(event: Event) -> RefusedError:
    """What an error event says."""
    error = inner(event, "error")
    return RefusedError(str(error.get("message") or "The server refused."), str(error.get("code") or ""))


def pieces(event: Event, response: str) -> Iterator[Piece]:
    """What an event adds to this response, except for its end. Raises: ConnectionFailedError."""
    kind = event["type"]
    if kind == HEARD:
        yield Heard(field(event, "transcript", str))
    if event.get("response_id") != response:
        return
    match kind:
        case "response.output_text.delta" | "response.output_audio_transcript.delta":
            yield Text(field(event, "delta", str))
        case "response.output_audio.delta":
            yield Sound(_pcm(field(event, "delta", str)))
        case "response.output_item.done":
            item = field(event, "item", dict)
            if item.get("type") == "function_call" and item.get("status") != "incomplete":
                yield ToolCall(field(item, "call_id", str), field(item, "name", str), field(item, "arguments", str))


def ending(event: Event, said: str) -> Iterator[Piece]:
    """The last pieces of a response that is done; ``said`` is its text, if all of it was received.

    Raises: RefusedError when the response failed, ConnectionFailedError.
    """
    response = field(event, "response", dict)
    details = inner(response, "status_details")
    status = field(response, "status", str)
    if status == "failed":
        error = inner(details, "error")
        raise RefusedError(str(error.get("message") or "The reply failed."), str(error.get("code") or ""))
    extensions = inner(response, "loquent") or inner(event, "loquent")
    for image in _objects(extensions, "images"):
        yield Picture(field(image, "url", str), str(image.get("caption") or ""), int(field(image, "size", int)), image)
    if screening := inner(extensions, "screening"):
        yield Screening(field(screening, "action", str), tuple(_objects(screening, "verdicts")))
    reason = details.get("reason")
    yield Done(
        said or _text(response),
        status,
        None if reason is None else str(reason),
        inner(response, "usage"),
        tuple(texts(extensions, "warnings")),
    )


def _objects(values: Event, name: str) -> list[Event]:
    found = [] if values.get(name) is None else field(values, name, list)
    if not all(isinstance(each, dict) for each in found):
        raise malformed(f"{name} are no objects")
    return found


def _text(response: Event) -> str:
    parts = [part for item in _objects(response, "output") for part in _objects(item, "content")]
    return "".join(str(part.get("text") or part.get("transcript") or "") for part in parts)


def _pcm(delta: str) -> bytes:
    try:
        return base64.b64decode(delta, validate=True)
    except ValueError:
        raise malformed("sound is no base64") from None
