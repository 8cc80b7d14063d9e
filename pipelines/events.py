"""The events of a reply, the turn that asks for it, and the error that ends it.

One frozen dataclass a fact. A stage takes a ``Turn`` and yields a stream of ``Event``s (see ``flow``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pipelines.tracing import Trace

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function call that the model asked for."""

    id: str
    name: str
    arguments: str  # JSON, an object


@dataclass(frozen=True, slots=True)
class Message:
    """One entry of a conversation, as the chat template sees it."""

    role: Role
    content: str
    id: str = field(default="", compare=False)  # the same in every turn that holds this message; "" where unknown
    calls: tuple[ToolCall, ...] = ()  # of an assistant's message
    call_id: str = ""  # of a tool's message: the call whose result it is


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may ask to have called."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)  # JSON schema of its arguments
    strict: bool | None = None  # for a model elsewhere, as the client says it; the one here always follows the schema


ToolMode = Literal["auto", "none", "required"]


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The functions that a reply may call."""

    tools: tuple[Tool, ...]
    mode: ToolMode = "auto"  # "required": the reply is at least one call
    allowed: tuple[str, ...] = ()  # names of the only ones that may be called; empty: all of them
    parallel: bool = True  # whether one reply may call more than one


@dataclass(frozen=True, slots=True)
class Format:
    """What the reply's text must be: JSON, or what a JSON schema, a regular expression or a Lark grammar allows."""

    kind: Literal["json", "json_schema", "regex", "lark"]
    source: str = ""  # the schema as JSON, the expression or the grammar
    param: str = ""  # the request's parameter that it came from, for errors
    strict: bool = False  # of a schema: what can't be enforced is an error, and not ignored


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to draw tokens. ``None`` means: what the configuration or the model says."""

    temperature: float | None = None  # 0 is greedy
    top_p: float | None = None  # in (0, 1]
    seed: int | None = None  # same seed and prompt, same text
    max_tokens: int | None = None  # of the reply
    stop: tuple[str, ...] = ()  # strings that end the reply and are not part of it
    top_k: int | None = None  # only so many of the likeliest tokens; 0: all
    min_p: float | None = None  # only tokens at least this likely, as a share of the likeliest
    repetition_penalty: float | None = None  # above 1 shuns what was said already, 1 does not
    repetition_prompt: bool | None = None  # whether it counts the prompt too (None), or the reply alone (False)
    presence_penalty: float = 0.0  # taken from tokens that the reply has said
    frequency_penalty: float = 0.0  # taken from them each time they were said
    logit_bias: tuple[tuple[int, float], ...] = ()  # token id, what to add
    ignore_eos: bool = False  # go on to max_tokens, for measurements
    logprobs: int | None = None  # how many of the likeliest tokens come with each; None: no log-probabilities


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one reply."""

    input_tokens: int = 0
    cached_tokens: int = 0  # the part of the input that was not computed again
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Speech:
    """That a reply is to be spoken, and how."""

    speaker: str = ""  # "" is the configured one
    speed: float = 1.0  # times the configured one


@dataclass(frozen=True, slots=True)
class Turn:
    """The request for one reply: answer this conversation."""

    id: str
    messages: tuple[Message, ...]
    sampling: Sampling = field(default_factory=Sampling)
    tenant: str = ""  # who asks: for fair shares, and so that no text of one key reaches another
    model: str = ""  # the name of the model that is to answer, where a server has names for several; "": its own
    speech: Speech | None = None  # the reply is text where this is None
    session: str = ""  # the conversation's id, for rates and repetitions; "" where there is none
    conversation: str = (
        ""  # the id of the stored conversation, with which its pictures are deleted; "" where there is none
    )
    verdicts: bool = False  # whether the client wants to know how its messages were screened
    image: bool | None = None  # whether the reply comes with a picture of its mood; None: as it is configured
    new: tuple[int, ...] | None = None  # indexes of messages not screened yet; None: those since the last reply
    begun: float | None = None  # when the server accepted it, by ``time.monotonic``
    tools: ToolUse | None = None  # functions that the reply may call
    format: Format | None = None  # what its text must be; None: anything
    prefill: bool = False  # whether the last message, the assistant's, is the reply's beginning, to be continued
    overflow: Literal["error", "trim"] | None = None  # of the context; None: as it is configured
    retention: float | None = None  # share of the room that trimming leaves; None: as much as fits
    gather: float = 0.0  # seconds for which pieces of text may be gathered into one, for a reader of many replies
    task: str = ""  # of ``[chat.tasks]``: what a model with an encoder is to do with the message
    retained_tokens: int | None = None  # of the prompt that trimming leaves at most, the instructions not counted
    trace: Trace | None = field(default=None, compare=False, repr=False)  # where the server traces


