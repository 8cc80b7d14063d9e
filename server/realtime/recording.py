"""Records a session's conversation in the history, and brings a session back from there."""

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from server.history.interface import (
    Change,
    DropEmpty,
    DropItem,
    DropResponse,
    History,
    Json,
    PutConversation,
    PutItem,
    PutResponse,
    StoredConversation,
    StoredItem,
    StoredResponse,
)
from server.realtime import wire
from server.realtime.session import Input, State
from server.realtime.session.resuming import Announced

LEAP = 1_000_000  # serials between the last event that was stored and the first one after a restart
RESTARTED = wire.StatusDetails(
    type="incomplete",
    error=wire.StatusError(
        type="server_error", code="server_restarted", message="The server was restarted while it answered; ask again."
    ),
)


def hash_token(token: str) -> str:
    """What is stored of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


class Recorder:
    """Turns the steps of one session into changes of its stored conversation, which begins with the client's settings,
    or with the first item."""

    __slots__ = ("_asked", "_begun", "_history", "_owner", "_recorded")

    def __init__(self, history: History, owner: str, *, begun: bool = False) -> None:
        self._history = history
        self._owner = owner
        self._begun = begun
        self._asked: dict[str, str] = {}  # by the id of an item or response, the client's event; bounded by those
        self._recorded: dict[str, Announced] = {}  # responses as they are stored

    def step(
        self, before: State, after: State, given: Input, items: Mapping[str, int], responses: Mapping[str, Announced]
    ) -> "asyncio.Future[None] | None":
        """Record what one step changed; returns what is done once that is stored, or None where nothing is to be.

        ``items`` and ``responses`` are those of the session, with the serials of the events that announced them.
        """
        changes = [*self._items(before, after, given, items), *self._responses(given, responses)]
        if not self._begun and not changes and not isinstance(given, wire.SessionUpdate):
            return None
        if not self._begun or before.config is not after.config or before.transcribes != after.transcribes:
            changes.insert(0, PutConversation(session=session_of(after)))
            self._begun = True
        return self._history.record(self._owner, after.conversation_id, *changes, held=True) if changes else None

    def whole(
        self, state: State, items: Mapping[str, int], responses: Mapping[str, Announced]
    ) -> "asyncio.Future[None]":
        """Record the conversation anew, after a step of it could not be stored."""
        self._recorded = {}
        changes: list[Change] = [PutConversation(session=session_of(state))]
        changes += self._items(replace(state, items=()), state, None, items)
        changes += self._responses(None, responses)
        return self._history.record(self._owner, state.conversation_id, *changes, held=True)

    def end(self, state: State) -> None:
        """The session has ended: nothing stays of it where nothing was said."""
        if self._begun and not state.items and not state.draining:
            self._history.record(self._owner, state.conversation_id, DropEmpty(), held=True)

    def _items(self, before: State, after: State, given: Input | None, items: Mapping[str, int]) -> list[Change]:
        if before.items is after.items:
            return []
        known = {item.id: item for item in before.items if item.status != "in_progress"}
        changes: list[Change] = []
        last = ""
        for item in after.items:
            id = item.id or ""
            if item.status != "in_progress" and known.pop(item.id, None) is not item:
                if isinstance(given, wire.ItemCreate) and given.event_id and id not in self._asked:
                    self._asked[id] = given.event_id
                body = item.model_dump(mode="json")
                changes.append(PutItem(StoredItem(id, body, items.get(id, 0), self._asked.get(id, "")), last))
            last = id
        present = {item.id for item in after.items}
        for gone in known:
            if gone is not None and gone not in present:
                self._asked.pop(gone, None)
                changes.insert(0, DropItem(gone))
        return changes

    def _responses(self, given: Input | None, responses: Mapping[str, Announced]) -> list[Change]:
        changes: list[Change] = []
        for id, announced in responses.items():
            if self._recorded.get(id) is announced or announced.response.conversation_id is None:
                continue
            if isinstance(given, wire.ResponseCreate) and given.event_id and id not in self._recorded:
                self._asked[id] = given.event_id
            self._recorded[id] = announced
            changes.append(PutResponse(_stored(id, announced, self._asked.get(id, ""))))
        for gone in [id for id in self._recorded if id not in responses]:
            del self._recorded[gone]
            self._asked.pop(gone, None)
            changes.append(DropResponse(gone))
        return changes


def _stored(id: str, announced: Announced, event_id: str) -> StoredResponse:
    notes = announced.loquent.model_dump(mode="json") if announced.loquent is not None else None
    body = {"response": announced.response.model_dump(mode="json"), "done": announced.done, "loquent": notes}
    return StoredResponse(id, body, announced.created, event_id)


def session_of(state: State) -> Json:
    """What a session needs besides its items to go on after a restart."""
    return {
        "token": hash_token(state.token),
        "settings": state.config.model_dump(mode="json"),
        "transcribes": state.transcribes,
    }


class Restored:
    """A session as it was stored, with every response ended that was in progress.

    Its events are numbered from ``serial`` on: behind the event ``after``, which the client has, also when the server
    before this one began with the same stored conversation.

    Raises: ValueError when the stored conversation can't be read, as one of a newer version.
    """

    def __init__(self, stored: StoredConversation, fresh: State, after: int) -> None:
        try:
            config = wire.SessionConfig.model_validate(stored.session["settings"])
            items = tuple(wire.Item.model_validate(item.body) for item in stored.items)
            responses = {each.id: _announced(each.body, each.serial) for each in stored.open}
        except (KeyError, ValidationError) as error:
            raise ValueError(f"conversation {stored.id} can't be restored") from error
        serials = [item.serial for item in stored.items]
        serials += [serial for each in responses.values() for serial in (each.created, each.done)]
        self._ended_at = max(serials, default=0) + LEAP  # that of a reply which the server's death has ended
        self.serial = self._ended_at if after < self._ended_at else after + LEAP
        self.items = {item.id: item.serial for item in stored.items}
        self.responses = {id: each if each.done else self._ended(each) for id, each in responses.items()}
        asked = [*(item.event_id for item in stored.items), *(each.event_id for each in stored.open)]
        self.event_ids = [id for id in asked if id]
        self.state = replace(
            fresh,
            config=config,
            transcribes=bool(stored.session.get("transcribes")),
            items=items,
            held=sum(item.size for item in items),
            serial=self.serial,
            ga=True,
        )

    def _ended(self, announced: Announced) -> Announced:
        response = announced.response.model_copy(update={"status": "incomplete", "status_details": RESTARTED})
        return Announced(announced.created, response, self._ended_at, announced.loquent)


def _announced(body: Mapping[str, Any], created: int) -> Announced:
    notes = body["loquent"]
    extension = wire.ResponseExtension.model_validate(notes) if notes is not None else None
    return Announced(created, wire.Response.model_validate(body["response"]), int(body["done"]), extension)
