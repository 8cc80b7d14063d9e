"""Shapes of errors, probes, models, and of the endpoints that have one answer."""

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from server.realtime import wire


class ErrorBody(TypedDict):
    """What went wrong."""

    message: str
    type: str
    code: str
    param: str | None


class Error(TypedDict):
    """Every error."""

    error: ErrorBody


class Status(TypedDict):
    """A probe's answer."""

    status: Literal["ok"]


class NotReady(TypedDict):
    """Why no turns are accepted."""

    status: Literal["loading", "draining"]
    waiting_for: list[str]
    reasons: NotRequired[dict[str, str]]  # by what is waited for, where it is known


class ModelVoice(TypedDict):
    """A voice that requests can name."""

    name: str
    language: str


class ModelDetails(TypedDict):
    """What a model is for, where that is not chat, and what this server can do with it."""

    endpoint: NotRequired[Literal["transcriptions", "speech"]]
    voices: NotRequired[list[ModelVoice]]
    gather: NotRequired[bool]


class Model(TypedDict):
    """A model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    loquent: NotRequired[ModelDetails]


class ModelList(TypedDict):
    """The models, and the aliases that are no patterns."""

    object: Literal["list"]
    data: list[Model]


class ImageDetails(TypedDict):
    """How a picture was drawn."""

    seed: int
    style: str
    model: str
    expires_at: NotRequired[int]


class ImageEntry(TypedDict):
    """A picture: its file in base64, or its link."""

    revised_prompt: str
    url: NotRequired[str]
    b64_json: NotRequired[str]
    loquent: ImageDetails


class Images(TypedDict):
    """Pictures."""

    created: int
    background: Literal["opaque", "transparent"]
    output_format: Literal["png", "webp", "jpeg"]
    size: str
    data: list[ImageEntry]


class Head(TypedDict):
    """What one head says."""

    p_value: float
    score: float


class Finding(TypedDict):
    """What a check found."""

    check: str
    detail: str


class Deviation(TypedDict):
    """A surface feature that is unlike what is normal."""

    feature: str
    value: float
    deviations: float


class Neighbour(TypedDict):
    """A normal message that is similar."""

    id: str
    similarity: float
    text: NotRequired[str]


class SegmentOf(TypedDict):
    """A stretch of the text, in characters, without what shows nothing."""

    start: int
    end: int


class Verdict(TypedDict):
    """A message's verdict."""

    anomalous: bool
    causes: list[str]
    p_value: float
    heads: dict[str, Head]
    findings: list[Finding]
    deviations: list[Deviation]
    nearest: list[Neighbour]
    reconstruction_error: float
    kl_divergence: float
    languages: list[str]
    language_known: bool
    segment: NotRequired[SegmentOf]
    explanation: NotRequired[list[str]]
    action: NotRequired[Literal["allow", "flag", "deflect", "block"]]


class ModerationResult(TypedDict):
    """What the detector says of one text."""

    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[str]]
    loquent: Verdict


class Moderation(TypedDict):
    """Verdicts in OpenAI's shape."""

    id: str
    model: str
    results: list[ModerationResult]


class EmbeddingEntry(TypedDict):
    """A text's embedding: numbers, or their little-endian bytes in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(TypedDict):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class Truncated(TypedDict):
    """The indexes of texts that were cut."""

    truncated: list[int]


class Embeddings(TypedDict):
    """Embeddings."""

    object: Literal["list"]
    data: list[EmbeddingEntry]
    model: str
    usage: EmbeddingUsage
    loquent: NotRequired[Truncated]


class SecretLeash(TypedDict):
    """What a client secret may do."""

    connections: NotRequired[int]
    seconds: NotRequired[float]
    turns: NotRequired[int]
    locked: list[str]
    origin: NotRequired[str]
    warnings: NotRequired[list[str]]


class ClientSecret(TypedDict):
    """A client secret, and the session that it begins."""

    value: str
    expires_at: int
    session: wire.Session | wire.TranscriptionSession
    loquent: SecretLeash


class Duration(TypedDict):
    """What a transcription is counted by."""

    type: Literal["duration"]
    seconds: int


class TranscriptionObject(TypedDict):
    """The words of a sound file."""

    text: str
    usage: Duration


class Word(TypedDict):
    """A word and its time, in seconds."""

    word: str
    start: float
    end: float


class Segment(TypedDict):
    """A piece of a sound file."""

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float


class VerboseTranscription(TypedDict):
    """The words of a sound file with their times."""

    task: Literal["transcribe", "translate"]
    language: str
    duration: float
    text: str
    usage: Duration
    segments: list[Segment]
    words: NotRequired[list[Word]]


class Picture(TypedDict):
    """A picture that belongs to a reply."""

    id: str
    caption: str
    seed: int
    style: str
    model: str
    size: int
    url: str
    expires_at: int


class Screening(TypedDict):
    """How a turn's messages were screened."""

    action: Literal["allow", "flag", "deflect"]
    verdicts: list[dict[str, Any]]


class ReplyDetails(TypedDict):
    """What only this server says of a reply."""

    warnings: NotRequired[list[str]]
    images: NotRequired[list[Picture]]
    screening: NotRequired[Screening]
