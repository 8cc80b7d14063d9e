"""What a reply is made of, in the order in which it comes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Text:
    """More of the reply's text, or of the words of a spoken reply."""

    text: str


@dataclass(frozen=True, slots=True)
class Sound:
    """More of a spoken reply: PCM, mono, signed 16 bits, little-endian, 24,000 samples a second."""

    pcm: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Heard:
    """What the user said, as the server recognised it."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model calls a function; ``Session.answer`` gives it the result. ``arguments`` are JSON."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that belongs to the reply: a PNG behind ``url``, ``size`` pixels a side."""

    url: str
    caption: str
    size: int
    details: Mapping[str, Any] = field(repr=False)  # everything that the server says of it


@dataclass(frozen=True, slots=True)
class Screening:
    """What the screening of the user's message found, where the server reports it."""

    action: str  # "allow", "flag" or "deflect"
    verdicts: tuple[Mapping[str, Any], ...]  # one a message; docs/protocol.md has the fields


@dataclass(frozen=True, slots=True)
class Done:
    """How the reply ended; always the last piece."""

    text: str  # all of it
    status: str  # "completed", "cancelled" or "incomplete"
    reason: str | None  # why it is not complete: "max_output_tokens", "content_filter", "client_cancelled", …
    usage: Mapping[str, Any]  # tokens, by OpenAI's names
    warnings: tuple[str, ...] = ()  # what was done to the input, such as cutting it


Piece: TypeAlias = Text | Sound | Heard | ToolCall | Picture | Screening | Done
