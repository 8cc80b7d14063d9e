"""Tasks of models that turn one text into another: what ``[chat.tasks]`` in ``config.toml`` may say."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Task(BaseModel):
    """A prefix of the input, and for models that translate between many languages the two codes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prefix: str = ""
    source: str = ""  # "" is the tokenizer's own
    target: str = ""  # "" is the model's own


def _as_task(given: Any) -> Any:
    return {"prefix": given} if isinstance(given, str) else given


Tasks = dict[Annotated[str, Field(min_length=1, max_length=64)], Annotated[Task, BeforeValidator(_as_task)]]
