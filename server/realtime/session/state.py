"""The state of a realtime session, and the small changes of it that the event families share."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Protocol

from pipelines.events import (
    AUDIO_RATE,
    Heard,
    Usage,
    audio_tokens,
)
from server.access.leash import Leash
from server.names import ModelNames, VoiceNames
from server.realtime import wire
from server.realtime.wire import Item, SessionConfig, WireError

# Shared by all sessions, of which most are idle: a session that has something of its own has a mapping of its own.
NOTHING: Mapping[str, Any] = MappingProxyType({})
DEFAULTS = SessionConfig()
SHARE_LEFT = 0.8  # of a full conversation, once its oldest items have gone


def _nothing() -> Mapping[str, Any]:
    return NOTHING


@dataclass(frozen=True, slots=True)
class Sound:
    """The sound of a spoken reply, as far as it has been sent."""

    samples: int = 0
    heard: tuple[Heard, ...] = ()  # the end of each word, for truncation

    @property
    def milliseconds(self) -> int:
        """Its length in milliseconds."""
        return self.samples * 1000 // AUDIO_RATE

    @property
    def tokens(self) -> int:
        """The audio tokens that it counts for in the usage."""
        return audio_tokens(self.samples)


@dataclass(frozen=True, slots=True)
class Call:
    """A function call whose arguments are still coming."""

    item_id: str
    id: str
    name: str
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """A response in progress: its items that are done, and the message or the call that is open."""

    id: str
    item_id: str  # of its message, if it has one; the message comes before any call
    out_of_band: bool
    config: wire.Response  # as announced by ``response.created``
    output: tuple[Item, ...] = ()  # items that are done; as many as its tokens allow
    opened: bool = False  # its message's item and part are announced, and not done
    text: str = ""
    call: Call | None = None
    usage: Usage = field(default_factory=Usage)
    sound: Sound | None = None  # None where it is not spoken
    screening: wire.Screening | None = None  # how its messages were screened, where the client wants to know
    images: tuple[wire.Image, ...] = ()  # that belong to it
    warnings: tuple[str, ...] = ()  # what was done to its input that the client should know
    screens: tuple[str, ...] = ()  # items that this turn is the first to have screened

    @property
    def calls(self) -> bool:
        """Whether a call has begun; no text follows one."""
        return self.call is not None or any(item.type == "function_call" for item in self.output)


class Limits(Protocol):
    """The limits of one session."""

    @property
    def items(self) -> int:
        """Items of a conversation."""

    @property
    def conversation_bytes(self) -> int:
        """Bytes of all of them."""

    @property
    def responses(self) -> int:
        """Responses in progress."""

    @property
    def audio_seconds(self) -> float:
        """Of the user's audio in one turn."""

    @property
    def audio_bytes(self) -> int:
        """Of the user's audio that is stored, to be retrieved."""


@dataclass(frozen=True, slots=True)
class State:
    """Everything that a session remembers."""

    id: str
    names: ModelNames
    limits: Limits
    token: str = ""  # what lets its client come back to it; "" where it can't
    tenant: str = ""  # who shares capacity
    leash: Leash | None = None  # of a client secret
    turns_left: int | None = None  # responses that the client secret still allows; None: any number
    expires_at: int | None = None  # Unix time
    voices: VoiceNames | None = None  # None where nothing can be spoken
    verdicts: bool = False  # whether the configuration allows reporting them
    draws: bool = False  # whether replies can come with pictures
    config: SessionConfig = DEFAULTS
    items: tuple[Item, ...] = ()  # at most ``limits.items``, and as many replies in progress
    held: int = 0  # bytes of ``items``, at most ``limits.conversation_bytes`` and what replies add
    sounds: Mapping[str, Sound] = field(
        default_factory=_nothing
    )  # of items that were spoken; as many words as they have
    unscreened: Mapping[str, int] = field(
        default_factory=_nothing
    )  # items that no turn has had screened yet, each with its serial
    replies: tuple[Reply, ...] = ()  # at most ``limits.responses``, one of them in the conversation
    serial: int = 0
    beta_header: bool = False  # the client's handshake had the header of the beta protocol
    ga: bool = False  # the client has shown that it speaks the GA protocol
    listens: bool = False  # whether the user's audio is heard
    transcribes: bool = False  # the session only recognises words
    deaf: bool = False  # the client knows that its audio is not heard
    uncommitted: int = 0  # milliseconds of audio since the last turn
    full: bool = False  # the client knows that there is too much of it
    speech: str | None = None  # the id of the item that the user's speech will be
    partial: str = ""  # of its words, what the client knows
    pending: Mapping[str, int] = field(
        default_factory=_nothing
    )  # items whose words are not there yet, with their serial
    waiting: Mapping[str, wire.ResponseConfig] = field(default_factory=_nothing)  # responses that wait for such words
    owed: bool = False  # an answer is to begin once the conversation has no response in progress
    audio: Mapping[str, bytes] = field(default_factory=_nothing)  # of items, at most ``limits.audio_bytes``
    draining: bool = False
    closed: bool = False
    refused: tuple[int, str] | None = None  # the close code and reason of a session that the server ended

    @property
    def conversation_id(self) -> str:
        """The conversation's id."""
        return f"conv_{self.id}"

    @property
    def last_spoken(self) -> str | None:
        """The id of the last message that is or was spoken in the conversation."""
        if (reply := self.active) is not None and reply.opened and reply.sound is not None:
            return reply.item_id
        return next((item.id for item in reversed(self.items) if item.id in self.sounds), None)

    @property
    def active(self) -> Reply | None:
        """The response in progress in the conversation."""
        return next((reply for reply in self.replies if not reply.out_of_band), None)


