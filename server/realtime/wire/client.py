"""What a client sends, and how it is read."""

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    ValidationError,
    field_validator,
)
from pydantic_core import from_json

from server.realtime.wire.base import Wire, WireError, explain
from server.realtime.wire.items import Item
from server.realtime.wire.settings import ResponseConfig


class ClientEvent(Wire):
    """What a client sends."""

    type: str
    event_id: Annotated[str, Field(max_length=512)] | None = None


class SessionUpdate(ClientEvent):
    type: Literal["session.update"] = "session.update"
    session: dict[str, Any]  # merged into what holds, and checked then


class ItemCreate(ClientEvent):
    type: Literal["conversation.item.create"] = "conversation.item.create"
    previous_item_id: str | None = None
    item: Item


class ItemDelete(ClientEvent):
    type: Literal["conversation.item.delete"] = "conversation.item.delete"
    item_id: str


class ItemRetrieve(ClientEvent):
    type: Literal["conversation.item.retrieve"] = "conversation.item.retrieve"
    item_id: str


class ItemTruncate(ClientEvent):
    type: Literal["conversation.item.truncate"] = "conversation.item.truncate"
    item_id: str
    content_index: Annotated[int, Field(ge=0)]
    audio_end_ms: Annotated[int, Field(ge=0)]


class AudioAppend(ClientEvent):
    type: Literal["input_audio_buffer.append"] = "input_audio_buffer.append"
    audio: str

    @field_validator("audio")
    @classmethod
    def _dropped(cls, audio: str) -> str:
        return ""  # this server does not listen yet, and holds nothing of it


class AudioCommit(ClientEvent):
    type: Literal["input_audio_buffer.commit"] = "input_audio_buffer.commit"


class AudioClear(ClientEvent):
    type: Literal["input_audio_buffer.clear"] = "input_audio_buffer.clear"


class OutputAudioClear(ClientEvent):
    type: Literal["output_audio_buffer.clear"] = "output_audio_buffer.clear"


class ResponseCreate(ClientEvent):
    type: Literal["response.create"] = "response.create"
    response: ResponseConfig | None = None


class ResponseCancel(ClientEvent):
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
        AudioAppend,
        AudioCommit,
        AudioClear,
        OutputAudioClear,
        ResponseCreate,
        ResponseCancel,
    )
}


FEW = 64  # signs of structure in an event of audio: it is one long string and little else


def _may_be_audio(raw: str | bytes) -> bool:
    """Whether a long message has the shape of audio; building objects of any other takes the event loop's time."""
    text = raw if isinstance(raw, bytes) else raw.encode()
    return all(text.count(sign) <= FEW for sign in (b"[", b"{", b",", b'"'))


def parse(raw: str | bytes, *, message_bytes: int) -> ClientEvent:
    """Read one message of a client; ``message_bytes`` limits all but audio.

    Raises: WireError that says what is wrong with it and, where the client gave one, names its event.
    """
    if len(raw) > message_bytes and not _may_be_audio(raw):
        raise WireError("message_too_large", f"The message has {len(raw)} bytes; at most {message_bytes} are read.")
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
        raise WireError(what, f"{kind!r:.80} is no client event; there are {known}.", param="type", event_id=event_id)
    if event is not AudioAppend and len(raw) > message_bytes:
        text = f"The message has {len(raw)} bytes; at most {message_bytes} are read."
        raise WireError("message_too_large", text, event_id=event_id)
    try:
        return event.model_validate(data)
    except ValidationError as error:
        raise explain(error, event_id=event_id) from None
