"""Where functions come from: an interface, and how all of them are called."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from pipelines.events import Tool


class ToolError(Exception):
    """A call failed; the message is for the model, which tells the user."""


class Source(Protocol):
    """Some functions of one origin."""

    @property
    def tools(self) -> Sequence[Tool]:
        """Those that can be called now."""

    def asks(self, name: str) -> bool:
        """Whether the user must approve a call of this one."""

    async def start(self) -> None:
        """Make them ready; returns when they are, or when they are not to be had for now."""

    async def close(self) -> None:
        """End what runs."""

    async def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """The result as text. A cancel ends the call. Raises: ToolError; anything else is a fault of the function."""