def find_reply(state: State, response_id: str) -> Reply | None:
    """The response in progress with this id."""
    return next((reply for reply in state.replies if reply.id == response_id), None)


def find_item(state: State, id: str) -> Item | None:
    """The item of the conversation with this id."""
    return next((item for item in state.items if item.id == id), None)


def put_reply(state: State, reply: Reply) -> State:
    """The state with this reply replacing its predecessor."""
    return replace(state, replies=tuple(reply if held.id == reply.id else held for held in state.replies))


def new_id(state: State, kind: str) -> tuple[State, str]:
    """A new id that collides with no item, including those whose ids the client chose."""
    taken = taken_ids(state)
    serial = state.serial
    while True:
        serial += 1
        id = f"{kind}_{state.id}{serial}"
        if id not in taken:
            return replace(state, serial=serial), id


def taken_ids(state: State) -> set[str | None]:
    """The ids of all items, including those of replies in progress."""
    ids = {item.id for item in state.items} | {state.speech}
    for reply in state.replies:
        ids |= {reply.item_id, *(item.id for item in reply.output), *([reply.call.item_id] if reply.call else [])}
    return ids


def splice(state: State, at: int, *added: Item, removed: int = 0) -> State:
    """The state with ``removed`` items from ``at`` on replaced by ``added``."""
    change = sum(item.size for item in added) - sum(item.size for item in state.items[at : at + removed])
    return replace(state, items=(*state.items[:at], *added, *state.items[at + removed :]), held=state.held + change)


def delete_item(state: State, item: Item) -> State:
    """The state without an item and everything recorded about it."""
    state = splice(state, state.items.index(item), removed=1)
    return replace(
        state,
        sounds={id: sound for id, sound in state.sounds.items() if id != item.id},
        unscreened={id: serial for id, serial in state.unscreened.items() if id != item.id},
        audio={id: pcm for id, pcm in state.audio.items() if id != item.id},
    )


def make_room(state: State, size: int = 0) -> tuple[State, tuple[str, ...]]:
    """The state with room for another item of ``size`` bytes, and the ids of items that went for it.

    Unless the session's truncation is disabled, the oldest items go when the conversation is full, a fifth of it at
    once, so that its beginning stays the same for many turns. Instructions stay, and what is still being generated.

    Raises: WireError ``conversation_full`` where there is no room.
    """
    active = state.active
    pending = 1 if active and not (active.opened or active.calls) else 0  # its first item will come
    most, most_bytes = state.limits.items, state.limits.conversation_bytes

    def full(state: State) -> bool:
        return len(state.items) + pending >= most or state.held + size > most_bytes

    gone: list[str] = []
    if full(state) and state.config.truncation != "disabled" and size <= most_bytes:
        for item in state.items:
            within = len(state.items) + pending < SHARE_LEFT * most and state.held + size <= SHARE_LEFT * most_bytes
            if within and not full(state):
                break
            if item.role != "system" and item.status != "in_progress":
                state = delete_item(state, item)
                gone.append(item.id or "")
    if len(state.items) + pending >= most:
        raise WireError("conversation_full", f"A conversation has at most {most} items; delete some.")
    if state.held + size > most_bytes:
        raise WireError("conversation_full", f"The conversation holds {state.held} bytes; delete some of its items.")
    return state, tuple(gone)
