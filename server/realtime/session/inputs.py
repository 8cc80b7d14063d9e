"""The inputs of a session besides client events, and its outputs besides server events."""

from dataclasses import dataclass

from pipelines import events
from pipelines.events import (
    StageError,
    Turn,
)
from server.realtime import wire
from server.realtime.session.state import State
from server.realtime.wire import WireError


@dataclass(frozen=True, slots=True)
class Connected:
    """The socket is open."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The socket is closed."""


@dataclass(frozen=True, slots=True)
class Draining:
    """The server is draining: what is in progress may finish, nothing new begins."""


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


Input = wire.ClientEvent | Connected | Disconnected | Draining | Rejected | Produced | Failed


@dataclass(frozen=True, slots=True)
class Begin:
    """Run this turn; its events belong to ``response_id``."""

    response_id: str
    turn: Turn


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop the turn of this response."""

    response_id: str


Output = wire.ServerEvent | Begin | Stop
Step = tuple[State, list[Output]]
