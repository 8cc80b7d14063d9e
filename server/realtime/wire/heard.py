"""The server events about the user's audio."""

from typing import Literal

from server.realtime.wire.base import Sparse, Wire
from server.realtime.wire.server import ServerEvent


class SpeechStarted(ServerEvent):
    """The user has begun to speak; ``item_id`` is that of the item to come."""

    type: Literal["input_audio_buffer.speech_started"] = "input_audio_buffer.speech_started"
    audio_start_ms: int
    item_id: str


class SpeechStopped(ServerEvent):
    """The user has stopped to speak."""

    type: Literal["input_audio_buffer.speech_stopped"] = "input_audio_buffer.speech_stopped"
    audio_end_ms: int
    item_id: str


class AudioCommitted(ServerEvent):
    """The user's audio becomes an item."""

    type: Literal["input_audio_buffer.committed"] = "input_audio_buffer.committed"
    previous_item_id: str | None
    item_id: str


class TimeoutTriggered(ServerEvent):
    """The user has said nothing for as long as the session's ``idle_timeout_ms`` says."""

    type: Literal["input_audio_buffer.timeout_triggered"] = "input_audio_buffer.timeout_triggered"
    audio_start_ms: int
    audio_end_ms: int
    item_id: str


class TokenLogprob(Wire):
    """The log-probability of a token of a transcript."""

    token: str
    logprob: float
    bytes: list[int]


class _OfTranscription(ServerEvent, Sparse):
    item_id: str
    content_index: int = 0


class TranscriptionDelta(_OfTranscription):
    """The next words of the user's audio."""

    type: Literal["conversation.item.input_audio_transcription.delta"] = (
        "conversation.item.input_audio_transcription.delta"
    )
    delta: str
    logprobs: list[TokenLogprob] | None = None


class DurationUsage(Wire):
    """What a transcription is counted by."""

    type: Literal["duration"] = "duration"
    seconds: float


class TranscriptionCompleted(_OfTranscription):
    """The words of the user's audio."""

    type: Literal["conversation.item.input_audio_transcription.completed"] = (
        "conversation.item.input_audio_transcription.completed"
    )
    transcript: str
    usage: DurationUsage
    logprobs: list[TokenLogprob] | None = None


class TranscriptionError(Sparse):
    """Why there are no words."""

    type: str
    code: str
    message: str
    param: str | None = None


class TranscriptionFailed(_OfTranscription):
    """There are no words."""

    type: Literal["conversation.item.input_audio_transcription.failed"] = (
        "conversation.item.input_audio_transcription.failed"
    )
    error: TranscriptionError
