"""The tools stage: runs the functions that the model calls, and lets it answer with their results.

A function of the server is hidden from the client: its calls and results stand only in the messages of the next round.
A function that the request brought is the client's, and its call ends the reply.
"""

import asyncio
import json
import logging
import re
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass, field, replace

from pipelines.capacity import Capacity
from pipelines.events import (
    CallDelta,
    CallDone,
    CallStarted,
    Event,
    Finished,
    Message,
    StageError,
    Started,
    TextDelta,
    TextDone,
    Tool,
    ToolCall,
    ToolUse,
    Turn,
    Usage,
)
from pipelines.flow import Next
from pipelines.tools.settings import ToolsSettings
from pipelines.tools.source import Source, ToolError
from pipelines.tracing import traced

log = logging.getLogger(__name__)

PENDING = 1000  # sessions whose question to the user is open
FAILED = "The function failed."
TOO_LATE = "The function took too long and was stopped."
NOT_ASKED = "The user was not asked, since this client keeps no session. Say that this can't be done here."


class ToolsStage:
    """A stage around the sources of functions."""

    def __init__(self, sources: Sequence[Source], settings: ToolsSettings) -> None:
        self._sources = tuple(sources)
        self._settings = settings
        self._capacity = Capacity(settings.running, "function calls")
        self._pending: OrderedDict[str, ToolCall] = OrderedDict()  # by session; bounded by PENDING
        self.calls: Counter[str] = Counter()  # by outcome, for metrics

    async def start(self) -> None:
        """Start the sources. Raises: what a source raises."""
        await asyncio.gather(*(source.start() for source in self._sources))

    async def close(self) -> None:
        """Close the sources."""
        await asyncio.gather(*(source.close() for source in self._sources))

    def __call__(self, turn: Turn, next: Next) -> AsyncGenerator[Event]:
        """The reply, with the calls of the server's functions run in between."""
        own = self._offered(turn)
        return self._reply(turn, next, own) if own else next(turn)

    async def _reply(self, turn: Turn, next: Next, own: Mapping[str, tuple[Tool, Source]]) -> AsyncGenerator[Event]:
        pending = self._pending.pop(turn.session, None) if turn.session else None
        reply = _Reply(filler=self._settings.filler)
        if pending is not None and pending.name in own and self._approves(turn):
            async with aclosing(self._results(reply, [pending], own, turn)) as events:
                async for event in events:
                    yield event
            turn = _with_results(turn, reply)
        for left in range(self._settings.rounds, -1, -1):
            offered = replace(turn, tools=_together(turn.tools, own if left else {}))
            async with aclosing(next(offered)) as events, aclosing(_heard(events, reply, own)) as heard:
                async for event in heard:
                    yield event
            if reply.finished is not None:
                yield reply.finished
                return
            if (question := self._question(reply.calls, own, turn)) is not None:
                yield TextDelta(question, 0)
                yield TextDone()
                yield Finished("stop", reply.usage)
                return
            async with aclosing(self._results(reply, reply.calls, own, turn)) as events:
                async for event in events:
                    yield event
            turn = _with_results(turn, reply)

    def _offered(self, turn: Turn) -> dict[str, tuple[Tool, Source]]:
        """The server's functions that this turn may call, by name. A client's function of the same name goes first."""
        if turn.format is not None or (turn.tools is not None and turn.tools.mode != "auto"):
            return {}
        taken = {tool.name for tool in turn.tools.tools} if turn.tools is not None else set()
        found: dict[str, tuple[Tool, Source]] = {}
        for source in self._sources:
            for tool in source.tools:
                if tool.name not in taken:
                    found.setdefault(tool.name, (tool, source))
        return found

    def _approves(self, turn: Turn) -> bool:
        """Whether the last message is one of those that mean yes."""
        said = turn.messages[-1] if turn.messages else None
        words = "" if said is None or said.role != "user" else " ".join(re.findall(r"\w+", said.content.casefold()))
        return words in {" ".join(re.findall(r"\w+", each.casefold())) for each in self._settings.yes}

    def _question(self, calls: Sequence[ToolCall], own: Mapping[str, tuple[Tool, Source]], turn: Turn) -> str | None:
        """What the user is asked before these calls, where one needs it and can be asked for."""
        call = next((call for call in calls if own[call.name][1].asks(call.name)), None)
        if call is None or not turn.session:
            return None
        self._pending[turn.session] = call
        if len(self._pending) > PENDING:
            self._pending.popitem(last=False)
        self.calls["asked"] += 1
        return self._settings.question.replace("{name}", call.name).replace("{arguments}", call.arguments)

    async def _results(
        self, reply: "_Reply", calls: Sequence[ToolCall], own: Mapping[str, tuple[Tool, Source]], turn: Turn
    ) -> AsyncGenerator[Event]:
        """Run the calls side by side; their results are put into ``reply``, and a long silence is filled."""
        approved = calls is not reply.calls
        running = [
            asyncio.create_task(self._run(call, own, turn, approved), name=f"tool-{call.name}") for call in calls
        ]
        try:
            _, left = await asyncio.wait(running, timeout=self._settings.filler_after)
            if left and reply.filler:
                yield TextDelta(reply.filler.rstrip() + " ", 0)
                reply.filler = ""
            reply.results = list(zip(calls, await asyncio.gather(*running), strict=True))
        finally:
            for task in running:
                task.cancel()
            await asyncio.wait(running)

    async def _run(self, call: ToolCall, own: Mapping[str, tuple[Tool, Source]], turn: Turn, approved: bool) -> str:
        """The result of a call, or what went wrong, for the model."""
        source = own[call.name][1]
        if source.asks(call.name) and not approved:
            self.calls["refused"] += 1
            return NOT_ASKED
        try:
            arguments = json.loads(call.arguments)
            with self._traced(call, turn), self._capacity.permit(turn.tenant):
                async with asyncio.timeout(self._settings.timeout):
                    result = await source.call(call.name, arguments)
        except TimeoutError:
            self.calls["timeout"] += 1
            return TOO_LATE
        except (ToolError, StageError, ValueError) as error:
            self.calls["error"] += 1
            return f"{FAILED} {error}"[: self._settings.output_bytes]
        except Exception as error:  # the function's own fault; its message may hold what it was given
            log.error("the function %s failed: %s", call.name, type(error).__name__)
            self.calls["error"] += 1
            return FAILED
        self.calls["done"] += 1
        return _bounded(result, self._settings.output_bytes)

    @staticmethod
    def _traced(call: ToolCall, turn: Turn) -> AbstractContextManager[None]:
        named = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": call.name, "gen_ai.tool.type": "function"}
        return traced(turn.trace, f"execute_tool {call.name}", named | {"gen_ai.tool.call.id": call.id})


