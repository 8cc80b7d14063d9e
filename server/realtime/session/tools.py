"""The functions that a response may call, from the session's settings and its own."""

from collections.abc import Sequence
from typing import Any

from pipelines.events import StageError, Tool, ToolMode, ToolUse
from server.realtime import wire
from server.realtime.wire import SessionConfig


def use_of(config: SessionConfig, asked: wire.ResponseConfig) -> ToolUse | None:
    """The functions of a response, None where it has none. Raises: StageError for a choice that can't be had."""
    functions = _functions(config.tools if asked.tools is None else asked.tools)
    choice = asked.tool_choice
    if choice is None:
        choice = "auto" if asked.tools == [] else config.tool_choice
    mode, allowed = _chosen(choice)
    for name in allowed:
        if name not in {function.name for function in functions}:
            raise _impossible(f"there is no function {name!r:.80} among the tools")
    if not functions:
        if mode == "required":
            raise _impossible("no function is given that the model could call")
        return None
    parallel = asked.parallel_tool_calls
    if parallel is None:
        parallel = config.parallel_tool_calls
    return ToolUse(functions, mode, allowed, parallel is not False)


def warnings_of(tools: Sequence[wire.Tool] | None) -> list[str]:
    """What is said of tools that are not offered to the model."""
    kinds = sorted({tool.type for tool in tools or () if tool.type != "function"})
    if not kinds:
        return []
    return [f"Only functions are offered to the model; these types of tools are not: {', '.join(kinds)[:200]}."]


def _functions(tools: Sequence[wire.Tool]) -> tuple[Tool, ...]:
    return tuple(
        Tool(tool.name or "", tool.description or "", tool.parameters or {})
        for tool in tools
        if tool.type == "function"
    )


def _chosen(choice: str | dict[str, Any]) -> tuple[ToolMode, tuple[str, ...]]:
    """How the model chooses, and the names among which it does. Raises: StageError."""
    match choice:
        case "auto" | "none" | "required":
            return choice, ()
        case {"type": "function", "name": str(name)} | {"type": "function", "function": {"name": str(name)}}:
            return "required", (name,)
        case {"type": "allowed_tools", "mode": "auto" | "required" as mode, "tools": list(tools)}:
            names = tuple(
                tool["name"] for tool in tools if isinstance(tool, dict) and isinstance(tool.get("name"), str)
            )
            return mode, names
        case {"type": str(kind)} if kind != "function":
            raise _impossible(f"tools of type {kind!r:.80} can't be called")
        case _:
            raise _impossible("it names no function")


def _impossible(why: str) -> StageError:
    return StageError("invalid_request", "invalid_value", f"tool_choice: {why}.", param="response.tool_choice")
