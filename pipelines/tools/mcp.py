"""Functions of MCP servers (https://modelcontextprotocol.io), over standard input and output or streamable HTTP.

One task owns the connection. When it is lost the functions are gone, and it is opened again after a wait. What a server
asks of its client (to sample a model, to ask the user, to list files) is declined: no callback is given for it.
"""

import asyncio
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import httpx2
import mcp_types as types
from mcp import Client, MCPError
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from pipelines.events import Tool
from pipelines.tools import relay
from pipelines.tools.settings import McpServer
from pipelines.tools.source import ToolError

log = logging.getLogger(__name__)

START_PATIENCE = 10.0  # seconds that the start waits for a server
RETRY, LONGEST_RETRY = 1.0, 60.0  # seconds before a lost connection is opened again; doubles
CLOSE_PATIENCE = 10.0  # seconds; the library's own waits are shorter
LINE_BYTES = 4 * 1024 * 1024  # of one message
LINES = 2000  # messages a second
TOOLS, PAGES = 128, 16  # of one server
DESCRIPTION = 2000  # characters
SCHEMA = 64 * 1024  # characters


class McpSource:
    """The functions of one server."""

    def __init__(self, name: str, settings: McpServer, timeout: float, *, retry: float = RETRY) -> None:
        self.tools: tuple[Tool, ...] = ()
        self.connections = 0  # that were opened, for tests
        self._name = name
        self._settings = settings
        self._timeout = timeout
        self._retry = retry
        self._client: Client | None = None
        self._lost = asyncio.Event()
        self._tried = asyncio.Event()  # whether the first attempt has ended
        self._task: asyncio.Task[None] | None = None

    def asks(self, name: str) -> bool:
        """Whether the user must approve a call of this one."""
        return name in self._settings.ask or "*" in self._settings.ask

    async def start(self) -> None:
        """Connect; a server that is not there now is tried again behind this."""
        self._task = asyncio.create_task(self._own(), name=f"mcp-{self._name}")
        with suppress(TimeoutError):
            async with asyncio.timeout(START_PATIENCE):
                await self._tried.wait()

    async def close(self) -> None:
        """End the connection, and the command."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=CLOSE_PATIENCE)

    async def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """The result as text. Raises: ToolError where the server refuses, or is gone."""
        client = self._client
        if client is None:
            raise ToolError(f"The server {self._name!r} is not connected.")
        try:
            result = await client.call_tool(name, dict(arguments))
        except (TimeoutError, asyncio.CancelledError):
            raise
        except MCPError as error:
            if error.code == types.CONNECTION_CLOSED:
                self._leave()
            raise ToolError(str(error)[:DESCRIPTION]) from None
        except Exception as error:
            self._leave()
            raise ToolError(
                f"The server {self._name!r} does not answer as it should ({type(error).__name__})."
            ) from None
        text = _text(result)
        if result.is_error:
            raise ToolError(text or "The server says that the call failed.")
        return text

    def _leave(self) -> None:
        """Give the connection up; its owner opens another one."""
        self.tools, self._client = (), None
        self._lost.set()

    async def _own(self) -> None:
        wait = self._retry
        while True:
            try:
                async with AsyncExitStack() as opened:
                    await self._connect(opened)
                    wait = self._retry
                    await self._lost.wait()
            except Exception as error:  # an ExceptionGroup too: anyio wraps what ends a connection
                log.warning("the MCP server %s is not to be had: %s", self._name, _cause(error))
            finally:
                self.tools, self._client = (), None
                self._tried.set()
            await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST_RETRY)

    async def _connect(self, opened: AsyncExitStack) -> None:
        self._lost = asyncio.Event()
        client = Client(await self._server(opened), read_timeout_seconds=self._timeout, cache=None)
        async with asyncio.timeout(START_PATIENCE):
            await opened.enter_async_context(client)
            found: list[types.Tool] = []
            cursor: str | None = None
            for _ in range(PAGES):
                page = await client.list_tools(cursor=cursor)
                found += page.tools
                if not (cursor := page.next_cursor):
                    break
        self.tools = tuple(tool for each in found[:TOOLS] if (tool := self._allowed(each)) is not None)
        self._client = client
        self.connections += 1
        self._tried.set()
        log.info("the MCP server %s offers %d functions", self._name, len(self.tools))

    async def _server(self, opened: AsyncExitStack) -> Any:
        settings = self._settings
        if settings.command:
            bounds = (str(LINE_BYTES), str(LINES))
            arguments = [str(Path(relay.__file__)), *bounds, *settings.command]
            return StdioServerParameters(command=sys.executable, args=arguments, env=_expanded(settings.env))
        timeout = httpx2.Timeout(self._timeout)
        transport = _Bounded(httpx2.AsyncHTTPTransport())
        client = httpx2.AsyncClient(headers=_expanded(settings.headers), timeout=timeout, transport=transport)
        return streamable_http_client(settings.url, http_client=await opened.enter_async_context(client))

    def _allowed(self, tool: types.Tool) -> Tool | None:
        if tool.name not in self._settings.allow and "*" not in self._settings.allow:
            return None
        if len(json.dumps(tool.input_schema)) > SCHEMA:
            log.warning("the MCP server %s offers a function whose schema is too large; it is left out", self._name)
            return None
        return Tool(tool.name, (tool.description or "")[:DESCRIPTION], tool.input_schema)


class _Bounded(httpx2.AsyncBaseTransport):
    """Ends responses that are too large to be held in memory."""

    def __init__(self, transport: httpx2.AsyncBaseTransport) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._transport.handle_async_request(request)
        response.stream = _Counted(response.stream)
        return response

    async def aclose(self) -> None:
        await self._transport.aclose()


class _Counted(httpx2.AsyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = LINE_BYTES
        async for piece in self._stream:
            left -= len(piece)
            if left < 0:
                raise httpx2.ReadError(f"The response has more than {LINE_BYTES} bytes.")
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


def _text(result: types.CallToolResult) -> str:
    """What a model can read of it."""
    texts = [part.text for part in result.content if isinstance(part, types.TextContent)]
    if not texts and result.structured_content is not None:
        texts = [json.dumps(result.structured_content, ensure_ascii=False)]
    others = len(result.content) - sum(isinstance(part, types.TextContent) for part in result.content)
    if others:
        texts.append(f"({others} parts that are no text are left out)")
    return "\n".join(texts)


def _expanded(values: Mapping[str, str]) -> dict[str, str]:
    """The values; one that begins with $ names an environment variable, so that no secret stands in a file."""
    return {key: os.environ.get(value[1:], "") if value.startswith("$") else value for key, value in values.items()}


def _cause(error: BaseException) -> str:
    """The innermost exception's name; its text may hold what a server sent."""
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return type(error).__name__ if not isinstance(error, OSError) else f"{type(error).__name__}: {error.strerror}"
