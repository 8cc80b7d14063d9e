"""Functions that a client offers to the model, and which of them it may call, in the forms that clients send."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from pipelines.events import Tool, ToolMode, ToolUse
from server.errors import ApiError

TOOLS = 128  # that one request may offer

Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]


class Function(BaseModel):
    """A function; other fields have no effect."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def tool(self) -> Tool:
        """The function in the pipeline's form."""
        return Tool(self.name, self.description or "", self.parameters or {}, self.strict)

    def echo(self) -> dict[str, Any]:
        """The function as a response of ``/v1/responses`` repeats it."""
        return {
            "type": "function",
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters or {},
            "strict": bool(self.strict),
        }


class ToolEntry(BaseModel):
    """An entry of ``tools``: a function, nested or flat, with or without a type; or a tool that is not offered."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    type: str | None = None
    function: Function | None = None
    name: Name | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _only_functions(cls, data: Any) -> Any:
        """Of another service's tools nothing is read but the type."""
        kind = data.get("type") if isinstance(data, dict) else None
        return {"type": kind[:80]} if isinstance(kind, str) and kind != "function" else data

    @model_validator(mode="after")
    def _complete(self) -> "ToolEntry":
        if self.type in ("function", None) and self.function is None and self.name is None:
            raise PydanticCustomError("missing", "a function needs a name")
        return self

    @property
    def offered(self) -> Function | None:
        """The function, if it is one."""
        if self.type not in ("function", None):
            return None
        if self.function is None and self.name is not None:
            return Function(
                name=self.name, description=self.description, parameters=self.parameters, strict=self.strict
            )
        return self.function


ToolEntries = Annotated[list[ToolEntry], Field(max_length=TOOLS, fail_fast=True)]
Functions = Annotated[list[Function], Field(max_length=TOOLS, fail_fast=True)]


class _Named(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    type: str | None = None
    name: str | None = None
    function: "_Named | None" = None

    @property
    def target(self) -> str | None:
        """The function's name, wherever the form has it."""
        return self.function.name if self.function else self.name


class _Allowed(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    mode: Literal["auto", "required"] = "auto"
    tools: Annotated[list[_Named], Field(max_length=TOOLS, fail_fast=True)] | None = None


class ToolChoice(_Named):
    """``tool_choice`` in the forms of chat completions and of responses."""

    mode: Literal["auto", "required"] = "auto"
    tools: Annotated[list[_Named], Field(max_length=TOOLS, fail_fast=True)] | None = None
    allowed_tools: _Allowed | None = None


def _as_choice(given: Any) -> Any:
    if isinstance(given, str):
        if given not in ("auto", "none", "required", "any"):
            raise PydanticCustomError("tool_choice", "must be auto, none, required or a tool")
        return {"type": given}
    if not isinstance(given, dict):
        raise PydanticCustomError("tool_choice", "must be a string or an object")
    return given


AnyToolChoice = Annotated[
    ToolChoice,
    BeforeValidator(_as_choice, json_schema_input_type=Literal["auto", "none", "required", "any"] | ToolChoice),
]


@dataclass(frozen=True, slots=True)
class Offer:
    """What a request offers to the model."""

    use: ToolUse | None
    warnings: tuple[str, ...] = ()
    functions: tuple[Function, ...] = ()
    choice: str | dict[str, Any] = "auto"  # as a response of ``/v1/responses`` repeats it


def offer(
    entries: Sequence[ToolEntry] | None,
    choice: ToolChoice | None,
    *,
    parallel: bool | None,
    param: str = "tools",
    choice_param: str = "tool_choice",
) -> Offer:
    """What the model may call. Raises: ApiError 400 for a name given twice, and a choice that is not offered."""
    functions = tuple(entry.offered for entry in entries or () if entry.offered)
    names = [function.name for function in functions]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise ApiError(400, "invalid_value", f"{param}: there are two functions named {name!r}.", param)
    others = sorted({entry.type for entry in entries or () if entry.type not in ("function", None)})
    warnings = tuple(f"Tools of type {kind!r} are not offered to the model: this server has none." for kind in others)
    try:
        mode, allowed, echo = _chosen(choice, names)
    except ValueError as error:
        raise ApiError(400, "invalid_value", f"{choice_param}: {error}.", choice_param) from None
    if not functions:
        return Offer(None, warnings, (), echo)
    tools = tuple(function.tool() for function in functions)
    return Offer(ToolUse(tools, mode, allowed, parallel is not False), warnings, functions, echo)


def _chosen(choice: ToolChoice | None, names: Sequence[str]) -> tuple[ToolMode, tuple[str, ...], str | dict[str, Any]]:
    if choice is None or choice.type == "auto":
        return "auto", (), "auto"
    if choice.type == "none":
        return "none", (), "none"
    if choice.type in ("required", "any"):
        if not names:
            raise ValueError("a call is required, and no function is offered")
        return "required", (), "required"
    if choice.type in ("function", None):
        name = _offered(choice.target, names)
        return "required", (name,), {"type": "function", "name": name}
    if choice.type == "allowed_tools":
        return _allowed(choice, names)
    raise ValueError(f"tools of type {choice.type!r:.80} are not offered to the model")


def _allowed(choice: ToolChoice, names: Sequence[str]) -> tuple[ToolMode, tuple[str, ...], dict[str, Any]]:
    mode = choice.allowed_tools.mode if choice.allowed_tools else choice.mode
    listed = (choice.allowed_tools.tools if choice.allowed_tools else choice.tools) or []
    allowed = tuple(_offered(each.target, names) for each in listed if each.type in ("function", None))
    echo = {
        "type": "allowed_tools",
        "mode": mode,
        "tools": [{"type": "function", "name": name} for name in allowed],
    }
    if allowed:
        return mode, tuple(dict.fromkeys(allowed)), echo
    if mode == "required":
        raise ValueError("a call is required, and no function is allowed")
    return "none", (), echo


def _offered(name: str | None, names: Sequence[str]) -> str:
    if name is None:
        raise ValueError("it names no function")
    if name not in names:
        raise ValueError(f"the function {name!r:.140} is not among the tools")
    return name
