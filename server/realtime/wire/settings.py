"""The settings of sessions and responses."""

from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from pipelines.events import Sampling
from server.parameters import (
    LogitBias,
    MinP,
    Penalty,
    RepetitionPenalty,
    Seed,
    StopStrings,
    Temperature,
    TopK,
    TopP,
    biases,
)
from server.realtime.wire.base import MaxTokens, Modality, Sparse, Wire
from server.realtime.wire.items import Item


class SamplingExtension(Sparse):
    """How to sample tokens; GA Realtime has no fields for it."""

    model_config = ConfigDict(extra="forbid")

    temperature: Temperature | None = None
    top_p: TopP | None = None
    seed: Seed | None = None
    stop: StopStrings | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    repetition_penalty: RepetitionPenalty | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: LogitBias | None = None
    ignore_eos: bool | None = None

    def over(self, below: "SamplingExtension") -> Sampling:
        """These values, and those of ``below`` where they are None."""
        values = below.model_dump() | self.model_dump()
        stop, bias = tuple(values.pop("stop", ())), biases(values.pop("logit_bias", None))
        return Sampling(**values, stop=stop, logit_bias=bias)


class Extension(Sparse):
    """The ``loquent`` extension of sessions and responses."""

    model_config = ConfigDict(extra="forbid")

    sampling: SamplingExtension | None = None
    verdicts: bool | None = None  # whether to report the verdicts on the turn's messages
    image: bool | None = None  # whether replies come with a picture of their mood; None: as configured
    task: Annotated[str, Field(max_length=64)] | None = None  # what a model with an encoder does with the message


class AudioFormat(Sparse):
    """How audio is encoded."""

    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"] = "audio/pcm"
    rate: Literal[24000] | None = None

    @model_validator(mode="before")
    @classmethod
    def _own_rate(cls, given: Any) -> Any:
        """G.711 has one rate, which is not named; that of PCM may be left from the settings before."""
        if not isinstance(given, dict):
            return given
        if given.get("type", "audio/pcm") != "audio/pcm":
            return {"type": given["type"]}
        return given | {"rate": given.get("rate") or 24000}


PCM = AudioFormat(type="audio/pcm", rate=24000)


class Transcription(Sparse):
    """How the words of input audio are recognised; there is one model."""

    model: str | None = None
    language: str | None = None
    languages: Annotated[list[str], Field(fail_fast=True)] | None = None
    prompt: Annotated[str, Field(max_length=4096)] | None = None
    keywords: Annotated[list[str], Field(fail_fast=True)] | None = None
    delay: Literal["minimal", "low", "medium", "high", "xhigh"] | None = None  # any: words come while they are spoken


class NoiseReduction(Sparse):
    """Noise reduction of input audio; accepted and returned, not used."""

    type: Literal["near_field", "far_field"] | None = None
    strength: float | None = None


class TurnDetection(Sparse):
    """When the user's turn begins and ends, and what follows from it."""

    type: Literal["server_vad", "semantic_vad"]
    create_response: bool | None = None
    interrupt_response: bool | None = None
    prefix_padding_ms: Annotated[int, Field(ge=0, le=2000)] | None = None
    silence_duration_ms: Annotated[int, Field(ge=0, le=30_000)] | None = None
    idle_timeout_ms: Annotated[int, Field(ge=1000, le=600_000)] | None = None
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    eagerness: Literal["low", "medium", "high", "auto"] | None = None

    def complete(self) -> "TurnDetection":
        """It, with a value for each field that its type has, and none for the others."""
        both: dict[str, Any] = {
            "type": self.type,
            "create_response": self.create_response is not False,
            "interrupt_response": self.interrupt_response is not False,
        }
        if self.type == "semantic_vad":
            return TurnDetection(**both, eagerness=self.eagerness or "auto")
        return TurnDetection(
            **both,
            threshold=0.5 if self.threshold is None else self.threshold,
            prefix_padding_ms=300 if self.prefix_padding_ms is None else self.prefix_padding_ms,
            silence_duration_ms=500 if self.silence_duration_ms is None else self.silence_duration_ms,
            idle_timeout_ms=self.idle_timeout_ms,
        )


class AudioInput(Wire):
    """How a session treats input audio."""

    format: AudioFormat = PCM
    transcription: Transcription | None = None
    noise_reduction: NoiseReduction | None = None
    turn_detection: TurnDetection | None = None


class VoiceId(Wire):
    """A voice, by its id."""

    id: str


class _Voiced(Sparse):
    voice: str | VoiceId | None = None

    @property
    def speaker(self) -> str | None:
        """The voice's name."""
        return self.voice.id if isinstance(self.voice, VoiceId) else self.voice


class AudioOutput(_Voiced):
    """How a session speaks."""

    format: AudioFormat = PCM
    speed: Annotated[float, Field(ge=0.25, le=1.5)] = 1.0


