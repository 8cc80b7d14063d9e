"""The messages of a chat completion: text, function calls and their results."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from pipelines.events import Message, Role, ToolCall
from server.api.content import Parts, arguments_of, text_of
from server.links import without_links

CALLS = 128  # of one message


class CalledFunction(BaseModel):
    """A function's name, and its arguments as JSON."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    name: Annotated[str, Field(min_length=1, max_length=128)]
    arguments: str = "{}"

    @field_validator("arguments")
    @classmethod
    def _object(cls, given: str) -> str:
        return arguments_of(given)


class Call(BaseModel):
    """An entry of ``tool_calls``."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    id: Annotated[str, Field(min_length=1, max_length=256)]
    function: CalledFunction

    @model_validator(mode="before")
    @classmethod
    def _only_functions(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("type") not in ("function", None):
            raise PydanticCustomError("unsupported_content", "this server reads only calls of type function")
        return data


class ChatMessage(BaseModel):
    """A message; other fields are ignored."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    name: str | None = None
    tool_calls: Annotated[list[Call], Field(max_length=CALLS, fail_fast=True)] | None = None
    function_call: CalledFunction | None = None
    refusal: str | None = None
    prefix: bool | None = None
    tool_call_id: Annotated[str | None, Field(max_length=256)] = Field(default=None, validate_default=True)
    content: Parts | None = Field(default=None, validate_default=True)

    @field_validator("tool_call_id")
    @classmethod
    def _answers_a_call(cls, given: str | None, info: ValidationInfo) -> str | None:
        if given is None and info.data.get("role") == "tool":
            raise PydanticCustomError("missing", "Field required")
        return given

    @field_validator("content")
    @classmethod
    def _says_something(cls, given: Any, info: ValidationInfo) -> Any:
        if given is None and not any(info.data.get(name) for name in ("tool_calls", "function_call", "refusal")):
            raise PydanticCustomError("missing", "Field required")
        return given

    @property
    def text(self) -> str:
        """Its text; a refusal is one."""
        return text_of(self.content) or self.refusal or ""


def conversation(given: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """The messages in the pipeline's form. A legacy call has no id: it gets one, and so does its result."""
    messages: list[Message] = []
    legacy = ""
    for index, each in enumerate(given):
        calls = [ToolCall(call.id, call.function.name, call.function.arguments) for call in each.tool_calls or ()]
        if each.function_call:
            legacy = f"call_{index}"
            calls.append(ToolCall(legacy, each.function_call.name, each.function_call.arguments))
        role = _ROLES[each.role]
        text = without_links(each.text) if role == "assistant" else each.text
        call_id = legacy if each.role == "function" else each.tool_call_id or ""
        messages.append(Message(role, text, calls=tuple(calls), call_id=call_id if role == "tool" else ""))
    return tuple(messages)


_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
