"""Makes a conversation fit the model's context."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Literal

from pipelines.chat.model.interface import Tokenizer
from pipelines.events import Message, StageError

Overflow = Literal["error", "trim"]

SHARE_FOR_REPLY = 4  # trimming leaves a quarter of the context, or the reply's limit if that is less


def fit(
    tokenizer: Tokenizer, messages: Sequence[Message], *, context: int, max_tokens: int, overflow: Overflow
) -> list[int]:
    """The prompt's token ids, short enough that a reply fits behind them.

    With ``overflow="trim"`` the oldest messages go first until it fits; system messages and the last message stay.

    Raises: StageError ``context_length_exceeded`` with the numbers, when it does not fit.
    """
    messages = _plausible(tokenizer, messages, context=context, overflow=overflow)
    prompt = tokenizer.render(messages)
    room = context - min(max_tokens, context // SHARE_FOR_REPLY)
    if overflow == "trim" and len(prompt) > room:
        prompt = _trim(tokenizer, messages, room=room)
    if len(prompt) < context:
        return prompt
    raise _too_long(f"{len(prompt)} tokens", context, overflow)


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
    total = sum(len(message.content) for message in messages)
    kept = list(messages)
    if overflow == "trim":
        for message in messages[:-1]:
            if total > most and message.role != "system":
                kept.remove(message)
                total -= len(message.content)
    if total > most:
        raise _too_long(f"{total} characters", context, overflow)
    return kept


def _trim(tokenizer: Tokenizer, messages: Sequence[Message], *, room: int) -> list[int]:
    """The prompt without as few of the oldest messages as let it fit ``room``; without all of them if none do."""
    removable = [index for index, message in enumerate(messages[:-1]) if message.role != "system"]

    def without(count: int) -> list[int]:
        removed = set(removable[:count])
        return tokenizer.render([message for index, message in enumerate(messages) if index not in removed])

    # Rendering is what costs, so the count is found by bisection.
    return without(bisect_left(range(len(removable)), True, key=lambda count: len(without(count)) <= room))
