"""Python functions of installed packages, offered as entry points of the group ``loquent.tools``.

A function's name is the entry point's, its description the first paragraph of its docstring, and its schema comes from
its type hints. A coroutine function runs on the event loop and is cancelled with its call; others run in threads.
"""

import asyncio
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint, entry_points
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, PydanticUserError, ValidationError, create_model

from pipelines.events import Tool
from pipelines.stages import StageUnavailableError
from pipelines.tools.source import ToolError

GROUP = "loquent.tools"
THREADS = 8  # for functions that are no coroutines; one that hangs holds its thread


class FunctionError(StageUnavailableError):
    """A function can't be offered; the message says which and why."""


class Functions:
    """The functions that the configuration names."""

    def __init__(self, functions: Mapping[str, Callable[..., Any]], ask: Sequence[str] = ()) -> None:
        self._functions = dict(functions)
        self._models = {name: arguments_model(name, function) for name, function in functions.items()}
        self._ask = frozenset(ask)
        self._threads = ThreadPoolExecutor(THREADS, "tool")
        self.tools: tuple[Tool, ...] = tuple(
            Tool(name, _description(function), _schema(self._models[name])) for name, function in functions.items()
        )

    def asks(self, name: str) -> bool:
        """Whether the user must approve a call of this one."""
        return name in self._ask or "*" in self._ask

    async def start(self) -> None:
        """They are ready."""

    async def close(self) -> None:
        """Calls that wait for a thread are dropped; what runs in one ends with the process at the latest."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """The result as text. Raises: ToolError for arguments that do not fit."""
        try:
            checked = self._models[name].model_validate(dict(arguments))
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in problem["loc"])
            raise ToolError(f"{where}: {problem['msg']}") from None
        values = {field: getattr(checked, field) for field in type(checked).model_fields}
        function = self._functions[name]
        if inspect.iscoroutinefunction(function):
            result = await function(**values)
        else:
            loop = asyncio.get_running_loop()
            result = await loop.run_in_executor(self._threads, lambda: function(**values))
        return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=str)


def installed(names: Sequence[str]) -> dict[str, Callable[..., Any]]:
    """The functions of these names. Raises: FunctionError where one is missing, or can't be imported."""
    known: dict[str, EntryPoint] = {point.name: point for point in entry_points(group=GROUP)}
    found: dict[str, Callable[..., Any]] = {}
    for name in names:
        if name not in known:
            there = ", ".join(sorted(known)) or "none"
            raise FunctionError(f"There is no function {name!r} of an installed package; there are: {there}.")
        try:
            found[name] = known[name].load()
        except Exception as error:
            raise FunctionError(f"The function {name!r} can't be imported: {error}") from error
    return found


def arguments_model(name: str, function: Callable[..., Any]) -> type[BaseModel]:
    """The model of a function's arguments. Raises: FunctionError where a type hint is missing, or says nothing."""
    fields: dict[str, Any] = {}
    try:
        hints = get_type_hints(function, include_extras=True)
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise FunctionError(f"The function {name!r} must name its parameters: {parameter} does not.")
            if parameter.name not in hints:
                raise FunctionError(f"The function {name!r} must have a type hint for {parameter.name!r}.")
            fields[parameter.name] = (
                hints[parameter.name],
                ... if parameter.default is parameter.empty else parameter.default,
            )
        model: type[BaseModel] = create_model(name, __config__=ConfigDict(extra="forbid"), **fields)
        model.model_json_schema()
    except (NameError, TypeError, ValueError, PydanticUserError) as error:
        if isinstance(error, FunctionError):
            raise
        raise FunctionError(f"The function {name!r} can't be offered: {error}") from error
    return model


def _description(function: Callable[..., Any]) -> str:
    return " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    """The schema, less the titles that pydantic gives to everything."""

    def plain(value: Any, *, names: bool = False) -> Any:
        if isinstance(value, dict):
            return {
                key: plain(each, names=key in ("properties", "$defs"))
                for key, each in value.items()
                if names or key != "title" or not isinstance(each, str)
            }
        return [plain(each) for each in value] if isinstance(value, list) else value

    schema: dict[str, Any] = plain(model.model_json_schema())
    return schema