@dataclass(slots=True)
class _Reply:
    """What has come of a reply so far."""

    filler: str  # that may still be said
    usage: Usage = field(default_factory=Usage)
    started: bool = False
    said: str = ""  # by the model in the last round
    calls: list[ToolCall] = field(default_factory=list)  # of the last round
    results: list[tuple[ToolCall, str]] = field(default_factory=list)
    finished: Finished | None = None  # the last event, where no round follows


async def _heard(
    events: AsyncGenerator[Event], reply: _Reply, own: Mapping[str, tuple[Tool, Source]]
) -> AsyncGenerator[Event]:
    """The events of one round that the client gets; calls of the server's functions go into ``reply``."""
    reply.said, reply.calls = "", []
    hidden: set[str] = set()
    ending = False
    async for event in events:
        if isinstance(event, Started):
            if reply.started:
                continue
            reply.started = True
        elif isinstance(event, TextDelta):
            reply.said += event.text
        elif isinstance(event, TextDone):
            ending = True  # of the text, unless a function of the server is called
            continue
        elif isinstance(event, CallStarted) and event.name in own:
            hidden.add(event.id)
            continue
        elif isinstance(event, CallDelta) and event.id in hidden:
            continue
        elif isinstance(event, CallDone) and event.call.id in hidden:
            reply.calls.append(event.call)
            continue
        elif isinstance(event, Finished):
            reply.usage = _sum(reply.usage, event.usage)
            if reply.calls and event.reason == "tool_calls":
                return
            reply.finished = replace(event, usage=reply.usage)
        if ending and isinstance(event, CallStarted | Finished):
            ending = False
            yield TextDone()
        if not isinstance(event, Finished):
            yield event


def _sum(a: Usage, b: Usage) -> Usage:
    return Usage(a.input_tokens + b.input_tokens, a.cached_tokens + b.cached_tokens, a.output_tokens + b.output_tokens)


def _together(asked: ToolUse | None, own: Mapping[str, tuple[Tool, Source]]) -> ToolUse | None:
    """The client's functions and the server's. With both, one reply calls one: the two end a reply differently."""
    if not own:
        return asked
    tools = tuple(tool for tool, _ in own.values())
    if asked is None:
        return ToolUse(tools)
    allowed = (*asked.allowed, *own) if asked.allowed else ()
    return replace(asked, tools=(*asked.tools, *tools), allowed=allowed, parallel=asked.parallel and not asked.tools)


def _with_results(turn: Turn, reply: _Reply) -> Turn:
    """The turn of the next round, in which the model has called and was answered."""
    calls = tuple(call for call, _ in reply.results)
    results = (Message("tool", result, call_id=call.id) for call, result in reply.results)
    return replace(
        turn, messages=(*turn.messages, Message("assistant", reply.said, calls=calls), *results), prefill=False
    )


def _bounded(text: str, size: int) -> str:
    raw = text.encode(errors="replace")
    return text if len(raw) <= size else raw[:size].decode(errors="ignore") + " … (cut)"