class Audio(Wire):
    """A session's input and output audio."""

    input: AudioInput = AudioInput()
    output: AudioOutput = AudioOutput()


class Tool(Sparse):
    """A function for the model, or a tool of another type, which is returned as it came and not offered."""

    model_config = ConfigDict(extra="allow")

    type: str = "function"
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_a_function(cls, given: Any) -> Any:
        """Of a function only what clients know of one, so that what is returned is valid for them."""
        if not isinstance(given, dict) or given.get("type", "function") not in ("function", None):
            return given
        return {"type": "function"} | {
            name: given[name] for name in ("name", "description", "parameters") if name in given
        }

    @model_validator(mode="after")
    def _named(self) -> "Tool":
        if self.type == "function" and not self.name:
            raise PydanticCustomError("missing", "A function needs a name.")
        return self


class Reasoning(Sparse):
    """Reasoning effort; accepted and returned, not used."""

    effort: Literal["minimal", "low", "medium", "high", "xhigh"] | None = None

    @field_validator("effort", mode="before")
    @classmethod
    def _none_at_all(cls, effort: Any) -> Any:
        """Chat completions know "none"; the clients' type of a realtime session does not, so it is not returned."""
        return None if effort == "none" else effort


class TokenLimits(Sparse):
    """When a conversation is trimmed before it outgrows the model's context."""

    post_instructions: Annotated[int, Field(ge=1)] | None = None  # tokens of the messages behind the instructions


class RetentionRatio(Sparse):
    """Trim more than must be, so that the following turns find the prefix cache."""

    type: Literal["retention_ratio"]
    retention_ratio: Annotated[float, Field(ge=0, le=1)]
    token_limits: TokenLimits | None = None


ToolChoice = Literal["auto", "none", "required"] | dict[str, Any]


class Prompt(Sparse):
    """A prompt that is stored at the service that has them; accepted and returned, not used."""

    id: str
    variables: dict[str, Any] | None = None
    version: str | None = None


class SessionConfig(Sparse):
    """The fields that ``session.update`` can set."""

    type: Literal["realtime"] = "realtime"
    model: str = ""
    instructions: str = ""
    output_modalities: Annotated[list[Modality], Field(min_length=1, max_length=1, fail_fast=True)] = Field(
        default=["text"]
    )
    audio: Audio = Audio()
    tools: Annotated[list[Tool], Field(max_length=128, fail_fast=True)] = Field(default_factory=list)
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool | None = None
    max_output_tokens: MaxTokens = "inf"
    include: Annotated[list[str], Field(fail_fast=True)] | None = None
    tracing: Literal["auto"] | dict[str, Any] | None = None
    prompt: Prompt | None = None
    truncation: Literal["auto", "disabled"] | RetentionRatio = "auto"
    reasoning: Reasoning | None = None
    loquent: Extension | None = None

    @field_validator("prompt", mode="before")
    @classmethod
    def _named(cls, prompt: Any) -> Any:
        """Without its id it has no effect anywhere, and clients could not read it."""
        nameless = isinstance(prompt, dict) and not isinstance(prompt.get("id"), str)
        return None if nameless or isinstance(prompt, str) else prompt


class TranscriptionAudio(Wire):
    """What a transcription session has of audio."""

    input: AudioInput


class TranscriptionSession(Sparse):
    """A session that only recognises words, as the server reports it."""

    id: str
    object: Literal["realtime.transcription_session"] = "realtime.transcription_session"
    type: Literal["transcription"] = "transcription"
    audio: TranscriptionAudio
    include: list[str] | None = None
    expires_at: int | None = None  # Unix time


class Session(SessionConfig):
    """A session, as the server reports it."""

    id: str
    object: Literal["realtime.session"] = "realtime.session"
    expires_at: int | None = None  # Unix time


Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]


class ResponseAudioOutput(_Voiced):
    """How one response speaks."""

    format: AudioFormat | None = None


class ResponseAudio(Sparse):
    """A response's voice."""

    output: ResponseAudioOutput | None = None


class ResponseConfig(Wire):
    """The fields of ``response.create``."""

    conversation: Literal["auto", "none"] = "auto"
    input: Annotated[list[Item], Field(fail_fast=True)] | None = None
    instructions: str | None = None
    output_modalities: Annotated[list[Modality], Field(min_length=1, max_length=1, fail_fast=True)] | None = None
    audio: ResponseAudio | None = None
    max_output_tokens: MaxTokens | None = None
    metadata: Metadata | None = None
    tools: Annotated[list[Tool], Field(max_length=128, fail_fast=True)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    prompt: Any = None  # accepted, not used
    loquent: Extension | None = None
    fields_given: Annotated[frozenset[str], Field(exclude=True, repr=False)] = frozenset()  # also those unknown here

    @model_validator(mode="before")
    @classmethod
    def _given(cls, given: Any) -> Any:
        return given | {"fields_given": frozenset(given)} if isinstance(given, dict) else given
