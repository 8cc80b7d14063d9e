import asyncio
from collections.abc import AsyncGenerator

import pytest

from pipelines.events import Event, Started, TextDelta, Turn
from pipelines.flow import Stage, ahead, flow

TURN = Turn("t", ())


def saying(*pieces: str) -> Stage:
    async def stage(events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
        async for event in events:
            yield event
            if isinstance(event, Turn):
                for piece in pieces:
                    yield TextDelta(piece)

    return stage


def noting(log: list[str], name: str) -> Stage:
    async def stage(events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
        try:
            async for event in events:
                yield event
        finally:
            await asyncio.sleep(0)  # closing may take its time
            log.append(name)

    return stage


async def test_a_stage_handles_what_it_knows_and_forwards_the_rest() -> None:
    async def shouting(events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
        async for event in events:
            yield TextDelta(event.text.upper()) if isinstance(event, TextDelta) else event

    async with flow(TURN, saying("a", "b"), shouting) as events:
        assert [event async for event in events] == [TURN, TextDelta("A"), TextDelta("B")]


async def test_a_flow_without_stages_is_the_turn() -> None:
    async with flow(TURN) as events:
        assert [event async for event in events] == [TURN]


@pytest.mark.parametrize("reads", [0, 1, 2, 99])
async def test_leaving_early_or_late_closes_every_stage_last_first(reads: int) -> None:
    log: list[str] = []
    async with flow(TURN, saying("a", "b"), noting(log, "first"), noting(log, "second")) as events:
        for _ in range(reads):
            await anext(events, None)
    if reads == 0:
        assert log == []  # what never ran has nothing to close
    elif reads < 99:
        assert log == ["second", "first"]
    else:
        assert sorted(log) == ["first", "second"]


async def test_an_error_in_a_stage_reaches_the_reader_and_closes_the_others() -> None:
    log: list[str] = []

    async def failing(events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
        async for event in events:
            yield event
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        async with flow(TURN, noting(log, "before"), failing, noting(log, "behind")) as events:
            async for _ in events:
                pass
    assert sorted(log) == ["before", "behind"]


async def test_one_stage_that_fails_to_close_does_not_keep_the_others_open() -> None:
    log: list[str] = []

    async def stubborn(events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
        try:
            async for event in events:
                yield event
        finally:
            raise RuntimeError("will not close")

    with pytest.raises(RuntimeError, match="will not close"):
        async with flow(TURN, saying("a"), noting(log, "before"), stubborn) as events:
            await anext(events)
    assert log == ["before"]


async def test_ahead_forwards_everything_in_order() -> None:
    pieces = [str(number) for number in range(50)]
    async with flow(TURN, saying(*pieces), ahead(3)) as events:
        assert [event async for event in events] == [TURN, *map(TextDelta, pieces)]


async def test_ahead_lets_its_producer_run_no_further_than_its_limit() -> None:
    produced: list[int] = []

    async def counting(events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
        async for _ in events:
            for number in range(100):
                produced.append(number)
                yield TextDelta(str(number))

    async with flow(TURN, counting, ahead(4)) as events:
        assert await anext(events) == TextDelta("0")
        for _ in range(50):
            await asyncio.sleep(0)
        # One was read, four wait in the buffer, and one in the producer's hand.
        assert len(produced) == 6


async def test_ahead_hands_on_an_error_behind_what_came_before_it() -> None:
    async def failing(events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
        async for event in events:
            yield event
        yield Started(1)
        raise RuntimeError("broken")

    seen: list[Event] = []
    with pytest.raises(RuntimeError, match="broken"):
        async with flow(TURN, failing, ahead(8)) as events:
            async for event in events:
                seen.append(event)  # noqa: PERF401 - the loop raises
    assert seen == [TURN, Started(1)]


async def test_ahead_is_cancelled_with_its_reader() -> None:
    log: list[str] = []
    async with flow(TURN, saying(*"abcdef"), noting(log, "before"), ahead(1)) as events:
        await anext(events)
    assert log == ["before"]


def test_ahead_needs_room() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ahead(0)
