"""Makes a conversation fit the model's context."""

from collections.abc import Sequence
from typing import Literal

from pipelines.chat.engine import Tokenizer
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
    prompt = tokenizer.render(messages)
    if len(prompt) < context:
        return prompt
    if overflow == "trim":
        room = context - min(max_tokens, context // SHARE_FOR_REPLY)
        removable = [i for i, message in enumerate(messages[:-1]) if message.role != "system"]
        low, high = 1, len(removable)  # the fewest messages whose removal makes it fit, by bisection
        shortest: list[int] | None = None
        while low <= high:
            count = (low + high) // 2
            removed = set(removable[:count])
            trimmed = tokenizer.render([message for i, message in enumerate(messages) if i not in removed])
            if len(trimmed) <= room:
                shortest, high = trimmed, count - 1
            else:
                low = count + 1
        if shortest is not None:
            return shortest
    hint = "Shorten the conversation" + ("" if overflow == "trim" else ', or set [chat] overflow = "trim"')
    raise StageError(
        "invalid_request",
        "context_length_exceeded",
        f"The prompt has {len(prompt)} tokens, and the context of {context} must hold the reply too. {hint}.",
    )
