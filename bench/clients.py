"""One client for each protocol, all of them timed alike."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp

Messages = Sequence[dict[str, str]]

SECONDS = 120.0  # that any one answer may take


class Refused(Exception):  # noqa: N818 - an answer, not a fault
    """The server takes no request now."""


@dataclass
class Reply:
    """What one request took."""

    asked: float = field(default_factory=time.perf_counter)
    texts: list[float] = field(default_factory=list)  # when each piece of text came
    tokens: int = 0  # as the server's usage tells them
    prompt: int = 0
    cached: int = 0  # of the prompt's tokens, where the server tells

    def text(self) -> None:
        """Some text has come."""
        self.texts.append(time.perf_counter())

    @property
    def first(self) -> float:
        """Seconds to the first text."""
        return self.texts[0] - self.asked

    @property
    def gaps(self) -> list[float]:
        """Seconds between texts."""
        return [later - earlier for earlier, later in zip(self.texts, self.texts[1:], strict=False)]

    @property
    def each(self) -> float:
        """Seconds an output token took after the first."""
        return (self.texts[-1] - self.texts[0]) / max(self.tokens - 1, 1)


class Client(Protocol):
    """One user, who asks one thing after another."""

    async def ask(self, messages: Messages, tokens: int, reply: Reply | None = None) -> Reply:
        """A reply of so many tokens, told into ``reply``. Raises: Refused when the server is full."""

    async def close(self) -> None:
        """Leave."""


class HttpClient:
    """OpenAI's chat completions, streamed as server-sent events."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self._url = f"{url}/v1/chat/completions"

    async def ask(self, messages: Messages, tokens: int, reply: Reply | None = None) -> Reply:
        body = {
            "model": "default",
            "messages": list(messages),
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
        }
        reply = reply or Reply()
        async with self._http.post(self._url, json=body) as response:
            if response.status in (429, 503):
                raise Refused
            response.raise_for_status()
            async for line in response.content:
                if not line.startswith(b"data: {"):
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    raise RuntimeError(event["error"]["message"])
                if event["choices"] and event["choices"][0]["delta"].get("content"):
                    reply.text()
                if usage := event.get("usage"):
                    reply.tokens, reply.prompt = usage["completion_tokens"], usage["prompt_tokens"]
                    reply.cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        return reply

    async def close(self) -> None:
        pass


class _SocketClient:
    """A websocket that stays open from one question to the next."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self._url = url.replace("http", "ws", 1)
        self._socket: aiohttp.ClientWebSocketResponse | None = None

    async def _connected(self) -> aiohttp.ClientWebSocketResponse:
        if self._socket is None or self._socket.closed:
            try:
                self._socket = await self._http.ws_connect(self._url)
            except aiohttp.WSServerHandshakeError as error:
                raise Refused from error
        return self._socket

    async def ask(self, messages: Messages, tokens: int, reply: Reply | None = None) -> Reply:
        reply = reply or Reply()
        socket = await self._connected()
        try:
            await socket.send_json(self._question(messages, tokens))
            while not self._take(json.loads(await socket.receive_str(timeout=SECONDS)), reply):
                pass
        except BaseException:
            await self.close()  # what is still to come belongs to no question
            raise
        return reply

    async def request(self, messages: Messages, tokens: int) -> None:
        """Ask, without taking the answer."""
        await (await self._connected()).send_json(self._question(messages, tokens))

    async def receive(self) -> None:
        """Take one event of whatever answer comes."""
        await (await self._connected()).receive_str(timeout=SECONDS)

    async def close(self) -> None:
        if self._socket is not None:
            await self._socket.close()
            self._socket = None

    def _question(self, messages: Messages, tokens: int) -> dict[str, Any]:
        raise NotImplementedError

    def _take(self, event: dict[str, Any], reply: Reply) -> bool:
        """Read one event; returns whether the reply has ended."""
        raise NotImplementedError


class RealtimeClient(_SocketClient):
    """Loquent's websocket. Each question brings its conversation along, as over HTTP."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        super().__init__(http, url + "/v1/realtime")

    def _question(self, messages: Messages, tokens: int) -> dict[str, Any]:
        kind = {"system": "input_text", "user": "input_text", "assistant": "output_text"}
        items = [
            {
                "type": "message",
                "role": message["role"],
                "content": [{"type": kind[message["role"]], "text": message["content"]}],
            }
            for message in messages
        ]
        response = {
            "conversation": "none",
            "input": items,
            "max_output_tokens": tokens,
            "output_modalities": ["text"],
            "loquent": {"sampling": {"temperature": 0, "ignore_eos": True}},
        }
        return {"type": "response.create", "response": response}

    def _take(self, event: dict[str, Any], reply: Reply) -> bool:
        match event["type"]:
            case "response.output_text.delta":
                reply.text()
            case "response.done":
                response = event["response"]
                if response["status"] == "failed":
                    error = response["status_details"]["error"]
                    if error["code"] == "server_overloaded":
                        raise Refused
                    raise RuntimeError(error["message"])
                usage = response["usage"]
                reply.tokens, reply.prompt = usage["output_tokens"], usage["input_tokens"]
                reply.cached = usage["input_token_details"]["cached_tokens"]
                return True
            case "error":
                raise RuntimeError(event["error"]["message"])
        return False


class BareClient(_SocketClient):
    """What ``bench.openvino_socket`` speaks."""

    def _question(self, messages: Messages, tokens: int) -> dict[str, Any]:
        return {"messages": list(messages), "max_tokens": tokens}

    def _take(self, event: dict[str, Any], reply: Reply) -> bool:
        if "text" in event:
            reply.text()
            return False
        reply.tokens, reply.prompt = event["tokens"], event["prompt"]
        return True
