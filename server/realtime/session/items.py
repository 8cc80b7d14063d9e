"""The conversation's items: create, find, truncate."""

from dataclasses import replace
from typing import Literal

from pipelines.events import (
    AUDIO_RATE,
)
from server.realtime import wire
from server.realtime.session.inputs import Output, Silence, Step, Stop
from server.realtime.session.leash import check_item
from server.realtime.session.replies import CANCELLED, close_reply
from server.realtime.session.state import Sound, State, make_room, new_id, splice, taken_ids
from server.realtime.wire import Item, WireError


def create_item(state: State, event: wire.ItemCreate) -> Step:
    """Insert an item at the position that the client asks for. Raises: WireError."""
    item = event.item
    check_item(state, item, "item")
    if item.type == "item_reference":
        raise WireError("invalid_value", "An item_reference can't be created as an item.", param="item.type")
    if item.id is None:
        state, id = new_id(state, "item")
        item = item.model_copy(update={"id": id})
    elif item.id in taken_ids(state):
        raise WireError("item_create_duplicate_item_id", f"The item {item.id!r} exists already.", param="item.id")
    item = _normal(item)
    state, gone = make_room(state, item.size)
    at = _index_after(state, event.previous_item_id)
    before = state.items[at - 1].id if at else None
    state = splice(state, at, item)
    if item.role == "user" or item.type == "function_call_output":
        serial = state.serial + 1  # not the item's id, which a client may use again
        state = replace(state, serial=serial, unscreened={**state.unscreened, item.id or "": serial})
    return state, [
        *(wire.ItemDeleted(item_id=id) for id in gone),
        wire.ItemAdded(previous_item_id=before, item=item),
        wire.ItemDone(previous_item_id=before, item=item),
    ]


def known_item(state: State, id: str, code: str) -> Item:
    """The item with this id. Raises: WireError ``code``."""
    for item in state.items:
        if item.id == id:
            return item
    raise WireError(code, f"There is no item {id!r:.140} in this conversation.", param="item_id")


def _normal(item: Item) -> Item:
    """The item as the server stores it: with every field, and with part types that fit its role."""
    update: dict[str, object] = {"object": "realtime.item", "status": "completed", "loquent": None}
    if item.type == "message":
        side: Literal["input", "output"] = "output" if item.role == "assistant" else "input"
        update["content"] = [_normal_part(part, side) for part in item.content or ()]
    return item.model_copy(update=update)


def _normal_part(part: wire.Content, side: Literal["input", "output"]) -> wire.Content:
    kind = "audio" if "audio" in part.type else "text"
    return part.model_copy(update={"type": f"{side}_{kind}", "audio": None})


def _index_after(state: State, previous: str | None) -> int:
    """The index of an item that follows ``previous``; without one, the end."""
    if previous is None:
        return len(state.items)
    if previous == "root":
        return 0
    for index, item in enumerate(state.items):
        if item.id == previous:
            return index + 1
    raise WireError(
        "item_create_invalid_previous_item_id",
        f"There is no item {previous!r:.140}.",
        param="previous_item_id",
    )


def truncate_item(state: State, event: wire.ItemTruncate) -> Step:
    """Cut what the listener did not hear of a spoken reply. A reply without sound was read, so its text stays."""
    item = known_item(state, event.item_id, "item_truncate_invalid_item_id")
    if item.role != "assistant":
        raise WireError("invalid_value", "Only the assistant's messages can be truncated.", param="item_id")
    if event.content_index >= max(len(item.content or ()), 1):
        raise WireError("invalid_value", "The item has no such part.", param="content_index")
    outputs: list[Output] = []
    reply = next((reply for reply in state.replies if reply.item_id == item.id and reply.sound is not None), None)
    if reply is not None:  # barge-in: a client that truncates a reply in progress does not want the rest
        state, outputs = close_reply(state, reply, "cancelled", CANCELLED)
        outputs.insert(0, Stop(reply.id))
        item = known_item(state, event.item_id, "item_truncate_invalid_item_id")
    state, truncated = truncate_to(state, item, event.audio_end_ms, event.content_index)
    return state, [*outputs, Silence(), truncated]


def truncate_to(state: State, item: Item, end: int, content_index: int = 0) -> tuple[State, wire.ItemTruncated]:
    """Cut a spoken reply behind so many milliseconds, or where it ends."""
    id = item.id or ""
    sound = state.sounds.get(id, Sound())
    end = min(end, sound.milliseconds)
    if end < sound.milliseconds:
        heard = tuple(word for word in sound.heard if word.samples <= end * AUDIO_RATE // 1000)
        transcript = "".join(part.transcript or "" for part in item.content or ())
        heard_text = transcript[: heard[-1].characters if heard else 0]
        cut = item.model_copy(update={"content": [wire.Content(type="output_audio", transcript=heard_text)]})
        state = splice(state, state.items.index(item), cut, removed=1)
        left = Sound(end * AUDIO_RATE // 1000, heard)
        state = replace(state, sounds={**state.sounds, id: left})
    return state, wire.ItemTruncated(item_id=id, content_index=content_index, audio_end_ms=end)
