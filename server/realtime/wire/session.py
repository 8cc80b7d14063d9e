"""The server events of a session: its greeting, its settings, and what its client has to know that comes back."""

from typing import Literal

from server.realtime.wire.base import Sparse, Wire
from server.realtime.wire.server import ServerEvent
from server.realtime.wire.settings import Session, TranscriptionSession


class Resumable(Wire):
    """How a client comes back to its session: ``?session=RESUME_TOKEN&after=EVENT_ID``."""

    session: str  # its id
    resume_token: str


class SessionCreated(ServerEvent, Sparse):
    """The first event."""

    type: Literal["session.created"] = "session.created"
    session: Session | TranscriptionSession
    loquent: Resumable | None = None


class Resumed(Wire):
    """The client has missed more events than the server holds; those that follow say what became of the session."""

    complete: Literal[False]
    items: list[str]  # the ids of all items of the conversation, in order


class SessionNotes(Sparse):
    """What else is to be said of a session."""

    warnings: list[str] | None = None  # what was requested and is not available, in words
    resumed: Resumed | None = None


class SessionUpdated(ServerEvent, Sparse):
    """The configuration after the update."""

    type: Literal["session.updated"] = "session.updated"
    session: Session | TranscriptionSession
    loquent: SessionNotes | None = None
