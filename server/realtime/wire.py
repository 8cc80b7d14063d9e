"""The wire format of ``/v1/realtime``: OpenAI Realtime (GA), text and JSON only.

The authority for names and fields is the ``openai`` package's ``openai/types/realtime``. Nothing here touches a socket
or a model. Keys that this server does not know are ignored, so that newer clients work; the ones under ``loquent`` are
its own and must be right.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError, from_json

from pipelines.events import Sampling, Usage

Id = Annotated[str, Field(min_length=1, max_length=128)]
Modality = Literal["text", "audio"]
MaxTokens = Annotated[int, Field(ge=1)] | Literal["inf"]


class WireError(Exception):
    """A message that is no valid client event."""

    def __init__(self, code: str, message: str, *, param: str | None = None, event_id: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.event_id = event_id


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class _WithoutNone(_Wire):
    """Absent fields are left out, as the clients' own types want it."""

    @model_serializer(mode="wrap")
    def _drop_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value is not None}


# Conversation items


class Content(_WithoutNone):
    """A part of a message. Text under any of its names; audio only with its transcript."""

    type: Literal["input_text", "output_text", "text", "input_audio", "output_audio", "audio", "input_image"]
    text: str | None = None
    transcript: str | None = None

    @model_validator(mode="after")
    def _readable(self) -> "Content":
        if self.type == "input_image":
            raise PydanticCustomError("unsupported_content", "This server's model reads no images.")
        if "audio" in self.type:
            if self.transcript is None:
                raise PydanticCustomError("unsupported_content", "Audio is read only with its transcript.")
        elif self.text is None:
            raise PydanticCustomError("missing", "A text part needs its text.")
        return self

    @property
    def words(self) -> str:
        """What the model reads."""
        return (self.transcript if "audio" in self.type else self.text) or ""


class Item(_WithoutNone):
    """An entry of a conversation."""

    id: Id | None = None
    object: Literal["realtime.item"] | None = None
    type: Literal["message", "function_call", "function_call_output", "item_reference"]
    status: Literal["completed", "incomplete", "in_progress"] | None = None
    role: Literal["system", "user", "assistant"] | None = None
    content: Annotated[list[Content], Field(max_length=64)] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | None = None

    _needs: ClassVar[dict[str, tuple[str, ...]]] = {
        "message": ("role", "content"),
        "function_call": ("name", "arguments"),
        "function_call_output": ("call_id", "output"),
        "item_reference": ("id",),
    }

    @model_validator(mode="after")
    def _complete(self) -> "Item":
        for field in self._needs[self.type]:
            if getattr(self, field) is None:
                raise PydanticCustomError("missing", "An item of this type needs {field}.", {"field": field})
        return self

    @property
    def size(self) -> int:
        """Bytes that it takes on the wire."""
        return len(self.model_dump_json())

    @property
    def words(self) -> str:
        """What the model reads of it."""
        if self.type == "function_call_output":
            return self.output or ""
        return "".join(part.words for part in self.content or ())


# Session and response settings


class SamplingExtension(_WithoutNone):
    """How to draw tokens; GA Realtime has no words for it."""

    model_config = ConfigDict(extra="forbid")

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Annotated[list[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=16)] | None = None

    def over(self, below: "SamplingExtension") -> Sampling:
        """These values, and ``below``'s where there are none."""
        values = below.model_dump() | self.model_dump()
        return Sampling(**values | {"stop": tuple(values.get("stop", ()))})


class Extension(_WithoutNone):
    """What travels under the key ``loquent``."""

    model_config = ConfigDict(extra="forbid")

    sampling: SamplingExtension | None = None


class AudioFormat(_WithoutNone):
    """How audio is encoded."""

    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"] = "audio/pcm"
    rate: Literal[24000] | None = None


PCM = AudioFormat(type="audio/pcm", rate=24000)


class Transcription(_WithoutNone):
    """Who writes down what was heard."""

    model: str | None = None
    language: str | None = None
    prompt: str | None = None


class NoiseReduction(_Wire):
    """Cleaning of what is heard."""

    type: Literal["near_field", "far_field"]


class TurnDetection(_WithoutNone):
    """When a speaker's turn is over."""

    type: Literal["server_vad", "semantic_vad"]
    create_response: bool | None = None
    interrupt_response: bool | None = None
    prefix_padding_ms: int | None = None
    silence_duration_ms: int | None = None
    idle_timeout_ms: int | None = None
    threshold: float | None = None
    eagerness: Literal["low", "medium", "high", "auto"] | None = None


