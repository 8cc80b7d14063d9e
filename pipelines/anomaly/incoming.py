"""Which of a turn's messages are to be screened. Pure functions."""

from collections.abc import Sequence

from pipelines.events import Message, Turn

ROLES = ("user", "tool")  # whose messages are screened
MESSAGES = 8  # new messages of one turn that are screened; the older ones of more are screened as one


def new_messages(turn: Turn) -> tuple[Message, ...]:
    """What is to be screened, of users and of tools: what the turn says is new, or else what came in since the last
    reply. Of more than ``MESSAGES`` the older ones are joined, those of users and those of tools.

    Where the assistant's words are the last ones, a client put them there, and what stands before them counts as new.
    """
    if turn.new is None:
        found = _since_reply(turn.messages)
    else:
        found = [turn.messages[index] for index in turn.new if _can_be_screened(turn.messages[index])]
    if len(found) <= MESSAGES:
        return tuple(found)
    kept = MESSAGES - len({message.role for message in found[: -MESSAGES + 1]})
    joined = {message.role: "" for message in found[:-kept]}
    for message in found[:-kept]:
        joined[message.role] += message.content + "\n"
    return (*(Message(role, text[:-1]) for role, text in joined.items()), *found[-kept:])


def _since_reply(messages: Sequence[Message]) -> list[Message]:
    found: list[Message] = []
    for message in reversed(messages):
        if message.role == "assistant" and found:
            break
        if _can_be_screened(message):
            found.append(message)
    return found[::-1]


def _can_be_screened(message: Message) -> bool:
    return message.role in ROLES and bool(message.content.strip())
