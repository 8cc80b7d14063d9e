"""The client events, and how they are parsed."""

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    ValidationError,
)
from pydantic_core import from_json

from server.realtime.wire.base import Wire, WireError, explain
from server.realtime.wire.items import COMMENT, Item, Rating
from server.realtime.wire.settings import ResponseConfig


class ClientEvent(Wire):
    """An event from a client."""

    type: str
    event_id: Annotated[str, Field(max_length=512)] | None = None


class SessionUpdate(ClientEvent):
    """Change the session's configuration."""

    type: Literal["session.update"] = "session.update"
    session: dict[str, Any]  # validated after it is merged into the current one


class ItemCreate(ClientEvent):
    """Add an item to the conversation."""

    type: Literal["conversation.item.create"] = "conversation.item.create"
    previous_item_id: str | None = None
    item: Item


class ItemDelete(ClientEvent):
    """Delete an item from the conversation."""

    type: Literal["conversation.item.delete"] = "conversation.item.delete"
    item_id: str


class ItemRetrieve(ClientEvent):
    """Request an item."""

    type: Literal["conversation.item.retrieve"] = "conversation.item.retrieve"
    item_id: str


class ItemTruncate(ClientEvent):
    """Cut what the listener did not hear of a spoken reply."""

    type: Literal["conversation.item.truncate"] = "conversation.item.truncate"
    item_id: str
    content_index: Annotated[int, Field(ge=0)]
    audio_end_ms: Annotated[int, Field(ge=0)]


class GiveFeedback(ClientEvent):
    """What the user thinks of a reply; ``rating`` null takes it back."""

    type: Literal["loquent.feedback"] = "loquent.feedback"
    item_id: str
    rating: Rating | None
    comment: Annotated[str, Field(max_length=COMMENT)] | None = Field(default=None, repr=False)  # seen in no log


class AudioAppend(ClientEvent):
    """More of the user's audio."""

    type: Literal["input_audio_buffer.append"] = "input_audio_buffer.append"
    audio: str = Field(repr=False)  # base64


class AudioCommit(ClientEvent):
    """The user's audio is complete."""

    type: Literal["input_audio_buffer.commit"] = "input_audio_buffer.commit"


class AudioClear(ClientEvent):
    """Discard the user's audio."""

    type: Literal["input_audio_buffer.clear"] = "input_audio_buffer.clear"


class OutputAudioClear(ClientEvent):
    """WebRTC's way to stop playback."""

    type: Literal["output_audio_buffer.clear"] = "output_audio_buffer.clear"


class ResponseCreate(ClientEvent):
    """Request a response."""

    type: Literal["response.create"] = "response.create"
    response: ResponseConfig | None = None


class ResponseCancel(ClientEvent):
    """Cancel a response."""

    type: Literal["response.cancel"] = "response.cancel"
    response_id: str | None = None


CLIENT_EVENTS: dict[str, type[ClientEvent]] = {
    event.model_fields["type"].default: event
    for event in (
        SessionUpdate,
        ItemCreate,
        ItemDelete,
        ItemRetrieve,
        ItemTruncate,
        GiveFeedback,
        AudioAppend,
        AudioCommit,
        AudioClear,
        OutputAudioClear,
        ResponseCreate,
        ResponseCancel,
    )
}


FEW = 64  # structural characters of an audio event at most: it is one long string and little else


def _may_be_audio(raw: str | bytes) -> bool:
    """Whether a long message can be an audio event. Any other is refused unparsed: parsing it would block the loop."""
    text = raw if isinstance(raw, bytes) else raw.encode()
    return all(text.count(sign) <= FEW for sign in (b"[", b"{", b",", b'"'))


def parse(raw: str | bytes, *, message_bytes: int) -> ClientEvent:
    """Parse one message of a client; ``message_bytes`` limits all but audio.

    Raises: WireError with the client's ``event_id``, if it sent one.
    """
    if len(raw) > message_bytes and not _may_be_audio(raw):
        raise WireError("message_too_large", f"The message has {len(raw)} bytes; the limit is {message_bytes}.")
    try:
        data = from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise WireError("invalid_json", f"The message is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise WireError("invalid_json", "A message is a JSON object.")
    given = data.get("event_id")
    event_id = given if isinstance(given, str) else None
    kind = data.get("type")
    event = CLIENT_EVENTS.get(kind) if isinstance(kind, str) else None
    if event is None:
        what = "missing_required_parameter" if kind is None else "unknown_event"
        known = ", ".join(sorted(CLIENT_EVENTS))
        raise WireError(
            what, f"{kind!r:.80} is not a client event; the events are {known}.", param="type", event_id=event_id
        )
    if event is not AudioAppend and len(raw) > message_bytes:
        text = f"The message has {len(raw)} bytes; the limit is {message_bytes}."
        raise WireError("message_too_large", text, event_id=event_id)
    try:
        return event.model_validate(data)
    except ValidationError as error:
        raise explain(error, event_id=event_id) from None
