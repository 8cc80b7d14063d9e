"""The server's own functions as a part of the pipeline."""

from dataclasses import replace

from prometheus_client.registry import Collector

from pipelines.metrics import counters
from pipelines.part import Part, Shared, with_embedder
from pipelines.tools.functions import FunctionError, Functions, installed
from pipelines.tools.settings import ToolsSettings
from pipelines.tools.source import Source
from pipelines.tools.stage import ToolsStage


def part(settings: ToolsSettings, shared: Shared) -> Part:
    """The tools stage, with the functions and MCP servers that the settings name. Raises: FunctionError."""
    sources: list[Source] = []
    if settings.functions:
        sources.append(Functions(installed(settings.functions), settings.ask))
    if settings.mcp:
        try:
            from pipelines.tools.mcp import McpSource
        except ImportError as error:
            text = f"[tools.mcp] needs the extra `tools`: pip install 'loquent[tools]' ({error})"
            raise FunctionError(text) from None
        sources += [McpSource(name, server, settings.timeout) for name, server in settings.mcp.items()]
    stage = ToolsStage(sources, settings)
    if not sources:
        return replace(assemble(stage), required=False, missing="[tools] names no functions")
    if not shared.guides:
        return assemble(stage)
    return with_embedder(assemble(stage), shared.embeds())  # small models are told by it when to call


def assemble(stage: ToolsStage) -> Part:
    """The part of a tools stage."""
    return Part("tools", stage, start=stage.start, close=stage.close, metrics=metrics(stage))


def metrics(stage: ToolsStage) -> tuple[Collector, ...]:
    """What the stage counts."""
    return (counters("loquent_tool_calls", "Calls of the server's functions.", "outcome", lambda: stage.calls),)
