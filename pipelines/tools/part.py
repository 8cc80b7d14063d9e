"""The server's own functions as a part of the pipeline."""

from prometheus_client.registry import Collector

from pipelines.metrics import counters
from pipelines.part import Part, Shared
from pipelines.tools.functions import Functions, installed
from pipelines.tools.settings import ToolsSettings
from pipelines.tools.source import Source
from pipelines.tools.stage import ToolsStage


def part(settings: ToolsSettings, shared: Shared) -> Part:
    """The tools stage, with the functions and MCP servers that the settings name. Raises: FunctionError."""
    sources: list[Source] = []
    if settings.functions:
        sources.append(Functions(installed(settings.functions), settings.ask))
    if settings.mcp:
        from pipelines.tools.mcp import McpSource  # an extra

        sources += [McpSource(name, server, settings.timeout) for name, server in settings.mcp.items()]
    return assemble(ToolsStage(sources, settings))


def assemble(stage: ToolsStage) -> Part:
    """The part of a tools stage."""
    return Part("tools", stage, required=True, start=stage.start, close=stage.close, metrics=metrics(stage))


def metrics(stage: ToolsStage) -> tuple[Collector, ...]:
    """What the stage counts."""
    return (counters("loquent_tool_calls", "Calls of the server's functions.", "outcome", lambda: stage.calls),)
