"""OpenVINO GenAI's continuous batching behind a bare websocket: a peer to measure, run in an environment of its own.

Usage: python openvino_socket.py MODEL.gguf PORT. A client sends ``{"messages": […], "max_tokens": n}`` and gets
``{"text": …}`` for each token, then ``{"tokens": n, "prompt": m}``.
"""

import asyncio
import queue
import sys
import threading
from typing import Any

import openvino_genai as genai
from aiohttp import web

STREAMS = 32
CACHE_GIGABYTES = 2


class Worker:
    """The thread that steps the pipeline. A step holds Python's lock, so all else is done between two of them."""

    def __init__(self, model: str) -> None:
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = CACHE_GIGABYTES
        scheduler.max_num_seqs = STREAMS
        scheduler.enable_prefix_caching = True
        self._pipeline = genai.ContinuousBatchingPipeline(model, scheduler, "CPU")
        self._tokenizer = self._pipeline.get_tokenizer()
        self._texts: dict[int, str] = {}  # of tokens, since the tokenizer takes long for each
        self._inbox: queue.SimpleQueue[tuple[dict[str, Any], asyncio.Queue[dict[str, Any]], list[bool]]]
        self._inbox = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._run, daemon=True).start()

    def submit(self, request: dict[str, Any], replies: "asyncio.Queue[dict[str, Any]]", left: list[bool]) -> None:
        """Generate into ``replies`` until ``left`` is not empty."""
        self._inbox.put((request, replies, left))

    def _run(self) -> None:
        number = 0
        running: dict[int, Any] = {}
        while True:
            while not running or not self._inbox.empty():
                request, replies, left = self._inbox.get()
                text = self._tokenizer.apply_chat_template(request["messages"], add_generation_prompt=True)
                prompt = self._tokenizer.encode(text, add_special_tokens=False).input_ids
                config = genai.GenerationConfig(max_new_tokens=request["max_tokens"], do_sample=False, ignore_eos=True)
                config.set_eos_token_id(self._tokenizer.get_eos_token_id())
                number += 1
                handle = self._pipeline.add_request(number, prompt, config)
                running[number] = (handle, replies, left, [0, prompt.shape[1]])
            self._pipeline.step()
            for id, (handle, replies, left, counts) in list(running.items()):
                if left:
                    handle.cancel()
                    del running[id]
                    continue
                tokens: list[int] = []
                while handle.can_read():
                    for output in handle.read().values():
                        tokens.extend(output.generated_ids)
                counts[0] += len(tokens)
                if tokens:
                    self._tell(replies, {"text": "".join(map(self._text, tokens))})
                if handle.get_status() != genai.GenerationStatus.RUNNING:
                    self._tell(replies, {"tokens": counts[0], "prompt": counts[1]})
                    del running[id]

    def _text(self, token: int) -> str:
        if token not in self._texts:
            self._texts[token] = self._tokenizer.decode([token])
        return self._texts[token]

    def _tell(self, replies: "asyncio.Queue[dict[str, Any]]", event: dict[str, Any]) -> None:
        self._loop.call_soon_threadsafe(replies.put_nowait, event)


WORKER = web.AppKey("worker", Worker)


async def talk(request: web.Request) -> web.WebSocketResponse:
    """Answer one client's questions."""
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        replies: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        left: list[bool] = []
        request.app[WORKER].submit(message.json(), replies, left)
        try:
            while "tokens" not in (event := await replies.get()):
                await socket.send_json(event)
            await socket.send_json(event)
        finally:
            left.append(True)
    return socket


async def health(_: web.Request) -> web.Response:
    """Whether the model is loaded."""
    return web.Response()


async def application() -> web.Application:
    app = web.Application()
    app[WORKER] = Worker(sys.argv[1])
    app.router.add_get("/", talk)
    app.router.add_get("/health", health)
    return app


if __name__ == "__main__":
    web.run_app(application(), host="127.0.0.1", port=int(sys.argv[2]), print=None, handler_cancellation=True)
