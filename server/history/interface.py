"""What is stored of conversations, how it changes, and what stores it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pipelines.events import StageError

Json = dict[str, Any]
Kind = Literal["realtime", "api"]
OnDeleted = Callable[[str, tuple[str, ...]], None]

UNAVAILABLE = "history_unavailable"
NOT_FOUND = "conversation_not_found"
REFUSED = "history_refused"
TAKEN = "session_taken_over"


class HistoryError(StageError):
    """A change is not stored, or nothing can be read.

    ``code`` is ``history_unavailable`` where the database could not be used within the patience (the change may
    succeed later), ``conversation_not_found`` where the conversation was deleted or never stored, ``history_refused``
    where the change can never succeed, ``session_taken_over`` where another server has claimed the session.
    """

    def __init__(self, message: str, code: str = UNAVAILABLE) -> None:
        super().__init__("unavailable" if code == UNAVAILABLE else "invalid_request", code, message)


@dataclass(frozen=True, slots=True)
class StoredItem:
    """An item of a conversation."""

    id: str
    body: Json  # as the realtime wire or the Responses API shows it
    serial: int = 0  # of the realtime event that acknowledged it; 0 where there was none
    event_id: str = ""  # of the client's event that asked for it


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response in progress."""

    id: str
    body: Json  # as ``response.created`` announced it
    serial: int = 0
    event_id: str = ""


@dataclass(frozen=True, slots=True)
class ConversationHead:
    """A conversation without its items."""

    id: str  # "conv_…"
    owner: str
    created_at: int  # seconds since 1970
    kind: Kind
    metadata: Json


@dataclass(frozen=True, slots=True)
class StoredConversation:
    """A conversation, and what a realtime session needs to go on with it."""

    id: str  # "conv_…"
    owner: str
    created_at: int  # seconds since 1970
    kind: Kind
    metadata: Json
    session: Json  # of a realtime session (settings, token hash, …), opaque here
    items: tuple[StoredItem, ...] = ()  # in the conversation's order
    open: tuple[StoredResponse, ...] = ()  # responses that began and have not ended


@dataclass(frozen=True, slots=True)
class PutConversation:
    """Create the conversation, or change it. None: that part stays as it is, or is empty at the beginning."""

    session: Json | None = None
    metadata: Json | None = None
    kind: Kind = "realtime"  # as it is created
    created_at: int | None = None  # seconds since 1970; None: now


@dataclass(frozen=True, slots=True)
class PutItem:
    """Add an item, or change the one with this id, which stays where it is."""

    item: StoredItem
    after: str | None = None  # the id of the item before it; "": it comes first; None or not there: it comes last


@dataclass(frozen=True, slots=True)
class DropItem:
    """Remove an item, if it is there."""

    id: str


@dataclass(frozen=True, slots=True)
class PutResponse:
    """A response begins, or changes."""

    response: StoredResponse


@dataclass(frozen=True, slots=True)
class DropResponse:
    """A response has ended."""

    id: str


@dataclass(frozen=True, slots=True)
class DropEmpty:
    """Remove the conversation, if it has no items: its session has ended, and nothing was said."""


Change = DropEmpty | PutConversation | PutItem | DropItem | PutResponse | DropResponse


class History(Protocol):
    """Stores conversations. No owner finds what is another's."""

    on_deleted: OnDeleted  # (owner, conversation ids): what memory holds of them has to go, too; on the event loop

    @property
    def healthy(self) -> bool:
        """False while the database can't be used."""

    on_taken: OnDeleted  # the same, of sessions that another server has claimed: they have to end here

    def record(self, owner: str, conversation: str, *changes: Change, held: bool = False) -> "asyncio.Future[None]":
        """Apply changes, all or none, after those recorded before; returns at once.

        The future is done once they are committed. Applying a change twice does no harm. A future that is not awaited
        logs no error. All but ``PutConversation`` need the conversation to be there; one that was deleted is not
        created again. ``held``: the conversation's session is in progress here, and nothing is applied where another
        server has claimed it; ``on_taken`` hears of that.

        The future raises: HistoryError.
        """

    async def room(self) -> None:
        """Wait while more than ``queue_bytes`` wait to be written."""

    async def load(self, owner: str, id: str) -> StoredConversation | None:
        """A conversation with everything recorded so far. Raises: HistoryError."""

    async def claim(self, owner: str, id: str) -> bool:
        """Hold a conversation's session from now on; whether the conversation is there.

        What another server that held it has not committed by then is refused there. Raises: HistoryError.
        """

    async def list(
        self, owner: str, *, after: str = "", limit: int = 20, newest_first: bool = True
    ) -> tuple[tuple[ConversationHead, ...], bool]:
        """At most ``limit`` conversations behind the one with the id ``after``, and whether more follow.

        Raises: HistoryError ``conversation_not_found`` where there is no ``after``.
        """

    async def delete(self, owner: str, id: str) -> bool:
        """Delete a conversation and the stored responses that belong to it; whether there was one.

        Nothing of it is left in the database; from a large SQLite file its bytes go within minutes. ``on_deleted``
        hears of it, and of what other processes delete, and may hear twice. Raises: HistoryError.
        """

    async def delete_item(self, owner: str, conversation: str, id: str) -> bool:
        """Delete an item; whether there was one. Raises: HistoryError."""

    def export(
        self, owner: str | None = None, *, conversation: str | None = None, before: int | None = None
    ) -> AsyncIterator[StoredConversation]:
        """Conversations, oldest first: of one owner or of all, one of them or all, last changed before a time.

        Raises: HistoryError.
        """

    async def start(self) -> None:
        """Open the database, which is created or migrated, and begin to write. Raises: HistoryError."""

    async def close(self) -> None:
        """Write what waits, within the patience, then close the database."""
