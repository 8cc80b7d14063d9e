import threading
from collections.abc import Iterator
from contextlib import aclosing

import pytest

from pipelines.cores import Cores
from pipelines.worker import in_thread
from tests.support import eventually


async def test_the_items_of_a_blocking_iterator_arrive_in_order() -> None:
    async with aclosing(in_thread(lambda stop: iter(range(100)), ahead=3)) as items:
        assert [item async for item in items] == list(range(100))


async def test_the_work_runs_on_a_thread_of_its_own() -> None:
    def work(stop: threading.Event) -> Iterator[str]:
        yield threading.current_thread().name

    async with aclosing(in_thread(work, name="digger")) as items:
        assert [item async for item in items] == ["digger"]


async def test_the_thread_runs_no_further_ahead_than_it_may() -> None:
    produced: list[int] = []

    def work(stop: threading.Event) -> Iterator[int]:
        for number in range(100):
            produced.append(number)
            yield number

    async with aclosing(in_thread(work, ahead=4)) as items:
        assert await anext(items) == 0
        await eventually(lambda: len(produced) == 6, "one read, four waiting, one in hand")
        assert await anext(items) == 1
        await eventually(lambda: len(produced) == 7, "one more")


async def test_an_error_of_the_iterator_is_raised_to_the_reader() -> None:
    def work(stop: threading.Event) -> Iterator[int]:
        yield 1
        raise LookupError("nothing more")

    seen = []
    with pytest.raises(LookupError, match="nothing more"):
        async with aclosing(in_thread(work)) as items:
            async for item in items:
                seen.append(item)  # noqa: PERF401 - the loop raises
    assert seen == [1]


async def test_closing_stops_the_thread_and_waits_for_it() -> None:
    ended = threading.Event()

    def work(stop: threading.Event) -> Iterator[int]:
        try:
            yield 0
            yield 1
            while not stop.wait(0.001):
                pass
        finally:
            ended.set()

    async with aclosing(in_thread(work, ahead=1)) as items:
        assert await anext(items) == 0
    assert ended.wait(0), "the thread is over when closing returns"


async def test_closing_frees_a_thread_that_waits_for_its_reader() -> None:
    worked: list[threading.Thread] = []

    def work(stop: threading.Event) -> Iterator[int]:
        worked.append(threading.current_thread())
        yield from range(100)

    async with aclosing(in_thread(work, ahead=1)) as items:
        await anext(items)
    await eventually(lambda: not worked[0].is_alive(), "the thread is gone")


async def test_no_room_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        await anext(in_thread(lambda stop: iter(()), ahead=0))


def test_cores_are_left_to_others_while_they_compute() -> None:
    among = Cores(2)
    model, voice = among.share(1), among.share(1)
    assert (model.threads, voice.threads) == (2, 2)
    voice.active = True
    assert (model.threads, voice.threads) == (1, 2)
    model.active = True
    assert (model.threads, voice.threads) == (1, 1)
    voice.active = False
    assert (model.threads, voice.threads) == (2, 1)
    assert Cores(1).share(1).threads == 1
    many = Cores(16)
    model, voice = many.share(8), many.share(1)
    model.active = voice.active = True
    assert (model.threads, voice.threads) == (15, 8)


def test_a_share_is_alone_while_nobody_else_computes() -> None:
    among = Cores(2)
    mine, other = among.share(1), among.share(1)
    assert mine.alone
    mine.active = True
    assert mine.alone
    assert not other.alone
    other.active = True
    assert not mine.alone
