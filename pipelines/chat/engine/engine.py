"""The engine: one thread that owns the language model and serves many streams.

Requests go in as messages and events come out, so that a process or a remote engine can stand in its place. Each step
is one forward pass: it decodes a token for every running stream and prefills a chunk of the prompts that have just come
(continuous batching). A cancel takes effect between two steps.
"""

import asyncio
import logging
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from enum import Enum
from typing import TYPE_CHECKING

from pipelines.capacity import site_of
from pipelines.chat.engine.admission import Admission, EngineLimits
from pipelines.chat.engine.mailbox import Cancel, Close, Forget, Generate, Mailbox, Post
from pipelines.chat.engine.prefill import PrefillBudget
from pipelines.chat.engine.slots import SlotTable
from pipelines.chat.model.interface import Constraint, LanguageModel, Segment, divisible
from pipelines.cores import Share
from pipelines.events import Event, Finished, Sampling, StageError, Usage, shutting_down
from pipelines.worker import settled_by_thread

if TYPE_CHECKING:
    from torch import Tensor

    from pipelines.chat.engine.stream import Stream

log = logging.getLogger(__name__)

RESTART_WAIT = 1.0  # seconds before a model that died is loaded again; doubles up to RESTART_LONGEST
RESTART_LONGEST = 30.0
JOIN_PATIENCE = 30.0  # seconds that closing waits for the step in progress
DRAFTING_STREAMS = 4  # above so many there is no compute to spare for draft tokens
DRAFT_TOKENS = 4  # tokens a stream


def _failed() -> StageError:
    return StageError("internal", "generation_failed", "The language model failed on this request.")


class EngineState(Enum):
    """Where an engine stands. It takes requests only while it is ready."""

    NEW = "preparing"  # what it loads may still be fetched or converted
    LOADING = "loading"
    READY = "ready"
    DEAD = "dead"
    CLOSED = "closed"


