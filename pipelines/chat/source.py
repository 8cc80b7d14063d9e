"""What a model with an encoder reads of a turn: its last message of the user, as one of the configured tasks."""

from collections.abc import Mapping

from pipelines.chat.model.interface import Encoder
from pipelines.chat.prompt import Overflow
from pipelines.chat.tasks import Task
from pipelines.events import StageError, Turn


def check(turn: Turn, tasks: Mapping[str, Task], *, encodes: bool) -> None:
    """Whether the model, which has an encoder or none, can be asked for this.

    Raises: StageError for an unknown task, and for what only models that know conversations can do.
    """
    if turn.task and not encodes:
        text = "loquent.task: this server's model answers conversations; tasks are for models that rewrite one text."
        raise StageError("invalid_request", "unsupported_parameter", text, param="loquent.task")
    if turn.task and turn.task not in tasks:
        known = ", ".join(sorted(tasks)) or "none"
        text = f"loquent.task: there is no task {turn.task!r:.100}; the server's are: {known:.500}."
        raise StageError("invalid_request", "unknown_task", text, param="loquent.task")
    if not encodes:
        return
    if turn.prefill:
        text = "continue_final_message: this server's model knows no conversation whose last message could go on."
        raise StageError("invalid_request", "unsupported_parameter", text, param="continue_final_message")
    if turn.tools is not None and turn.tools.tools and turn.tools.mode == "required":
        text = "tool_choice: this server's model can't call functions."
        raise StageError("invalid_request", "unsupported_parameter", text, param="tool_choice")


def read(encoder: Encoder, turn: Turn, overflow: Overflow) -> tuple[list[int], tuple[str, ...]]:
    """The prompt's token ids, and what the client should know of them.

    Raises: StageError where there is no message, or where it is too long and is not to be cut.
    """
    text = next((message.content for message in reversed(turn.messages) if message.role == "user"), None)
    if text is None:
        message = "This server's model reads the last message of the user, and there is none."
        raise StageError("invalid_request", "invalid_value", message, param="messages")
    prompt, count = encoder.encode(text, turn.task, cut=overflow == "trim")
    if count <= encoder.input:
        return prompt, ()
    return prompt, (f"The input was cut: it has {count} tokens or more, and the model reads {encoder.input}.",)
