"""The items of a response's input: as clients send them, as they are stored, and as the model reads them."""

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from pipelines.events import Message, Role, ToolCall
from server.api.content import Parts, arguments_of, text_of
from server.links import without_links
from server.response_store import Json

NEEDED = {
    "message": ("role", "content"),
    "function_call": ("call_id", "name"),
    "function_call_output": ("call_id", "output"),
    "item_reference": ("id",),
}
IGNORED = ("reasoning", "compaction")  # what another model thought
PREFIX = {"message": "msg", "function_call": "fc", "function_call_output": "fco"}

ItemId = Annotated[str, Field(min_length=1, max_length=128)]


class Item(BaseModel):
    """An item; other fields are ignored."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    type: Annotated[str, WithJsonSchema({"type": "string", "enum": [*NEEDED, *IGNORED]})] = "message"
    id: ItemId | None = None
    role: Literal["user", "assistant", "system", "developer"] | None = Field(default=None, validate_default=True)
    content: Parts | None = Field(default=None, validate_default=True)
    call_id: Annotated[str | None, Field(max_length=256)] = Field(default=None, validate_default=True)
    name: Annotated[str | None, Field(max_length=128)] = Field(default=None, validate_default=True)
    arguments: str = "{}"
    output: Parts | None = Field(default=None, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _discriminated(cls, data: Any) -> Any:
        """Read of an item only what its type has."""
        if not isinstance(data, dict):
            return data
        given = {name: value for name, value in data.items() if value is not None}
        kind = given.get("type", "message" if "role" in given else "item_reference" if "id" in given else "message")
        if not isinstance(kind, str) or (kind not in NEEDED and kind not in IGNORED):
            text = "this server reads no items of type {type}"
            raise PydanticCustomError("unsupported_content", text, {"type": str(kind)[:80]})
        names = ("id", "arguments", *NEEDED[kind]) if kind in NEEDED else ()
        return {"type": kind} | {name: given[name] for name in names if name in given}

    @field_validator("role", "content", "call_id", "name", "output")
    @classmethod
    def _complete(cls, given: Any, info: ValidationInfo) -> Any:
        if given is None and info.field_name in NEEDED.get(info.data.get("type", ""), ()):
            raise PydanticCustomError("missing", "Field required")
        return given

    @field_validator("arguments")
    @classmethod
    def _object(cls, given: str) -> str:
        return arguments_of(given)

    def stored(self) -> Json:
        """The item as a response's input items repeat it."""
        id = self.id or new_id(self.type)
        head = {"id": id, "type": self.type, "status": "completed"}
        if self.type == "function_call":
            return head | {"call_id": self.call_id, "name": self.name, "arguments": self.arguments}
        if self.type == "function_call_output":
            return head | {"call_id": self.call_id, "output": text_of(self.output)}
        if self.role == "assistant":
            return head | {"role": self.role, "content": [output_text(text_of(self.content))]}
        return head | {"role": self.role, "content": [{"type": "input_text", "text": text_of(self.content)}]}


def _as_items(given: Any) -> Any:
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": given}]
    if not isinstance(given, list):
        raise PydanticCustomError("input", "must be a string or a list of items")
    return given


Items = Annotated[
    list[Item], Field(fail_fast=True), BeforeValidator(_as_items, json_schema_input_type=str | list[Item])
]


def new_id(type: str) -> str:
    """A new item's id."""
    return f"{PREFIX[type]}_{secrets.token_hex(16)}"


def output_text(text: str, logprobs: Sequence[Json] = ()) -> Json:
    """A part of a message of the assistant's."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


_ROLES: dict[str, Role] = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}


def conversation(items: Iterable[Json]) -> tuple[Message, ...]:
    """Stored items as the model reads them: calls belong to the message of the assistant's that they follow."""
    messages: list[Message] = []
    for item in items:
        if item["type"] == "function_call":
            call = ToolCall(item["call_id"], item["name"], item["arguments"])
            if messages and messages[-1].role == "assistant":
                messages[-1] = replace(messages[-1], calls=(*messages[-1].calls, call))
            else:
                messages.append(Message("assistant", "", item["id"], (call,)))
        elif item["type"] == "function_call_output":
            messages.append(Message("tool", item["output"], item["id"], call_id=item["call_id"]))
        else:
            role = _ROLES[item["role"]]
            text = "".join(part["text"] for part in item["content"])
            messages.append(Message(role, without_links(text) if role == "assistant" else text, item["id"]))
    return tuple(messages)
