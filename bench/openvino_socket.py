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
    """The thread that steps the pipeline, and does nothing else."""

    def __init__(self, model: str) -> None:
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = CACHE_GIGABYTES
        scheduler.max_num_seqs = STREAMS
        scheduler.enable_prefix_caching = True
        self._pipeline = genai.ContinuousBatchingPipeline(model, scheduler, "CPU")
        self.tokenizer = self._pipeline.get_tokenizer()
        self._inbox: queue.SimpleQueue[tuple[Any, int, asyncio.Queue[list[int] | None], list[bool]]]
        self._inbox = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._run, daemon=True).start()

    def submit(self, prompt: Any, tokens: int, replies: "asyncio.Queue[list[int] | None]", left: list[bool]) -> None:
        """Generate into ``replies``, tokens as they come and None at the end, until ``left`` is not empty."""
        self._inbox.put((prompt, tokens, replies, left))

    def _run(self) -> None:
        number = 0
        running: dict[int, Any] = {}
        while True:
            while not running or not self._inbox.empty():
                prompt, most, replies, left = self._inbox.get()
                config = genai.GenerationConfig(max_new_tokens=most, do_sample=False, ignore_eos=True)
                config.set_eos_token_id(self.tokenizer.get_eos_token_id())
                number += 1
                running[number] = (self._pipeline.add_request(number, prompt, config), replies, left)
            self._pipeline.step()
            for id, (handle, replies, left) in list(running.items()):
                if left:
                    handle.cancel()
                    del running[id]
                    continue
                tokens: list[int] = []
                while handle.can_read():
                    for output in handle.read().values():
                        tokens.extend(output.generated_ids)
                if tokens:
                    self._loop.call_soon_threadsafe(replies.put_nowait, tokens)
                if handle.get_status() != genai.GenerationStatus.RUNNING:
                    self._loop.call_soon_threadsafe(replies.put_nowait, None)
                    del running[id]


WORKER = web.AppKey("worker", Worker)


async def talk(request: web.Request) -> web.WebSocketResponse:
    """Answer one client's questions."""
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    worker = request.app[WORKER]
    async for message in socket:
        asked = message.json()
        text = worker.tokenizer.apply_chat_template(asked["messages"], add_generation_prompt=True)
        prompt = worker.tokenizer.encode(text, add_special_tokens=False).input_ids
        replies: asyncio.Queue[list[int] | None] = asyncio.Queue()
        left: list[bool] = []
        worker.submit(prompt, asked["max_tokens"], replies, left)
        count = 0
        try:
            while (tokens := await replies.get()) is not None:
                count += len(tokens)
                await socket.send_json({"text": worker.tokenizer.decode(tokens)})
            await socket.send_json({"tokens": count, "prompt": prompt.shape[1]})
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