class AudioInput(_Wire):
    """What a session does with audio that comes in."""

    format: AudioFormat = PCM
    transcription: Transcription | None = None
    noise_reduction: NoiseReduction | None = None
    turn_detection: TurnDetection | None = None


class VoiceId(_Wire):
    """A voice, by its id."""

    id: str


class AudioOutput(_WithoutNone):
    """How a session speaks."""

    format: AudioFormat = PCM
    voice: str | VoiceId | None = None
    speed: Annotated[float, Field(ge=0.25, le=1.5)] = 1.0


class Audio(_Wire):
    """A session's ears and voice."""

    input: AudioInput = AudioInput()
    output: AudioOutput = AudioOutput()


class Tool(_WithoutNone):
    """A function that the model could call; stored and given back, not called yet."""

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Reasoning(_WithoutNone):
    """Accepted and given back; the models here do not think aloud."""

    effort: Literal["minimal", "low", "medium", "high", "xhigh"] | None = None


ToolChoice = Literal["auto", "none", "required"] | dict[str, Any]


class SessionConfig(_WithoutNone):
    """What ``session.update`` can set."""

    type: Literal["realtime"] = "realtime"
    model: str = ""
    instructions: str = ""
    output_modalities: Annotated[list[Modality], Field(min_length=1, max_length=1)] = ["text"]
    audio: Audio = Audio()
    tools: Annotated[list[Tool], Field(max_length=128)] = []
    tool_choice: ToolChoice = "auto"
    max_output_tokens: MaxTokens = "inf"
    include: list[str] | None = None
    tracing: Literal["auto"] | dict[str, Any] | None = None
    truncation: Literal["auto", "disabled"] | dict[str, Any] | None = None
    reasoning: Reasoning | None = None
    loquent: Extension | None = None


class Session(SessionConfig):
    """A session, as the server tells it."""

    id: str
    object: Literal["realtime.session"] = "realtime.session"


Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]


class ResponseConfig(_Wire):
    """What ``response.create`` can say about one response."""

    conversation: Literal["auto", "none"] = "auto"
    input: list[Item] | None = None
    instructions: str | None = None
    output_modalities: Annotated[list[Modality], Field(min_length=1, max_length=1)] | None = None
    max_output_tokens: MaxTokens | None = None
    metadata: Metadata | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    loquent: Extension | None = None


# Client events


class ClientEvent(_Wire):
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


# Server events


class ServerEvent(_Wire):
    """What the server sends; ``dump`` adds the ``event_id``."""

    type: str


class ErrorBody(_Wire):
    """What went wrong; ``event_id`` is the client's event that it is about."""

    type: str
    code: str
    message: str
    param: str | None = None
    event_id: str | None = None


class Error(ServerEvent):
    type: Literal["error"] = "error"
    error: ErrorBody


class SessionCreated(ServerEvent):
    type: Literal["session.created"] = "session.created"
    session: Session


class Warnings(_Wire):
    """What was asked for and can't be had, in words."""

    warnings: list[str]


class SessionUpdated(ServerEvent):
    type: Literal["session.updated"] = "session.updated"
    session: Session
    loquent: Warnings | None = None

    @model_serializer(mode="wrap")
    def _drop_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value is not None}


class Conversation(_Wire):
    id: str
    object: Literal["realtime.conversation"] = "realtime.conversation"


class ConversationCreated(ServerEvent):
    type: Literal["conversation.created"] = "conversation.created"
    conversation: Conversation


class ItemAdded(ServerEvent):
    type: Literal["conversation.item.added"] = "conversation.item.added"
    previous_item_id: str | None
    item: Item


class ItemDone(ServerEvent):
    type: Literal["conversation.item.done"] = "conversation.item.done"
    previous_item_id: str | None
    item: Item


class ItemDeleted(ServerEvent):
    type: Literal["conversation.item.deleted"] = "conversation.item.deleted"
    item_id: str


class ItemRetrieved(ServerEvent):
    type: Literal["conversation.item.retrieved"] = "conversation.item.retrieved"
    item: Item


class ItemTruncated(ServerEvent):
    type: Literal["conversation.item.truncated"] = "conversation.item.truncated"
    item_id: str
    content_index: int
    audio_end_ms: int


class AudioCleared(ServerEvent):
    type: Literal["input_audio_buffer.cleared"] = "input_audio_buffer.cleared"


class CachedDetails(_Wire):
    text_tokens: int
    audio_tokens: int = 0
    image_tokens: int = 0


class InputDetails(_Wire):
    text_tokens: int
    cached_tokens: int
    cached_tokens_details: CachedDetails
    audio_tokens: int = 0
    image_tokens: int = 0


