"""The inputs of a session besides client events, and its outputs besides server events."""

from dataclasses import dataclass

from pipelines import events
from pipelines.events import (
    StageError,
    Turn,
)
from pipelines.listening.events import Hears, Report
from server.realtime import wire
from server.realtime.session.state import State
from server.realtime.wire import WireError


@dataclass(frozen=True, slots=True)
class Connected:
    """The socket is open."""


@dataclass(frozen=True, slots=True)
class Restored:
    """The session goes on after a restart of the server."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The socket is closed."""


@dataclass(frozen=True, slots=True)
class Draining:
    """The server is draining: what is in progress may finish, nothing new begins."""


@dataclass(frozen=True, slots=True)
class Expired:
    """The session must end: its time is over, or its key is no longer valid."""

    code: str = "session_expired"
    message: str = "The session has reached its maximum duration."


@dataclass(frozen=True, slots=True)
class Rejected:
    """The client sent a message that is not a valid event."""

    error: WireError


@dataclass(frozen=True, slots=True)
class Produced:
    """The pipeline produced an event of a response."""

    response_id: str
    event: events.Event


@dataclass(frozen=True, slots=True)
class Failed:
    """The pipeline failed on a response."""

    response_id: str
    error: StageError


@dataclass(frozen=True, slots=True)
class Heard:
    """Something was heard in the user's audio."""

    report: Report


Input = (
    wire.ClientEvent | Connected | Restored | Disconnected | Draining | Expired | Rejected | Produced | Failed | Heard
)


@dataclass(frozen=True, slots=True)
class Begin:
    """Run this turn; its events belong to ``response_id``."""

    response_id: str
    turn: Turn


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop the turn of this response."""

    response_id: str


@dataclass(frozen=True, slots=True)
class Hear:
    """Hear this audio, in the encoding of the session."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Configure:
    """Hear what comes from now on in this way."""

    hears: Hears


@dataclass(frozen=True, slots=True)
class CommitAudio:
    """The user's turn is over: its words are wanted, as ``Transcribed`` with this serial."""

    serial: int


@dataclass(frozen=True, slots=True)
class ClearAudio:
    """Forget the audio since the last turn."""


@dataclass(frozen=True, slots=True)
class Silence:
    """The client plays no more of what was said."""


Output = wire.ServerEvent | Begin | Stop | Hear | Configure | CommitAudio | ClearAudio | Silence
Step = tuple[State, list[Output]]
