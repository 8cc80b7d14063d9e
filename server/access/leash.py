"""What a client secret may do. Pure: the session's turn logic uses it too."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Leash:
    """The restrictions of a client secret; ``None`` stands for no limit."""

    secret: str  # its id
    expires_at: int  # Unix time; no connection begins after it, and one that has begun goes on until its own end
    session: Json = field(default_factory=dict)  # the settings that a session begins with
    locked: frozenset[str] = frozenset()  # dotted fields that the browser can't change: "audio.output.voice"
    connections: int | None = None  # at a time
    seconds: float | None = None  # of one session
    turns: int | None = None  # responses, over all connections
    origin: str | None = None  # the only Origin that may connect
