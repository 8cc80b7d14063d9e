"""The engine: one thread that owns the language model and serves many streams.

Requests go in as messages and events come out, so that a process or a remote engine can stand in its place. Each
round gives every running stream one token, so that all of them advance together; a cancel takes effect between two
tokens.
"""

import asyncio
import logging
import queue
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from enum import Enum

from pipelines.chat.detokenizer import Detokenizer, StopMatcher
from pipelines.chat.language_model import LanguageModel
from pipelines.chat.messages import Cancel, Close, Generate, Mailbox
from pipelines.events import (
    Event,
    Finished,
    FinishReason,
    Sampling,
    StageError,
    Started,
    TextDelta,
    Usage,
)

log = logging.getLogger(__name__)

RESTART_WAIT = 1.0  # seconds before a model that died is loaded again; doubles up to RESTART_LONGEST
RESTART_LONGEST = 30.0
JOIN_PATIENCE = 30.0  # seconds that a closing engine waits for the step in progress


def _closing() -> StageError:
    return StageError("unavailable", "server_shutting_down", "The server is shutting down.")


class EngineState(Enum):
    """Where an engine stands. It takes requests only while it is ready."""

    NEW = "preparing"  # what it loads may still be fetched or converted
    LOADING = "loading"
    READY = "ready"
    DEAD = "dead"
    CLOSED = "closed"


class _Stream:
    """A running request."""

    def __init__(self, request: Generate, model: LanguageModel) -> None:
        self.id = request.id
        self._request = request
        self._stop_tokens = model.stop_tokens
        self._tokens = iter(model.generate(request.prompt, request.sampling))
        self._detokenizer = Detokenizer(model.tokenizer.decode)
        self._matcher = StopMatcher(request.sampling.stop)
        self._usage = Usage(input_tokens=len(request.prompt))
        self._started = False
        self._unsent = 0  # tokens whose text is held back

    def step(self) -> bool:
        """Compute one token and deliver its text. Returns whether the stream goes on."""
        token = next(self._tokens, None)
        if not self._started:
            self._started = True
            self._request.mailbox.put(Started(self._usage.input_tokens))
        if token is None or token in self._stop_tokens:
            self.end("stop")
            return False
        self._usage = replace(self._usage, output_tokens=self._usage.output_tokens + 1)
        self._unsent += 1
        self._deliver(self._matcher.push(self._detokenizer.push(token)))
        if self._matcher.stopped:
            self.end("stop")
        elif self._usage.output_tokens == self._request.sampling.max_tokens:
            self.end("length")
        else:
            return True
        return False

    def end(self, reason: FinishReason) -> None:
        """Deliver what was held back and the last event."""
        if not self._matcher.stopped:
            self._deliver(self._matcher.push(self._detokenizer.flush()) + self._matcher.flush())
        self._request.mailbox.put(Finished(reason, self._usage))

    def cancel(self) -> None:
        """Deliver the last event only: who cancels wants no more text."""
        self._request.mailbox.put(Finished("cancelled", self._usage))

    def fail(self, error: StageError) -> None:
        """Deliver the error that ends this request."""
        self._request.mailbox.put(error)

    def _deliver(self, text: str) -> None:
        if text:
            self._request.mailbox.put(TextDelta(text, self._unsent))
            self._unsent = 0


