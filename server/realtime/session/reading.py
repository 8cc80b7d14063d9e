"""The input of a response: from items to the messages of a turn."""

from collections.abc import Sequence

from pipelines.events import (
    Message,
)
from server.links import IMAGES, without_links
from server.realtime import wire
from server.realtime.session.state import State
from server.realtime.wire import Item, WireError

LINKS = 10_000  # that one response takes out of replies, at a microsecond each; a link beyond that stays

Given = tuple[Item, bool]  # an item, and whether the conversation holds it; ids alone don't say, clients reuse them


def items_read(state: State, asked: wire.ResponseConfig) -> list[Given]:
    """The items that a response reads: its own input, or else the conversation. Raises: WireError."""
    if asked.input is None:
        return [(item, True) for item in state.items]
    if len(asked.input) > state.limits.items:
        raise WireError(
            "input_too_large", f"An input holds at most {state.limits.items} items.", param="response.input"
        )
    known = {item.id: item for item in state.items}
    given: list[Given] = []
    size = 0
    for item in asked.input:
        if item.type == "item_reference" and item.id not in known:
            raise WireError(
                "item_reference_invalid_item_id", f"There is no item {item.id!r} to refer to.", param="response.input"
            )
        given.append((known[item.id], True) if item.type == "item_reference" else (item, False))
        size += len(given[-1][0].words.encode())
        if size > state.limits.conversation_bytes:
            raise WireError(
                "input_too_large",
                f"The input holds more than the {state.limits.conversation_bytes} bytes of a conversation.",
                param="response.input",
            )
    return given


def messages_read(
    state: State, asked: wire.ResponseConfig, items: Sequence[Given]
) -> tuple[tuple[Message, ...], tuple[int, ...]]:
    """The messages for the model, instructions first, and the indexes of those that no turn has screened yet."""
    instructions = state.config.instructions if asked.instructions is None else asked.instructions
    messages = [Message("system", instructions)] if instructions else []
    new: list[int] = []
    links = 0
    for item, own in items:
        spoken = item.role is not None and item.words and item.status != "in_progress"
        if not spoken and item.type != "function_call_output":
            continue
        serial = state.unscreened.get(item.id or "") if own else None
        if serial is not None or not own:
            new.append(len(messages))
        words = item.words
        if item.role == "assistant" and (links := links + words.count(IMAGES)) <= LINKS:
            words = without_links(words)
        messages.append(Message(item.role or "tool", words, "" if serial is None else f"{state.id}.{serial}"))
    # The protocol allows a response in an empty conversation; chat templates need a message to answer.
    return tuple(messages) or (Message("user", ""),), tuple(new)
