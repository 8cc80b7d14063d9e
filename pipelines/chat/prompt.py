"""Makes a conversation fit the model's context."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from pipelines.chat.model.interface import Tokenizer
from pipelines.events import Message, StageError, Tool

Overflow = Literal["error", "trim"]

CHARACTERS_A_TOKEN = 4  # about; for the size of blocks
SHARE_FOR_REPLY = 4  # trimming leaves a quarter of the context, or the reply's limit if that is less


@dataclass(frozen=True, slots=True)
class Room:
    """What a prompt must fit into, and how it is trimmed; in tokens."""

    context: int  # of prompt and reply
    max_tokens: int  # of the reply
    overflow: Overflow = "error"
    retention: float | None = None  # share of the room that trimming leaves
    retained: int | None = None  # that trimming leaves besides the instructions

    @property
    def prompt(self) -> int:
        """For a prompt, where a reply is to fit behind it."""
        return self.context - min(self.max_tokens, self.context // SHARE_FOR_REPLY)


def fit(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    room: Room,
    *,
    tools: Sequence[Tool] = (),
    prefill: bool = False,
) -> list[int]:
    """The prompt's token ids, short enough that a reply fits behind them.

    With ``overflow="trim"`` the oldest messages go first until it fits; system messages and the last message stay. More
    go than must where ``retention`` says so: the prompts of the next turns then begin alike, and are found computed.

    Raises: StageError ``context_length_exceeded`` with the numbers, when it does not fit.
    """

    def render(messages: Sequence[Message]) -> list[int]:
        return tokenizer.render(messages, tools, prefill=prefill)

    messages = _plausible(tokenizer, messages, context=room.context, overflow=room.overflow)
    prompt = render(messages)
    if room.overflow == "trim":
        most = room.prompt
        if room.retained is not None:
            instructions = [message for message in messages if message.role == "system"]
            most = min(most, room.retained + (len(render(instructions)) if instructions else 0))
        if len(prompt) > most:
            prompt = _trim(render, messages, most, room.retention)
    if len(prompt) < room.context:
        return prompt
    raise _too_long(f"{len(prompt)} tokens", room.context, room.overflow)


def _too_long(size: str, context: int, overflow: Overflow) -> StageError:
    hint = "Shorten the conversation" + ("" if overflow == "trim" else ', or set [chat] overflow = "trim"')
    text = f"The prompt has {size}, and the context of {context} tokens must hold the reply too. {hint}."
    return StageError("invalid_request", "context_length_exceeded", text)


def _plausible(
    tokenizer: Tokenizer, messages: Sequence[Message], *, context: int, overflow: Overflow
) -> Sequence[Message]:
    """The messages, less the oldest ones if all of them have too many characters to fit whatever they are.

    Tokenizing megabytes takes seconds of the processor; this keeps that from whoever sends them.
    """
    most = context * tokenizer.longest
    total = sum(size_of(message) for message in messages)
    kept = list(messages)
    if overflow == "trim":
        for message in messages[:-1]:
            if total > most and message.role != "system":
                kept.remove(message)
                total -= size_of(message)
    if total > most:
        raise _too_long(f"{total} characters", context, overflow)
    return _whole(kept) if len(kept) < len(messages) else kept


def _trim(
    render: Callable[[Sequence[Message]], list[int]], messages: Sequence[Message], room: int, retention: float | None
) -> list[int]:
    """The prompt without as few of the oldest messages as let it fit ``room``; without all of them if none do.

    With ``retention`` they go in blocks, whose bounds depend on what stands before them alone: as a conversation grows,
    its prompt begins with the same message for several turns, and all but the last turn is found in the prefix cache.
    """
    removable = [index for index, message in enumerate(messages[:-1]) if message.role != "system"]
    counts = list(range(len(removable) + 1))
    if retention is not None:
        block = max(int((1.0 - retention) * room * CHARACTERS_A_TOKEN), 1)
        begins = list(accumulate((size_of(messages[index]) for index in removable), initial=0))
        first_of_blocks = (at for at in range(1, len(removable)) if begins[at] // block > begins[at - 1] // block)
        counts = [0, *first_of_blocks, len(removable)]

    def without(count: int) -> list[int]:
        removed = set(removable[:count])
        return render(_whole([message for index, message in enumerate(messages) if index not in removed]))

    # Rendering is what costs, so the count is found by bisection.
    found = bisect_left(counts, True, key=lambda count: len(without(count)) <= room)
    return without(counts[min(found, len(counts) - 1)])


def size_of(message: Message) -> int:
    """Characters of a message, with its calls."""
    return len(message.content) + sum(len(call.name) + len(call.arguments) for call in message.calls)


def _whole(messages: Sequence[Message]) -> list[Message]:
    """The messages, less results whose calls are gone: a template would take them for another call's."""
    called = {call.id for message in messages for call in message.calls}
    return [message for message in messages if not message.call_id or message.call_id in called]