class Engine:
    """Serves streams from one model: at most ``streams`` at a time, while ``waiting`` more queue for a place."""

    def __init__(self, load: Callable[[], LanguageModel], *, streams: int, waiting: int) -> None:
        self._load = load
        self._limit = streams
        self._capacity = streams + waiting
        self._inbox: queue.SimpleQueue[Generate | Cancel | Close] = queue.SimpleQueue()  # bounded by admission
        self._waiting: deque[Generate] = deque()  # bounded by ``_capacity``
        self._running: list[_Stream] = []
        self._admitted = 0
        self._admission = threading.Lock()
        self._thread: threading.Thread | None = None
        self._model: LanguageModel | None = None
        self._closing = threading.Event()
        self.state = EngineState.NEW
        self.steps = 0  # tokens computed since the start, for tests and metrics
        self.restarts = 0

    # The event loop's side

    async def start(self) -> None:
        """Load the model on the engine's thread; returns once it is ready. Raises what loading raises."""
        loop = asyncio.get_running_loop()
        loaded: asyncio.Future[None] = loop.create_future()

        def settle(error: BaseException | None) -> None:
            if loaded.done():
                return
            if error is None:
                loaded.set_result(None)
            else:
                loaded.set_exception(error)

        def run() -> None:
            self._run(lambda error: loop.call_soon_threadsafe(settle, error))

        self.state = EngineState.LOADING
        self._thread = threading.Thread(target=run, name="chat-engine", daemon=True)
        self._thread.start()
        await loaded

    async def close(self) -> None:
        """End every request, then the thread. Closing twice is the same as once."""
        self._closing.set()
        self._inbox.put(Close())
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, JOIN_PATIENCE)
            if not self._thread.is_alive():
                self._fail_all(_closing())  # what came in behind the Close
        self.state = EngineState.CLOSED

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return self.state is EngineState.READY

    @property
    def running(self) -> int:
        """Requests that have a place."""
        return len(self._running)

    @property
    def queued(self) -> int:
        """Requests that wait for a place."""
        return max(self._admitted - len(self._running), 0)

    @property
    def model(self) -> LanguageModel:
        """The loaded model. Raises: StageError while there is none."""
        if self._closing.is_set():
            raise _closing()
        if self._model is None or not self.ready:
            raise StageError("unavailable", "model_not_ready", f"The language model is {self.state.value}; try again.")
        return self._model

    def reserve(self) -> None:
        """Take a place in the queue, before any work is done for the request.

        The place is given back by ``release``, or by the engine when a request that was submitted has ended.

        Raises: StageError when every place is taken.
        """
        with self._admission:
            if self._admitted >= self._capacity:
                raise StageError(
                    "overloaded",
                    "server_overloaded",
                    f"All {self._capacity} places for requests are taken ({self._limit} running, "
                    f"{self._capacity - self._limit} waiting); try again in a moment.",
                )
            self._admitted += 1

    def release(self) -> None:
        """Give a reserved place back."""
        with self._admission:
            self._admitted -= 1

    async def generate(self, id: str, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[Event]:
        """Run a request whose place is reserved; closing the generator cancels it.

        Yields ``Started``, then ``TextDelta``s, then ``Finished``.

        Raises: StageError when the engine fails or closes.
        """
        if self._closing.is_set():
            self.release()
            raise _closing()
        mailbox = Mailbox()
        self._inbox.put(Generate(id, tuple(prompt), sampling, mailbox))
        try:
            while not isinstance(event := await mailbox.get(), Finished):
                yield event
            yield event
        finally:
            self._inbox.put(Cancel(id))  # means nothing to a request that has ended

    # The thread's side

    def _run(self, report: Callable[[BaseException | None], object]) -> None:
        wait = RESTART_WAIT
        while not self._closing.is_set():
            try:
                self.state = EngineState.LOADING
                self._model = self._load()
                self.state = EngineState.READY
                report(None)
                self._serve(self._model)
            except BaseException as error:  # nothing may end this thread without its requests being told
                first = self._model is None and not self.restarts
                self._model, self.state = None, EngineState.DEAD
                report(error)
                self._fail_all(
                    StageError(
                        "internal",
                        "engine_failed",
                        "The language model stopped working and is being restarted.",
                    )
                )
                if first:
                    return  # it never worked: the configuration is wrong, and whoever started it was told
                log.exception("the chat engine died; it is loaded again in %.0f s", wait)
                self.restarts += 1
                self._closing.wait(wait)
                wait = min(2 * wait, RESTART_LONGEST)

    def _serve(self, model: LanguageModel) -> None:
        # What waits here holds no stream in a local variable: that would keep its KV cache in memory.
        while self._collect(model, wait=not self._running) and self._round(model):
            pass

    def _round(self, model: LanguageModel) -> bool:
        """Give every running stream one token. Returns False when the engine is to close."""
        for stream in tuple(self._running):
            # Looked at before every token, so that a cancel stops its stream within one step.
            if not self._collect(model, wait=False):
                return False
            if stream in self._running:
                self._advance(stream)
        return True

    def _collect(self, model: LanguageModel, *, wait: bool) -> bool:
        """Take in messages and give out free places. Returns False when the engine is to close."""
        while wait or not self._inbox.empty():
            if not self._take(self._inbox.get()):
                return False
            wait = False
        while self._waiting and len(self._running) < self._limit:
            self._running.append(_Stream(self._waiting.popleft(), model))
        return True

    def _take(self, message: Generate | Cancel | Close) -> bool:
        match message:
            case Generate():
                self._waiting.append(message)
            case Cancel(id):
                self._cancel(id)
            case Close():
                self._fail_all(_closing())
                return False
        return True

    def _advance(self, stream: _Stream) -> None:
        try:
            self.steps += 1
            if stream.step():
                return
        except Exception:
            # Streams share nothing but the weights: what one of them trips over is its own.
            log.exception("request %s failed", stream.id)
            stream.fail(StageError("internal", "generation_failed", "The language model failed on this request."))
        self._running.remove(stream)
        self.release()

    def _cancel(self, id: str) -> None:
        for request in self._waiting:
            if request.id == id:
                self._waiting.remove(request)
                request.mailbox.put(Finished("cancelled", Usage()))
                self.release()
                return
        for stream in self._running:
            if stream.id == id:
                self._running.remove(stream)
                stream.cancel()
                self.release()
                return

    def _fail_all(self, error: StageError) -> None:
        while not self._inbox.empty():
            message = self._inbox.get()
            if isinstance(message, Generate):
                self._waiting.append(message)
        for request in self._waiting:
            request.mailbox.put(error)
            self.release()
        for stream in self._running:
            stream.fail(error)
            self.release()
        self._waiting.clear()
        self._running.clear()
