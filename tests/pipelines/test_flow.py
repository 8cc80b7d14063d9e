"""Stages as middleware: what each may do with a turn and with what comes back, and how everything is closed."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

import pytest

from pipelines.events import Event, Finished, Message, StageError, Started, TextDelta, Turn, Usage
from pipelines.flow import Next, Stage, ahead, flow

TURN = Turn("t", (Message("user", "hello"),))
END = Finished("stop", Usage())


def saying(*pieces: str) -> Stage:
    """The innermost stage."""

    async def stage(turn: Turn, next: Next) -> AsyncGenerator[Event]:
        for piece in pieces:
            yield TextDelta(piece)
        yield END

    return stage


async def echo(turn: Turn, next: Next) -> AsyncGenerator[Event]:
    yield TextDelta(turn.messages[-1].content)
    yield END


def noting(log: list[str], name: str) -> Stage:
    async def stage(turn: Turn, next: Next) -> AsyncGenerator[Event]:
        try:
            async with aclosing(next(turn)) as events:
                async for event in events:
                    yield event
        finally:
            await asyncio.sleep(0)  # closing may take its time
            log.append(name)

    return stage


def forgetful(log: list[str], name: str) -> Stage:
    """One that does not close what it opened."""

    async def stage(turn: Turn, next: Next) -> AsyncGenerator[Event]:
        try:
            async for event in next(turn):
                yield event
        finally:
            log.append(name)

    return stage


async def run(*stages: Stage) -> list[Event]:
    async with flow(TURN, stages) as events:
        return [event async for event in events]


async def test_a_stage_handles_what_it_knows_and_forwards_the_rest() -> None:
    async def shouting(turn: Turn, next: Next) -> AsyncGenerator[Event]:
        async for event in next(turn):
            yield TextDelta(event.text.upper()) if isinstance(event, TextDelta) else event

    assert await run(shouting, saying("a", "b")) == [TextDelta("A"), TextDelta("B"), END]


async def test_a_stage_may_answer_without_the_rest() -> None:
    async def never(turn: Turn, next: Next) -> AsyncGenerator[Event]:
        raise AssertionError("not to be called")
        yield END

    assert await run(saying("no"), never) == [TextDelta("no"), END]


async def test_a_stage_may_change_the_turn() -> None:
    async def retrieving(turn: Turn, next: Next) -> AsyncGenerator[Event]:
        async for event in next(replace(turn, messages=(Message("user", "found"),))):
            yield event

    assert await run(retrieving, echo) == [TextDelta("found"), END]


async def test_a_stage_may_call_the_rest_twice() -> None:
    async def looping(turn: Turn, next: Next) -> AsyncGenerator[Event]:
        async with aclosing(next(turn)) as first:
            said = "".join([event.text async for event in first if isinstance(event, TextDelta)])
        async for event in next(replace(turn, messages=(*turn.messages, Message("tool", said + "!")))):
            yield event

    assert await run(looping, echo) == [TextDelta("hello!"), END]


async def test_the_first_stage_is_the_outermost() -> None:
    def marking(mark: str) -> Stage:
        async def stage(turn: Turn, next: Next) -> AsyncGenerator[Event]:
            async for event in next(turn):
                yield TextDelta(mark + event.text) if isinstance(event, TextDelta) else event

        return stage

    assert await run(marking("a"), marking("b"), saying("x")) == [TextDelta("abx"), END]


@pytest.mark.parametrize("stages", [0, 1])
async def test_a_pipeline_without_a_stage_that_answers_is_a_fault(stages: int) -> None:
    with pytest.raises(RuntimeError, match="nothing behind it"):
        await run(*[noting([], "a")] * stages)


async def test_a_reply_without_its_end_is_an_error() -> None:
    async def breaks_off(turn: Turn, next: Next) -> AsyncGenerator[Event]:
        yield TextDelta("half")

    seen: list[Event] = []
    with pytest.raises(StageError) as caught:
        async with flow(TURN, [breaks_off]) as events:
            async for event in events:
                seen.append(event)  # noqa: PERF401 - the loop raises
    assert caught.value.code == "reply_incomplete"
    assert seen == [TextDelta("half")]


async def test_nothing_comes_behind_the_end() -> None:
    async def chatters(turn: Turn, next: Next) -> AsyncGenerator[Event]:
        yield END
        yield TextDelta("more")

    assert await run(chatters) == [END]


@pytest.mark.parametrize("make", [noting, forgetful])
@pytest.mark.parametrize("reads", [0, 1, 2, 99])
async def test_leaving_early_or_late_closes_every_stage(reads: int, make: object) -> None:
    log: list[str] = []
    wrap = noting if make is noting else forgetful
    async with flow(TURN, [wrap(log, "outer"), wrap(log, "inner"), saying("a", "b")]) as events:
        for _ in range(reads):
            await anext(events, None)
    if reads == 0:
        assert log == []  # what never ran has nothing to close
    elif make is noting:
        assert log == ["inner", "outer"]
    else:
        assert sorted(log) == ["inner", "outer"]


async def test_an_error_in_a_stage_reaches_the_reader_and_closes_the_others() -> None:
    log: list[str] = []

    async def failing(turn: Turn, next: Next) -> AsyncGenerator[Event]:
        async for event in next(turn):
            yield event
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        async with flow(TURN, [noting(log, "outer"), failing, noting(log, "inner"), saying("a")]) as events:
            async for _ in events:
                pass
    assert sorted(log) == ["inner", "outer"]


async def test_one_stage_that_fails_to_close_does_not_keep_the_others_open() -> None:
    log: list[str] = []

    async def stubborn(turn: Turn, next: Next) -> AsyncGenerator[Event]:
        try:
            async for event in next(turn):
                yield event
        finally:
            raise RuntimeError("will not close")

    with pytest.raises(RuntimeError, match="will not close"):
        async with flow(TURN, [stubborn, noting(log, "inner"), saying("a")]) as events:
            await anext(events)
    assert log == ["inner"]


def behind_ahead(limit: int) -> Stage:
    def stage(turn: Turn, next: Next) -> AsyncGenerator[Event]:
        return ahead(next(turn), limit)

    return stage


async def test_ahead_forwards_everything_in_order() -> None:
    pieces = [str(number) for number in range(50)]
    assert await run(behind_ahead(3), saying(*pieces)) == [*map(TextDelta, pieces), END]


async def test_ahead_lets_its_producer_run_no_further_than_its_limit() -> None:
    produced: list[int] = []

    async def counting(turn: Turn, next: Next) -> AsyncGenerator[Event]:
        for number in range(100):
            produced.append(number)
            yield TextDelta(str(number))

    async with flow(TURN, [behind_ahead(4), counting]) as events:
        assert await anext(events) == TextDelta("0")
        for _ in range(50):
            await asyncio.sleep(0)
        # One was read, four wait in the buffer, and one in the producer's hand.
        assert len(produced) == 6


async def test_ahead_hands_on_an_error_behind_what_came_before_it() -> None:
    async def failing(turn: Turn, next: Next) -> AsyncGenerator[Event]:
        yield Started(1)
        raise RuntimeError("broken")

    seen: list[Event] = []
    with pytest.raises(RuntimeError, match="broken"):
        async with flow(TURN, [behind_ahead(8), failing]) as events:
            async for event in events:
                seen.append(event)  # noqa: PERF401 - the loop raises
    assert seen == [Started(1)]


@pytest.mark.parametrize("limit", [1, 8])
async def test_what_is_cancelled_within_a_stage_ends_the_reply_with_an_error(limit: int) -> None:
    async def waits_for_what_was_cancelled(turn: Turn, next: Next) -> AsyncGenerator[Event]:
        for piece in "abc":
            yield TextDelta(piece)
        cancelled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        cancelled.cancel()
        await cancelled

    with pytest.raises(StageError, match="before it was complete"):
        async with asyncio.timeout(5), flow(TURN, [behind_ahead(limit), waits_for_what_was_cancelled]) as events:
            async for _ in events:
                pass


async def test_ahead_is_cancelled_with_its_reader() -> None:
    log: list[str] = []
    async with flow(TURN, [behind_ahead(1), noting(log, "inner"), saying(*"abcdef")]) as events:
        await anext(events)
    assert log == ["inner"]


async def test_ahead_needs_room() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        await run(behind_ahead(0), saying("a"))
