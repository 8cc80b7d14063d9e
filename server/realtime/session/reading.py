"""The input of a response: from items to the messages of a turn."""

from collections.abc import Sequence
from dataclasses import replace

from pydantic_core import from_json

from pipelines.events import (
    Message,
    ToolCall,
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
    called: set[str] = set()
    for item, own in items:
        serial = state.unscreened.get(item.id or "") if own else None
        message = _message(item, "" if serial is None else f"{state.id}.{serial}")
        if message is None:
            continue
        called.update(call.id for call in message.calls)
        if message.calls and messages and messages[-1].role == "assistant":
            messages[-1] = replace(messages[-1], calls=messages[-1].calls + message.calls)
            continue
        if message.call_id not in called:
            message = replace(message, call_id="")
        if item.role == "assistant" and (links := links + message.content.count(IMAGES)) <= LINKS:
            message = replace(message, content=without_links(message.content))
        if serial is not None or not own:
            new.append(len(messages))
        messages.append(message)
    # The protocol allows a response in an empty conversation; chat templates need a message to answer.
    return tuple(messages) or (Message("user", ""),), tuple(new)


def _message(item: Item, id: str) -> Message | None:
    """The message for the model that an item is; None for one that says nothing, or not yet."""
    if item.type == "function_call":
        call = _call(item)
        return Message("assistant", "", id, calls=(call,)) if call else None
    if item.type == "function_call_output":
        return Message("tool", item.words, id, call_id=item.call_id or "")
    if item.role is None or not item.words or item.status == "in_progress":
        return None
    return Message(item.role, item.words, id)


def _call(item: Item) -> ToolCall | None:
    """The function call that an item is; None for one that was cut short, or whose arguments are no object."""
    if item.status in ("in_progress", "incomplete"):
        return None
    arguments = item.arguments or "{}"
    try:
        valid = isinstance(from_json(arguments), dict)
    except ValueError:
        valid = False
    return ToolCall(item.call_id or item.id or "", item.name or "", arguments) if valid else None
