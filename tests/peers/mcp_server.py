"""An MCP server for tests: ``python mcp_server.py stdio`` or ``http PORT``; some of its functions misbehave."""

import asyncio
import os
import sys

from mcp.server import MCPServer
from mcp.server.mcpserver import Context

server = MCPServer("tests")


@server.tool()
def add(a: int, b: int) -> str:
    """Add two numbers."""
    return str(a + b)


@server.tool()
def forbidden() -> str:
    """Is not on the list of what the model may call."""
    return "never"


@server.tool()
def fail() -> str:
    """Always fails."""
    raise ValueError("out of paper")


@server.tool()
async def hang() -> str:
    """Never answers."""
    await asyncio.Event().wait()
    return ""


@server.tool()
def large() -> str:
    """Answers with a megabyte."""
    return "x" * 1_000_000


@server.tool()
def flood() -> str:
    """Answers with more than anybody holds."""
    return "x" * 10_000_000


@server.tool()
def die() -> str:
    """Ends its process."""
    os._exit(1)


@server.tool()
async def ask(context: Context) -> str:
    """Asks its client for what is not allowed."""
    listed = await context.session.list_roots()
    return str(listed)


if __name__ == "__main__":
    if sys.argv[1] == "stdio":
        if sys.argv[2:] == ["noise"]:
            while True:
                sys.stdout.write("x" * 65536)
        server.run("stdio")
    else:
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[2]))
