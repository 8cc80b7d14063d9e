"""What ``[tools]`` in ``config.toml`` may say."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

Seconds = Annotated[float, Field(gt=0)]


class McpServer(BaseModel):
    """A server of the Model Context Protocol: a command that is started, or an address."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: tuple[str, ...] = ()
    url: Annotated[str, Field(pattern=r"^(https?://\S+)?$")] = ""
    env: dict[str, str] = {}  # of the command, besides PATH, HOME and the like
    headers: dict[str, str] = {}  # of requests to the address
    allow: tuple[str, ...] = ()  # names of its functions that the model may call; "*": all
    ask: tuple[str, ...] = ()  # names of those that the user must approve; "*": all

    @model_validator(mode="after")
    def _one_way(self) -> "McpServer":
        if bool(self.command) == bool(self.url):
            raise ValueError("has either a command or a url")
        return self


class ToolsSettings(BaseModel):
    """The server's own functions, and how they run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    functions: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()
    question: str = "May I run {name} with {arguments}?"
    yes: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "yes",
        "yes please",
        "ok",
        "okay",
        "sure",
        "do it",
        "go ahead",
    )
    timeout: Seconds = 10.0
    output_bytes: Annotated[int, Field(ge=64)] = 8192
    rounds: Annotated[int, Field(ge=1, le=32)] = 4
    running: Annotated[int, Field(ge=1)] = 16
    filler: str = ""
    filler_after: Seconds = 1.5
    mcp: dict[str, McpServer] = {}