class Engine:
    """Serves streams from one model, as many at a time as ``limits`` says, while other requests wait."""

    def __init__(self, load: Callable[[], LanguageModel], limits: EngineLimits, *, share: Share | None = None) -> None:
        self._load = load
        self._limits = limits
        self._admission = Admission(limits)
        self._inbox: queue.SimpleQueue[Generate | Cancel | Forget | Close] = queue.SimpleQueue()  # bounded by admission
        self._waiting: deque[Generate] = deque()  # bounded by admission
        self._running: list[Stream] = []
        self._slots: SlotTable | None = None
        self._prefill = PrefillBudget()
        self._post = Post()
        self._share = share  # of the cores, where others use them too
        self._threads = 0  # with which it computes; 0 until it has
        self._thread: threading.Thread | None = None
        self._model: LanguageModel | None = None
        self._closing = threading.Event()
        self.state = EngineState.NEW
        # Counted since the start, for tests and metrics.
        self.steps = 0
        self.restarts = 0
        self.prefilled_tokens = 0  # tokens of prompts
        self.cached_prompt_tokens = 0  # tokens of prompts found in the prefix cache
        self.prefix_hits = 0  # requests that found some of their prompt there
        self.refusals = 0  # requests for which there was no capacity
        self.aborted = 0  # requests that were cancelled, or whose reader left

    # The event loop's side

    async def start(self) -> None:
        """Load the model on the engine's thread; returns once it is ready. Raises what loading raises."""
        loaded, tell = settled_by_thread()
        self.state = EngineState.LOADING
        self._thread = threading.Thread(target=self._run, args=(tell,), name="chat-engine", daemon=True)
        self._thread.start()
        await loaded

    async def close(self) -> None:
        """End every request, then the thread. Closing twice is the same as once."""
        self._closing.set()
        self._inbox.put(Close())
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, JOIN_PATIENCE)
            if not self._thread.is_alive():
                self._fail_all(shutting_down())  # what came in behind the Close
        self.state = EngineState.CLOSED

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return self.state is EngineState.READY

    @property
    def running(self) -> int:
        """Requests that generate."""
        return len(self._running)

    @property
    def queued(self) -> int:
        """Requests that wait to generate."""
        return max(self._admission.held - len(self._running), 0)

    @property
    def ahead(self) -> int:
        """Requests that must end before another one could generate."""
        return self._admission.ahead

    @property
    def held_tokens(self) -> int:
        """Tokens in the KV cache slots of running requests."""
        return self._slots.used if self._slots is not None else 0

    @property
    def model(self) -> LanguageModel:
        """The loaded model. Raises: StageError while there is none."""
        if self._closing.is_set():
            raise shutting_down()
        if self._model is None or not self.ready:
            raise StageError("unavailable", "model_not_ready", f"The language model is {self.state.value}; try again.")
        return self._model

    def reserve(self, tenant: str = "") -> None:
        """Admit a request, before any work is done for it.

        Its permit is released by ``release``, or by the engine when a request that was submitted has ended.

        Raises: StageError when there is no capacity for this tenant.
        """
        try:
            self._admission.reserve(tenant)
        except StageError:
            self.refusals += 1
            raise

    def release(self, tenant: str = "") -> None:
        """Release an admitted request that was not submitted."""
        self._admission.release(tenant)

    def forget(self, tenants: Iterable[str]) -> None:
        """Drop what the prefix cache holds of these tenants, and what their requests in progress would leave there."""
        self._inbox.put(Forget(frozenset(tenants)))

    async def generate(
        self,
        id: str,
        prompt: Sequence[int],
        sampling: Sampling,
        tenant: str = "",
        constraint: Constraint | None = None,
        gather: float = 0.0,
    ) -> AsyncGenerator[Event]:
        """Run an admitted request; closing the generator cancels it.

        Yields ``Started``, ``TextDelta``s, those behind the first one gathered for ``gather`` seconds, ``Finished``.

        Raises: StageError when the engine fails or closes, or when too much waits already.
        """
        try:
            if self._closing.is_set():
                raise shutting_down()
            self._admission.wait(len(prompt))
        except StageError as error:
            self.refusals += error.kind == "overloaded"
            self.release(tenant)
            raise
        mailbox = Mailbox(self._post, gather)
        self._inbox.put(Generate(id, tuple(prompt), sampling, mailbox, tenant, constraint))
        try:
            while not isinstance(event := await mailbox.get(), Finished):
                yield event
            yield event
        finally:
            self._inbox.put(Cancel(id))  # means nothing to a request that has ended

    # The thread's side

    def _run(self, report: Callable[[BaseException | None], None]) -> None:
        wait = RESTART_WAIT
        while not self._closing.is_set():
            try:
                self.state = EngineState.LOADING
                self._model = self._load()
                self._slots = SlotTable(self._model.slots, reuse=divisible(self._model), copy=self._model.copy)
                self.state = EngineState.READY
                report(None)
                self._serve(self._model, self._slots)
            except BaseException as error:  # nothing may end this thread without an end of its requests
                first = self._model is None and not self.restarts
                self._model, self.state = None, EngineState.DEAD
                self._threads = 0  # loading sets them anew
                self._rest()
                report(error)
                text = "The language model stopped working and is being restarted."
                self._fail_all(StageError("internal", "engine_failed", text))
                if first:
                    return  # it never worked: the configuration is wrong, and ``start`` has raised why
                log.exception("the chat engine died; it is loaded again in %.0f s", wait)
                self.restarts += 1
                self._closing.wait(wait)
                wait = min(2 * wait, RESTART_LONGEST)

    def _serve(self, model: LanguageModel, slots: SlotTable) -> None:
        while self._collect(model, slots, wait=not self._running and not self._waiting):
            if self._running:
                self._spread(model)
                with self._post:
                    self._step(model, slots)

    def _spread(self, model: LanguageModel) -> None:
        """Compute with as many threads as the other pools leave."""
        if self._share is None:
            return
        self._share.active = True
        self._share.urgent = bool(self._waiting) or any(stream.prefilling for stream in self._running)
        if (threads := self._share.threads) != self._threads:
            model.compute_with(threads)
            self._threads = threads

    def _rest(self) -> None:
        """Leave the cores to the other pools."""
        if self._share is not None:
            self._share.active = self._share.urgent = False

    def _collect(self, model: LanguageModel, slots: SlotTable, *, wait: bool) -> bool:
        """Take messages and start what may run. Returns False when the engine is to close."""
        if wait:
            self._rest()
        # Only an idle engine waits for a message: while requests wait, a slot that has become free is theirs.
        while wait or not self._inbox.empty():
            if not self._take(self._inbox.get()):
                return False
            wait = False
        while self._waiting and len(self._running) < min(self._limits.streams, model.slots):
            request = self._next(slots)
            if request is None:
                break
            self._admit(request, model, slots)
        return True

    def _next(self, slots: SlotTable) -> Generate | None:
        """The request that has waited longest: of the sites with the fewest running, those visitors with the fewest.

        One whose prompt begins with what a running request prefills now waits for it, and copies it then.
        """
        ready = [request for request in self._waiting if not slots.is_coming(request.prompt, request.tenant)]
        if not ready:
            return None
        running = Counter(stream.tenant for stream in self._running)
        of_site = Counter(site_of(stream.tenant) for stream in self._running)
        request = min(ready, key=lambda request: (of_site[site_of(request.tenant)], running[request.tenant]))
        self._waiting.remove(request)
        self._admission.go(len(request.prompt))
        return request

    def _admit(self, request: Generate, model: LanguageModel, slots: SlotTable) -> None:
        """Give a request a slot; one whose stream can't be built fails alone."""
        from pipelines.chat.engine.stream import Stream  # here, because torch takes seconds to import

        slot = None
        try:
            slot = slots.take(list(request.prompt), request.tenant)
            self._running.append(Stream(request, model, slot))
        except Exception:
            log.exception("request %s failed before its first step", request.id)
            if slot is not None:
                slots.give_back(slot)
            request.mailbox.put(_failed())
            self.release(request.tenant)
            return
        self.cached_prompt_tokens += slot.computed
        self.prefix_hits += bool(slot.computed)

    def _step(self, model: LanguageModel, slots: SlotTable) -> None:
        """One forward pass for every running stream."""
        from pipelines.chat.engine.stream import best_of, constrain  # here, because torch takes seconds to import

        streaming = [stream for stream in self._running if not stream.prefilling]
        drafts = DRAFT_TOKENS if model.seekable and len(self._running) <= DRAFTING_STREAMS else 0
        work: list[tuple[Stream, Segment]] = [(stream, stream.decode(drafts)) for stream in streaming]
        budget = self._prefill.tokens(len(streaming), len(self._running) - len(streaming)) if model.seekable else 1
        prefilled = 0
        for stream in self._running:
            if stream.prefilling and budget > 0:
                segment = stream.prefill(budget if divisible(model) else stream.left)
                work.append((stream, segment))
                prefilled += len(segment.tokens)
                budget -= len(segment.tokens)
        self.steps += 1
        self.prefilled_tokens += prefilled
        began = time.perf_counter()
        try:
            logits = model.forward([segment for _, segment in work])
            for stream, error in constrain(logits, work):
                self._failed(stream, error)
            best = best_of(logits, work)
        except Exception:
            self._step_alone(model, work)
        else:
            self._prefill.measured(time.perf_counter() - began, streaming=bool(streaming), read=prefilled)
            row = 0
            for stream, segment in work:
                rows = slice(row, row + segment.wanted)
                self._advance(stream, segment, logits[rows], best[rows])
                row += segment.wanted
        for stream in [stream for stream in self._running if stream.ended]:
            self._remove(stream)

    def _step_alone(self, model: LanguageModel, work: "list[tuple[Stream, Segment]]") -> None:
        """The model failed on some stream: find out which, as the others have nothing to do with it."""
        from pipelines.chat.engine.stream import best_of

        for stream, segment in work:
            try:
                logits = model.forward([segment])
                stream.constrain(segment, logits)
                self._advance(stream, segment, logits, best_of(logits, [(stream, segment)]))
            except Exception as error:
                self._failed(stream, error)

    def _advance(self, stream: "Stream", segment: Segment, logits: "Tensor", best: list[int]) -> None:
        if stream.ended:
            return
        try:
            stream.take(segment, logits, best)
        except Exception as error:
            self._failed(stream, error)

    def _failed(self, stream: "Stream", error: Exception) -> None:
        if isinstance(error, StageError):
            stream.fail(error)
            return
        log.exception("request %s failed", stream.id)
        stream.fail(_failed())

    def _remove(self, stream: "Stream") -> None:
        self._running.remove(stream)
        if self._slots is not None:
            self._slots.give_back(stream.slot)
        self.release(stream.tenant)

    def _take(self, message: Generate | Cancel | Forget | Close) -> bool:
        match message:
            case Generate():
                self._waiting.append(message)
            case Cancel(id):
                self._cancel(id)
            case Forget(tenants):
                if self._slots is not None:
                    self._slots.forget(tenants)
            case Close():
                self._fail_all(shutting_down())
                return False
        return True

    def _cancel(self, id: str) -> None:
        for request in self._waiting:
            if request.id == id:
                self._drop(request, Finished("cancelled", Usage()))
                self.aborted += 1
                return
        for stream in self._running:
            if stream.id == id:
                stream.cancel()
                self._remove(stream)
                self.aborted += 1
                return

    def _drop(self, request: Generate, event: Finished | StageError) -> None:
        """End a request that waits."""
        self._waiting.remove(request)
        request.mailbox.put(event)
        self._admission.go(len(request.prompt))
        self.release(request.tenant)

    def _fail_all(self, error: StageError) -> None:
        while not self._inbox.empty():
            message = self._inbox.get()
            if isinstance(message, Generate):
                self._waiting.append(message)
        for request in tuple(self._waiting):
            self._drop(request, error)
        for stream in tuple(self._running):
            stream.fail(error)
            self._remove(stream)