@dataclass(frozen=True, slots=True)
class Started:
    """The model has read the prompt; tokens follow."""

    input_tokens: int
    cached_tokens: int = 0
    notices: tuple[str, ...] = ()  # what was done to the input that the client should know, in words


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The log-probability of a token, before temperature and penalties, and of the likeliest alternatives."""

    token: str
    logprob: float
    likeliest: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next piece of the reply: whole characters, from ``tokens`` sampled tokens."""

    text: str
    tokens: int = 1
    logprobs: tuple[TokenLogprob, ...] = ()  # of these tokens, if they were asked for

    def __add__(self, other: "TextDelta") -> "TextDelta":
        return TextDelta(self.text + other.text, self.tokens + other.tokens, self.logprobs + other.logprobs)


@dataclass(frozen=True, slots=True)
class TextDone:
    """The reply's text is complete; what follows belongs to it, such as a picture, but is no text."""


@dataclass(frozen=True, slots=True)
class CallStarted:
    """The reply calls a function; a call's events are never mixed with text or with another call's."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallDelta:
    """The next piece of a call's arguments."""

    id: str
    arguments: str  # JSON text; the pieces add up to it
    tokens: int = 1


@dataclass(frozen=True, slots=True)
class CallDone:
    """A call is complete; a reply that was cut short lacks this for its last one."""

    call: ToolCall


AUDIO_RATE = 24_000  # samples a second of every ``AudioDelta``
AUDIO_TOKENS = 20  # that a second of sound counts for


def audio_tokens(samples: int) -> int:
    """What so many samples count for in a usage; a begun token is one."""
    return -(-samples * AUDIO_TOKENS // AUDIO_RATE)


@dataclass(frozen=True, slots=True)
class Heard:
    """A word of a spoken reply has been said."""

    samples: int  # from the reply's beginning to the word's end
    characters: int  # of the transcript up to its end


@dataclass(frozen=True, slots=True)
class AudioDelta:
    """The next piece of a spoken reply: its sound, and the text whose sound begins in it.

    In a spoken reply these stand in for ``TextDelta``. A text that has no sound, such as code, comes without any.
    """

    pcm: bytes  # mono, 16 bits a sample, little-endian, AUDIO_RATE
    text: str = ""
    heard: tuple[Heard, ...] = ()  # the words of ``text``
    tokens: int = 0  # sampled tokens that are accounted for with it

    @property
    def samples(self) -> int:
        """How many there are."""
        return len(self.pcm) // 2


@dataclass(frozen=True, slots=True)
class Screened:
    """How the turn's messages were screened."""

    action: Literal["allow", "flag", "deflect"]  # that was taken; what is blocked is an error
    verdicts: tuple[dict[str, Any], ...]  # one a message, as clients see it

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"action": self.action, "verdicts": list(self.verdicts)}


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that belongs to the reply."""

    id: str
    caption: str  # what was drawn
    seed: int
    style: str
    model: str
    size: int  # pixels of a side
    png: bytes = field(default=b"", repr=False)
    url: str = ""  # its link, once it is stored
    expires_at: int = 0  # seconds since 1970

    @property
    def link(self) -> str:
        """As Markdown has it."""
        return f"![{self.caption}]({self.url})"

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        names = ("id", "caption", "seed", "style", "model", "size", "url", "expires_at")
        return {name: getattr(self, name) for name in names}


FinishReason = Literal["stop", "length", "cancelled", "content_filter", "tool_calls"]


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of a reply."""

    reason: FinishReason
    usage: Usage


Event = Started | TextDelta | TextDone | CallStarted | CallDelta | CallDone | AudioDelta | Screened | Picture | Finished

ErrorKind = Literal["invalid_request", "overloaded", "unavailable", "internal"]


class StageError(Exception):
    """A stage cannot go on with this turn.

    Stages raise it; the server's edge translates it once, into an HTTP status or a websocket event.
    ``kind`` says whose fault it is, ``code`` is stable and documented, ``message`` is for people.
    """

    def __init__(
        self, kind: ErrorKind, code: str, message: str, *, param: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.kind: ErrorKind = kind
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after  # seconds, where it is known when to try again


def shutting_down() -> StageError:
    """What ends a turn when the server stops."""
    return StageError("unavailable", "server_shutting_down", "The server is shutting down.")