class OutputDetails(_Wire):
    text_tokens: int
    audio_tokens: int = 0


class ResponseUsage(_Wire):
    total_tokens: int
    input_tokens: int
    output_tokens: int
    input_token_details: InputDetails
    output_token_details: OutputDetails

    @classmethod
    def of(cls, usage: Usage) -> "ResponseUsage":
        """The pipeline's counts in the protocol's form."""
        return cls(
            total_tokens=usage.input_tokens + usage.output_tokens,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            input_token_details=InputDetails(
                text_tokens=usage.input_tokens,
                cached_tokens=usage.cached_tokens,
                cached_tokens_details=CachedDetails(text_tokens=usage.cached_tokens),
            ),
            output_token_details=OutputDetails(text_tokens=usage.output_tokens),
        )


class StatusError(_Wire):
    type: str
    code: str
    message: str


class StatusDetails(_WithoutNone):
    """Why a response ended as it did."""

    type: Literal["completed", "cancelled", "incomplete", "failed"]
    reason: Literal["turn_detected", "client_cancelled", "max_output_tokens", "content_filter"] | None = None
    error: StatusError | None = None


class Response(_Wire):
    """A response; every field is always there."""

    id: str
    object: Literal["realtime.response"] = "realtime.response"
    status: Literal["in_progress", "completed", "cancelled", "failed", "incomplete"]
    status_details: StatusDetails | None = None
    output: list[Item] = []
    conversation_id: str | None
    output_modalities: list[Modality]
    max_output_tokens: MaxTokens
    metadata: Metadata | None
    usage: ResponseUsage | None = None


class ResponseCreated(ServerEvent):
    type: Literal["response.created"] = "response.created"
    response: Response


class ResponseDone(ServerEvent):
    type: Literal["response.done"] = "response.done"
    response: Response


class RateLimits(ServerEvent):
    type: Literal["rate_limits.updated"] = "rate_limits.updated"
    rate_limits: list[dict[str, Any]] = []


class _OfResponse(ServerEvent):
    response_id: str
    output_index: int = 0


class OutputItemAdded(_OfResponse):
    type: Literal["response.output_item.added"] = "response.output_item.added"
    item: Item


class OutputItemDone(_OfResponse):
    type: Literal["response.output_item.done"] = "response.output_item.done"
    item: Item


class Part(_Wire):
    type: Literal["text"] = "text"
    text: str


class _OfPart(_OfResponse):
    item_id: str
    content_index: int = 0


class PartAdded(_OfPart):
    type: Literal["response.content_part.added"] = "response.content_part.added"
    part: Part


class PartDone(_OfPart):
    type: Literal["response.content_part.done"] = "response.content_part.done"
    part: Part


class TextDelta(_OfPart):
    type: Literal["response.output_text.delta"] = "response.output_text.delta"
    delta: str


class TextDone(_OfPart):
    type: Literal["response.output_text.done"] = "response.output_text.done"
    text: str


SERVER_EVENTS: dict[str, type[ServerEvent]] = {
    event.model_fields["type"].default: event
    for event in (
        Error,
        SessionCreated,
        SessionUpdated,
        ConversationCreated,
        ItemAdded,
        ItemDone,
        ItemDeleted,
        ItemRetrieved,
        ItemTruncated,
        AudioCleared,
        ResponseCreated,
        ResponseDone,
        RateLimits,
        OutputItemAdded,
        OutputItemDone,
        PartAdded,
        PartDone,
        TextDelta,
        TextDone,
    )
}


def dump(event: ServerEvent, event_id: str) -> str:
    """The event as JSON text. ``event_id`` must need no escaping."""
    return f'{{"event_id":"{event_id}",{event.model_dump_json()[1:]}'


def parse(raw: str | bytes, *, message_bytes: int) -> ClientEvent:
    """Read one message of a client; ``message_bytes`` limits all but audio.

    Raises: WireError that says what is wrong with it and, where the client gave one, names its event.
    """
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


def explain(error: ValidationError, *, event_id: str | None = None, above: str = "") -> WireError:
    """The first problem of a failed validation in the protocol's words; ``above`` is put before its path."""
    problem = error.errors(include_url=False, include_input=False)[0]
    param = above + ".".join(str(part) for part in problem["loc"])
    codes = {"missing": "missing_required_parameter", "unsupported_content": "unsupported_content"}
    code = codes.get(problem["type"], "unknown_parameter" if problem["type"] == "extra_forbidden" else "invalid_value")
    return WireError(code, f"{param}: {problem['msg']}", param=param, event_id=event_id)


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """``above`` over ``below``, object by object; anything else, ``null`` too, replaces what was there."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
