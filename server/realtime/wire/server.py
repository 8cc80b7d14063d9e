"""The server events."""

from typing import Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from pipelines.events import Usage
from server.realtime.wire.base import MaxTokens, Modality, Sparse, Wire, WireError
from server.realtime.wire.items import Item, Rating
from server.realtime.wire.settings import Metadata, ResponseAudio


class ServerEvent(Wire):
    """An event from the server; ``dump`` adds the ``event_id``."""

    type: str


class ErrorBody(Wire):
    """An error; ``event_id`` names the client event that caused it."""

    type: str
    code: str
    message: str
    param: str | None = None
    event_id: str | None = None


class Error(ServerEvent):
    """A client event was invalid; the session continues."""

    type: Literal["error"] = "error"
    error: ErrorBody

    @classmethod
    def of(cls, error: WireError, event_id: str | None = None) -> "Error":
        """The event that says what was wrong, with the client event that caused it."""
        body = ErrorBody(
            type="invalid_request_error", code=error.code, message=error.message, param=error.param, event_id=event_id
        )
        return cls(error=body)


class Conversation(Wire):
    """The session's conversation."""

    id: str
    object: Literal["realtime.conversation"] = "realtime.conversation"


class ConversationCreated(ServerEvent):
    """The second event."""

    type: Literal["conversation.created"] = "conversation.created"
    conversation: Conversation


class ItemAdded(ServerEvent):
    """An item was added to the conversation."""

    type: Literal["conversation.item.added"] = "conversation.item.added"
    previous_item_id: str | None
    item: Item


class ItemDone(ServerEvent):
    """An item is complete."""

    type: Literal["conversation.item.done"] = "conversation.item.done"
    previous_item_id: str | None
    item: Item


class ItemDeleted(ServerEvent):
    """An item was deleted."""

    type: Literal["conversation.item.deleted"] = "conversation.item.deleted"
    item_id: str


class ItemRetrieved(ServerEvent):
    """The requested item."""

    type: Literal["conversation.item.retrieved"] = "conversation.item.retrieved"
    item: Item


class ItemTruncated(ServerEvent):
    """What the listener did not hear was cut."""

    type: Literal["conversation.item.truncated"] = "conversation.item.truncated"
    item_id: str
    content_index: int
    audio_end_ms: int


class FeedbackRecorded(ServerEvent):
    """What the user thinks of a reply is stored, as far as the conversation is."""

    type: Literal["loquent.feedback.recorded"] = "loquent.feedback.recorded"
    item_id: str
    rating: Rating | None  # None: it was taken back


class AudioCleared(ServerEvent):
    """The user's audio was discarded."""

    type: Literal["input_audio_buffer.cleared"] = "input_audio_buffer.cleared"


class CachedDetails(Wire):
    """Input tokens found in the prefix cache, by modality."""

    text_tokens: int
    audio_tokens: int = 0
    image_tokens: int = 0


class InputDetails(Wire):
    """Input tokens, by modality."""

    text_tokens: int
    cached_tokens: int
    cached_tokens_details: CachedDetails
    audio_tokens: int = 0
    image_tokens: int = 0


class OutputDetails(Wire):
    """Output tokens, by modality."""

    text_tokens: int
    audio_tokens: int = 0


class ResponseUsage(Wire):
    """Tokens of a response."""

    total_tokens: int
    input_tokens: int
    output_tokens: int
    input_token_details: InputDetails
    output_token_details: OutputDetails

    @classmethod
    def of(cls, usage: Usage, *, audio_tokens: int = 0) -> "ResponseUsage":
        """The pipeline's counts in the protocol's form; audio tokens are added to those of the spoken text."""
        output_tokens = usage.output_tokens + audio_tokens
        return cls(
            total_tokens=usage.input_tokens + output_tokens,
            input_tokens=usage.input_tokens,
            output_tokens=output_tokens,
            input_token_details=InputDetails(
                text_tokens=usage.input_tokens,
                cached_tokens=usage.cached_tokens,
                cached_tokens_details=CachedDetails(text_tokens=usage.cached_tokens),
            ),
            output_token_details=OutputDetails(text_tokens=usage.output_tokens, audio_tokens=audio_tokens),
        )


class StatusError(Wire):
    """Why a response failed."""

    type: str
    code: str
    message: str


class StatusDetails(Sparse):
    """Why a response ended as it did."""

    type: Literal["completed", "cancelled", "incomplete", "failed"]
    reason: Literal["turn_detected", "client_cancelled", "max_output_tokens", "content_filter"] | None = None
    error: StatusError | None = None


class Response(Wire):
    """A response. Every field is always present, except ``audio``: only a spoken response has it."""

    id: str
    object: Literal["realtime.response"] = "realtime.response"
    status: Literal["in_progress", "completed", "cancelled", "failed", "incomplete"]
    status_details: StatusDetails | None = None
    output: list[Item] = Field(default_factory=list)
    conversation_id: str | None
    output_modalities: list[Modality]
    audio: ResponseAudio | None = None
    max_output_tokens: MaxTokens
    metadata: Metadata | None
    usage: ResponseUsage | None = None

    @model_serializer(mode="wrap")
    def _drop_audio(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if key != "audio" or value is not None}


class Queue(Wire):
    """The response waits for the model."""

    ahead: int  # replies that must end before it begins


class ResponseNotes(Sparse):
    """What else is to be said of a response that begins."""

    warnings: list[str] | None = None  # what was requested and is not available, in words
    queue: Queue | None = None


class ResponseCreated(ServerEvent, Sparse):
    """A response has begun."""

    type: Literal["response.created"] = "response.created"
    response: Response
    loquent: ResponseNotes | None = None


class Screening(Wire):
    """The action on a turn's messages, and the verdict on each."""

    action: Literal["allow", "flag", "deflect"]
    verdicts: list[dict[str, Any]]


class Image(Wire):
    """A picture that belongs to a reply."""

    id: str
    caption: str
    seed: int
    style: str
    model: str
    size: int  # pixels of a side
    url: str
    expires_at: int  # seconds since 1970


class ResponseExtension(Sparse):
    """The ``loquent`` extension of ``response.done``."""

    screening: Screening | None = None
    images: list[Image] | None = None
    warnings: list[str] | None = None  # what was done to its input


class ResponseDone(ServerEvent, Sparse):
    """A response has ended, whatever its status."""

    type: Literal["response.done"] = "response.done"
    response: Response
    loquent: ResponseExtension | None = None


class RateLimit(Wire):
    """How much is left of one limit."""

    name: Literal["requests", "tokens"]
    limit: int
    remaining: int
    reset_seconds: float


class RateLimits(ServerEvent):
    """The client's rate limits, as far as it has any."""

    type: Literal["rate_limits.updated"] = "rate_limits.updated"
    rate_limits: list[RateLimit] = Field(default_factory=list)


class _OfResponse(ServerEvent):
    response_id: str
    output_index: int = 0


class OutputItemAdded(_OfResponse):
    """A response got an item."""

    type: Literal["response.output_item.added"] = "response.output_item.added"
    item: Item


class OutputItemDone(_OfResponse):
    """A response's item is complete."""

    type: Literal["response.output_item.done"] = "response.output_item.done"
    item: Item


class ContentPart(Sparse):
    """A piece of an item: text, or sound with its transcript."""

    type: Literal["text", "audio"] = "text"
    text: str | None = None
    transcript: str | None = None  # of audio


class _OfPart(_OfResponse):
    item_id: str
    content_index: int = 0


class PartAdded(_OfPart):
    """An item got a part."""

    type: Literal["response.content_part.added"] = "response.content_part.added"
    part: ContentPart


class PartDone(_OfPart):
    """A part is complete."""

    type: Literal["response.content_part.done"] = "response.content_part.done"
    part: ContentPart


class TextDelta(_OfPart):
    """The next piece of the text."""

    type: Literal["response.output_text.delta"] = "response.output_text.delta"
    delta: str


class TextDone(_OfPart):
    """The text is complete."""

    type: Literal["response.output_text.done"] = "response.output_text.done"
    text: str


class AudioDelta(_OfPart):
    """The next piece of sound, PCM in base64."""

    type: Literal["response.output_audio.delta"] = "response.output_audio.delta"
    delta: str  # base64


class AudioDone(_OfPart):
    """The sound is complete."""

    type: Literal["response.output_audio.done"] = "response.output_audio.done"


class TranscriptDelta(_OfPart):
    """The next piece of the transcript."""

    type: Literal["response.output_audio_transcript.delta"] = "response.output_audio_transcript.delta"
    delta: str


class TranscriptDone(_OfPart):
    """The transcript is complete."""

    type: Literal["response.output_audio_transcript.done"] = "response.output_audio_transcript.done"
    transcript: str


class _OfCall(_OfResponse):
    item_id: str
    call_id: str


class ArgumentsDelta(_OfCall):
    """The next piece of a function call's arguments."""

    type: Literal["response.function_call_arguments.delta"] = "response.function_call_arguments.delta"
    delta: str


class ArgumentsDone(_OfCall):
    """A function call's arguments are complete, or as complete as they will be."""

    type: Literal["response.function_call_arguments.done"] = "response.function_call_arguments.done"
    name: str
    arguments: str
