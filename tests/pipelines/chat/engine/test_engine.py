import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
import torch

from pipelines.chat.engine import engine as engine_module
from pipelines.chat.engine.admission import EngineLimits
from pipelines.chat.engine.engine import Engine, EngineState
from pipelines.chat.engine.mailbox import Generate, Mailbox, Post
from pipelines.chat.model.interface import Segment
from pipelines.events import Event, Finished, Sampling, StageError, Started, TextDelta, TokenLogprob, Usage
from tests.support import PATIENCE, ScriptedModel, eventually

PLENTY = Sampling(max_tokens=1000)


@asynccontextmanager
async def started(model: ScriptedModel, *, streams: int = 4, waiting: int = 16) -> AsyncIterator[Engine]:
    engine = Engine(lambda: model, EngineLimits(streams, waiting))
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


async def generate(engine: Engine, id: str = "r", prompt: str = "hi", sampling: Sampling = PLENTY) -> list[Event]:
    engine.reserve()
    async with aclosing(engine.generate(id, [ord(c) for c in prompt], sampling)) as events:
        return [event async for event in events]


def text(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def test_a_reply_is_started_then_text_then_finished() -> None:
    async with started(ScriptedModel(["Hel", "lo."])) as engine:
        events = await generate(engine, prompt="four")
    assert events[0] == Started(4)
    assert text(events) == "Hello."
    assert events[-1] == Finished("stop", Usage(input_tokens=4, output_tokens=2))
    assert sum(event.tokens for event in events if isinstance(event, TextDelta)) == 2


async def test_max_tokens_ends_a_reply_with_length() -> None:
    async with started(ScriptedModel("abcdef")) as engine:
        events = await generate(engine, sampling=Sampling(max_tokens=3))
    assert text(events) == "abc"
    assert events[-1] == Finished("length", Usage(input_tokens=2, output_tokens=3))


async def test_a_stop_string_ends_a_reply_and_the_model() -> None:
    async with started(ScriptedModel(["one E", "ND two", "three"])) as engine:
        events = await generate(engine, sampling=Sampling(max_tokens=99, stop=("END",)))
        assert text(events) == "one "
        assert events[-1] == Finished("stop", Usage(input_tokens=2, output_tokens=2))
        assert engine.steps == 2


async def test_text_held_back_for_a_stop_string_is_not_lost() -> None:
    async with started(ScriptedModel(["one E", "N"])) as engine:
        events = await generate(engine, sampling=Sampling(max_tokens=99, stop=("END",)))
    assert text(events) == "one EN"


async def test_many_streams_advance_together_and_keep_their_own_text() -> None:
    model = ScriptedModel(lambda prompt: [f"{prompt}{number} " for number in range(20)])
    async with started(model, streams=4) as engine:
        replies = await asyncio.gather(*(generate(engine, f"r{i}", f"p{i}:") for i in range(12)))
    for i, events in enumerate(replies):
        assert text(events) == "".join(f"p{i}:{number} " for number in range(20))


async def test_at_most_so_many_streams_run_and_the_others_wait_their_turn() -> None:
    gate = threading.Semaphore(0)
    async with started(ScriptedModel("ab", gate=gate), streams=2, waiting=3) as engine:
        requests = [asyncio.create_task(generate(engine, f"r{i}")) for i in range(5)]
        await eventually(lambda: (engine.running, engine.queued) == (2, 3), "two run, three wait")
        gate.release(100)
        assert [text(events) for events in await asyncio.gather(*requests)] == ["ab"] * 5
        await eventually(lambda: (engine.running, engine.queued) == (0, 0), "all are gone")


async def test_one_more_than_all_places_is_refused_with_the_numbers() -> None:
    gate = threading.Semaphore(0)
    async with started(ScriptedModel("a", gate=gate), streams=1, waiting=1) as engine:
        requests = [asyncio.create_task(generate(engine, f"r{i}")) for i in range(2)]
        await eventually(lambda: engine.running == 1, "one runs")
        with pytest.raises(StageError, match=r"2 requests \(1 running, 1 waiting\)") as refused:
            engine.reserve()
        assert (refused.value.kind, refused.value.code) == ("overloaded", "server_overloaded")
        gate.release(100)
        await asyncio.gather(*requests)
        await eventually(lambda: engine.queued == 0, "the places are free")
        assert text(await generate(engine)) == "a"


async def test_prompts_that_wait_are_bounded_by_their_tokens_too() -> None:
    gate = threading.Semaphore(0)
    engine = Engine(lambda: ScriptedModel("a", gate=gate), EngineLimits(1, 8, waiting_tokens=10))
    await engine.start()
    try:
        runs = asyncio.create_task(generate(engine, "runs", "x" * 99))  # alone, any prompt is taken
        await eventually(lambda: engine.running == 1, "it runs")
        waits = asyncio.create_task(generate(engine, "waits", "x" * 7))
        await eventually(lambda: engine.queued == 1, "seven tokens wait")
        with pytest.raises(StageError, match="7 tokens wait already, this one has 4, and 10 may") as refused:
            await generate(engine, "refused", "x" * 4)
        assert (refused.value.kind, refused.value.code) == ("overloaded", "server_overloaded")
        fits = asyncio.create_task(generate(engine, "fits", "x" * 3))
        await eventually(lambda: engine.queued == 2, "three more fit")
        gate.release(10)
        assert [text(events) for events in await asyncio.gather(runs, waits, fits)] == ["a"] * 3
        assert (engine.queued, engine.refusals) == (0, 1)
        assert text(await generate(engine, "later", "x" * 10)) == "a"
    finally:
        await engine.close()


@pytest.mark.parametrize(
    ("asked", "first"),
    [
        (("A", "A", "A", "A", "B", "B"), ("A", "B")),
        (("A/1", "A/2", "A/3", "B/1", "B/2"), ("A/1", "B/1")),  # visitors of a site share as one
        (("A/1", "A/1", "A/2", "A/3"), ("A/1", "A/2")),  # and within a site each visitor counts
    ],
)
async def test_who_has_fewest_running_is_served_first(asked: tuple[str, ...], first: tuple[str, ...]) -> None:
    gate, order = threading.Semaphore(0), []

    def reply(prompt: str) -> list[str]:
        order.append(prompt)
        return ["a"]

    engine = Engine(lambda: ScriptedModel(reply, gate=gate), EngineLimits(2, 8))
    await engine.start()

    async def ask(number: int, tenant: str) -> None:
        engine.reserve(tenant)
        async with aclosing(engine.generate(f"{number}", [ord(c) for c in tenant], PLENTY, tenant)) as events:
            async for _ in events:
                pass

    try:
        requests = []
        for number, tenant in enumerate(asked):
            requests.append(asyncio.create_task(ask(number, tenant)))
            await eventually(lambda: engine.running == 1, "the first one runs alone, and is held up")
            await eventually(lambda: engine.running + engine.queued == len(requests), "it is there")
        gate.release(100)
        await asyncio.gather(*requests)
    finally:
        await engine.close()
    assert tuple(order[:2]) == first
    assert sorted(order) == sorted(asked)


async def test_a_cancel_takes_effect_before_the_next_token() -> None:
    gate = threading.Semaphore(1)
    async with started(ScriptedModel("abcdef", gate=gate)) as engine:
        engine.reserve()
        async with aclosing(engine.generate("r", [1], PLENTY)) as events:
            assert await anext(events) == Started(1)
            assert await anext(events) == TextDelta("a")
            await eventually(lambda: engine.steps == 2, "the second token is being computed")
        gate.release(100)  # the step under way may end; no other may begin
        await eventually(lambda: engine.running == 0, "the stream is gone")
        assert engine.steps == 2


async def test_cancelling_one_stream_leaves_its_neighbour_alone() -> None:
    gate = threading.Semaphore(0)
    async with started(ScriptedModel("abc", gate=gate)) as engine:
        neighbour = asyncio.create_task(generate(engine, "neighbour"))
        leaver = asyncio.create_task(generate(engine, "leaver"))
        await eventually(lambda: engine.running == 2, "both run")
        leaver.cancel()
        gate.release(100)
        assert text(await neighbour) == "abc"
        await asyncio.wait([leaver])
        await eventually(lambda: (engine.running, engine.queued) == (0, 0), "both are gone")
        assert engine.aborted == 1


async def test_cancelling_a_request_that_waits_frees_its_place_and_nobody_elses() -> None:
    gate = threading.Semaphore(0)
    async with started(ScriptedModel("abc", gate=gate), streams=1) as engine:
        runs = asyncio.create_task(generate(engine, "runs"))
        await eventually(lambda: engine.running == 1, "the first runs")
        waits = asyncio.create_task(generate(engine, "waits"))
        await eventually(lambda: engine.queued == 1, "the second waits")
        waits.cancel()
        await asyncio.wait([waits])  # the engine knows of it before it goes on
        gate.release(100)
        assert text(await runs) == "abc"
        await eventually(lambda: (engine.running, engine.queued) == (0, 0), "no place is taken")
        assert engine.steps == 4  # of the first only


async def test_a_reader_that_lags_gets_its_text_merged_and_nothing_lost() -> None:
    async with started(ScriptedModel([f"{number} " for number in range(500)])) as engine:
        engine.reserve()
        async with aclosing(engine.generate("r", [1], PLENTY)) as events:
            first = await anext(events)
            await eventually(lambda: engine.running == 0, "the engine did not wait for the reader")
            rest = [event async for event in events]
    assert first == Started(1)
    assert rest[-1] == Finished("stop", Usage(1, 0, 500))
    assert text(rest) == "".join(f"{number} " for number in range(500))
    assert len(rest) <= 3


async def test_texts_behind_the_first_are_gathered_and_the_end_waits_for_nothing() -> None:
    gate = threading.Semaphore(0)
    async with started(ScriptedModel("abcde", gate=gate)) as engine:
        engine.reserve()
        async with aclosing(engine.generate("r", [1], PLENTY, gather=3600.0)) as events:
            gate.release(1)
            assert [await anext(events) for _ in range(2)] == [Started(1), TextDelta("a")]
            rest = asyncio.ensure_future(anext(events))
            gate.release(3)
            await asyncio.sleep(0.05)
            assert not rest.done()
            gate.release(2)
            assert await rest == TextDelta("bcde", 4)
            assert await anext(events) == Finished("stop", Usage(1, 0, 5))


@pytest.mark.parametrize("ends", ["cancel", "failure"])
async def test_a_gathered_reply_ends_at_once(ends: str) -> None:
    def reply(prompt: str) -> Iterator[str]:
        yield "a"
        yield "b"
        if ends == "failure":
            raise ValueError("a fault in the model")
        while True:
            yield "c"

    async with started(ScriptedModel(reply)) as engine:
        engine.reserve()
        async with aclosing(engine.generate("r", [1], PLENTY, gather=3600.0)) as events:
            assert await anext(events) == Started(1)
            assert text([await anext(events)]).startswith("a")
            if ends == "failure":
                with pytest.raises(StageError):
                    while True:
                        await anext(events)
        await eventually(lambda: engine.running == 0, "the request has ended")


async def test_a_mailbox_holds_three_events_at_most() -> None:
    mailbox = Mailbox(Post())
    mailbox.put(Started(1))
    for _ in range(1000):
        mailbox.put(TextDelta("x"))
    mailbox.put(Finished("stop", Usage()))
    assert [await mailbox.get() for _ in range(3)] == [
        Started(1),
        TextDelta("x" * 1000, 1000),
        Finished("stop", Usage()),
    ]


async def test_merged_text_keeps_the_logprobs_of_every_token() -> None:
    mailbox = Mailbox(Post())
    told = [TokenLogprob(token, -0.5) for token in "abc"]
    for each in told:
        mailbox.put(TextDelta(each.token, 1, (each,)))
    assert await mailbox.get() == TextDelta("abc", 3, tuple(told))


async def test_a_request_that_the_model_fails_on_takes_no_other_with_it() -> None:
    def reply(prompt: str) -> list[str]:
        if prompt == "poison":
            raise ValueError("a fault in the model")
        return ["fine"]

    async with started(ScriptedModel(reply)) as engine:
        healthy, poisoned = await asyncio.gather(
            generate(engine, "h"), generate(engine, "p", "poison"), return_exceptions=True
        )
        assert isinstance(healthy, list)
        assert text(healthy) == "fine"
        assert isinstance(poisoned, StageError)
        assert poisoned.code == "generation_failed"
        assert "fault" not in poisoned.message  # what broke is for the log
        assert engine.ready


async def test_a_request_whose_stream_can_not_be_built_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.chat.engine import stream

    real = stream.Stream.__init__

    def broken(self: stream.Stream, request: Generate, *rest: Any) -> None:
        if request.id == "bad":
            raise ValueError("a fault in what it asks for")
        real(self, request, *rest)

    monkeypatch.setattr(stream.Stream, "__init__", broken)
    async with started(ScriptedModel(["fine"]), streams=2, waiting=2) as engine:
        good, bad = await asyncio.gather(generate(engine, "good"), generate(engine, "bad"), return_exceptions=True)
        assert isinstance(bad, StageError)
        assert bad.code == "generation_failed"
        assert isinstance(good, list)
        assert text(good) == "fine", "the others go on"
        assert text(await generate(engine, "next")) == "fine"
        assert (engine.restarts, engine.running, engine.queued) == (0, 0, 0)


async def test_a_request_that_waits_runs_when_a_slot_is_free_though_no_message_comes() -> None:
    """One whose reader is slow, as a spoken reply's is, has ended in the engine long before its stream is closed."""
    gate = threading.Semaphore(0)
    async with started(ScriptedModel(["a", "b"], gate=gate), streams=1, waiting=4) as engine:
        engine.reserve()
        slow = engine.generate("slow", [1, 2], PLENTY)
        reading = asyncio.ensure_future(anext(slow))
        await eventually(lambda: engine.running == 1, "it runs")
        waits = asyncio.create_task(generate(engine, "waits"))
        await eventually(lambda: engine.queued == 1, "the other waits")
        gate.release(4)
        assert isinstance(await reading, Started)  # and then nothing of it is read
        async with asyncio.timeout(PATIENCE):
            assert text(await waits) == "ab"
        await slow.aclose()


class WorkerDied(BaseException):
    """What ``except Exception`` does not stop."""


async def test_a_worker_that_dies_fails_its_requests_and_is_restarted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "RESTART_WAIT", 0.01)
    gate = threading.Semaphore(0)
    deaths = iter([True])

    def reply(prompt: str) -> list[str]:
        if next(deaths, False):
            raise WorkerDied
        return ["fine"]

    states: list[EngineState] = []
    model = ScriptedModel(reply, gate=gate)

    def load() -> ScriptedModel:
        states.append(engine.state)
        return model

    engine = Engine(load, EngineLimits(2, 2))
    await engine.start()
    try:
        with pytest.raises(StageError, match="being restarted") as failed:
            await generate(engine)
        assert failed.value.code == "engine_failed"
        await eventually(lambda: engine.restarts == 1 and engine.ready, "the engine is back")
        gate.release(10)
        assert text(await generate(engine, "again")) == "fine"
        assert states == [EngineState.LOADING] * 2
        assert engine.queued == 0
    finally:
        await engine.close()


async def test_a_model_that_does_not_load_is_told_to_whoever_starts_it() -> None:
    def load() -> ScriptedModel:
        raise LookupError("no such model")

    engine = Engine(load, EngineLimits(1, 0))
    with pytest.raises(LookupError, match="no such model"):
        await engine.start()
    assert not engine.ready
    with pytest.raises(StageError, match="dead"):
        _ = engine.model
    await engine.close()


async def test_closing_ends_what_runs_and_what_waits_with_an_error() -> None:
    gate = threading.Semaphore(0)
    engine = Engine(lambda: ScriptedModel("abc", gate=gate), EngineLimits(1, 1))
    await engine.start()
    requests = [asyncio.create_task(generate(engine, f"r{i}")) for i in range(2)]
    await eventually(lambda: (engine.running, engine.queued) == (1, 1), "one runs, one waits")
    closing = asyncio.create_task(engine.close())
    await asyncio.sleep(0)
    gate.release(100)
    results = await asyncio.gather(*requests, return_exceptions=True)
    await closing
    await engine.close()  # twice is the same as once
    assert [getattr(result, "code", result) for result in results] == ["server_shutting_down"] * 2
    assert engine.state is EngineState.CLOSED


async def test_a_request_that_comes_while_the_engine_closes_is_told_so() -> None:
    engine = Engine(lambda: ScriptedModel("abc"), EngineLimits(1, 1))
    await engine.start()
    engine.reserve()
    await engine.close()
    with pytest.raises(StageError, match="shutting down"):
        await anext(engine.generate("late", [1], PLENTY))
    assert engine.queued == 0


async def test_a_flood_of_requests_that_are_dropped_leaves_the_engine_as_it_was() -> None:
    async with started(ScriptedModel("abc"), streams=3, waiting=200) as engine:

        async def briefly(i: int) -> None:
            engine.reserve()
            async with aclosing(engine.generate(f"r{i}", [1], PLENTY)) as events:
                for _ in range(i % 4):
                    await anext(events)

        await asyncio.gather(*(briefly(i) for i in range(150) if i % 4))
        await eventually(lambda: (engine.running, engine.queued) == (0, 0), "every place is free")
        assert not engine._waiting
        assert not engine._running


async def test_a_cancel_takes_effect_after_the_step_under_way_though_another_stream_holds_it_up() -> None:
    gate, amid, computed = threading.Semaphore(0), threading.Semaphore(0), []

    def reply(prompt: str) -> Iterator[str]:
        if prompt == "slow":
            for piece in "st":
                amid.release()
                gate.acquire(timeout=20)
                yield piece
        else:
            for piece in "abcdefgh":
                computed.append(piece)
                yield piece

    async with started(ScriptedModel(reply), streams=2) as engine:
        slow = asyncio.create_task(generate(engine, "slow", "slow"))
        await asyncio.to_thread(amid.acquire, timeout=20)
        quick = asyncio.create_task(generate(engine, "quick", "quick"))
        await eventually(lambda: engine.queued == 1, "the quick one waits")
        gate.release()
        await asyncio.to_thread(amid.acquire, timeout=20)
        assert engine.running == 2, "both run, and the slow one is amid its second token"
        quick.cancel()
        await asyncio.wait([quick])
        gate.release()
        assert text(await slow) == "st"
        await eventually(lambda: engine.queued == 0, "every place is free")
    assert computed == ["a"], "of the quick one, only the step under way was computed"


async def test_a_long_prompt_is_read_in_pieces_and_every_stream_gets_its_token_beside_each() -> None:
    gate = threading.Semaphore(0)
    model = ScriptedModel(lambda prompt: ["long"] if prompt.startswith("L") else ["x"] * 400, gate=gate)
    async with started(model, streams=9) as engine:
        streams = [asyncio.create_task(generate(engine, f"r{i}", f"stream {i}")) for i in range(8)]
        gate.release(8 * 10)
        await eventually(lambda: engine.running == 8 and engine.steps > 10, "eight stream")
        long = asyncio.create_task(generate(engine, "long", "L" + "o" * 1499))
        await eventually(lambda: engine.queued == 1, "the long one is there")
        gate.release(10_000)
        assert text(await long) == "long"
        assert [text(events) for events in await asyncio.gather(*streams)] == ["x" * 400] * 8
    pieces = [step for step in model.segments if any(s.wanted == 0 and s.slot == 8 for s in step)]
    assert len(pieces) > 1
    assert all(len(step) == 9 for step in pieces), "no stream waits while the prompt is read"


async def test_a_second_turn_computes_only_what_is_new() -> None:
    model = ScriptedModel(["yes"])
    async with started(model) as engine:
        first = "system " * 30 + "hello"
        await generate(engine, "1", first)
        assert (engine.prefilled_tokens, engine.cached_prompt_tokens) == (len(first), 0)
        await generate(engine, "2", first + " again")
        assert engine.prefilled_tokens == len(first) + len(" again")
        events = await generate(engine, "3", first + " again and again")
    started_event = next(event for event in events if isinstance(event, Started))
    assert started_event.cached_tokens == len(first + " again")


async def test_instructions_that_many_bring_at_once_are_computed_once() -> None:
    model = ScriptedModel(lambda prompt: [prompt[-1]])
    system = "Be kind. " * 50
    async with started(model, streams=8) as engine:
        replies = await asyncio.gather(*(generate(engine, f"r{i}", f"{system}{i}") for i in range(8)))
        assert engine.prefilled_tokens == len(system) + 8
        assert engine.cached_prompt_tokens == 7 * len(system)
    assert [text(events) for events in replies] == [str(i) for i in range(8)]


async def test_who_waits_for_anothers_prompt_reads_it_when_the_other_leaves() -> None:
    steps = threading.Semaphore(0)

    class Stepped(ScriptedModel):
        def forward(self, segments: Sequence[Segment]) -> torch.Tensor:
            assert steps.acquire(timeout=PATIENCE)
            return super().forward(segments)

    system = "Be kind. " * 200
    async with started(Stepped(lambda prompt: [prompt[-1]]), streams=2) as engine:
        engine._prefill.tokens = lambda streaming, reading: 16  # type: ignore[method-assign]
        leaver = asyncio.create_task(generate(engine, "leaver", system + "1"))
        await eventually(lambda: engine.running == 1, "the first reads")
        stayer = asyncio.create_task(generate(engine, "stayer", system + "2"))
        await eventually(lambda: engine.queued == 1, "the second is there")
        steps.release(4)
        await eventually(lambda: engine.steps == 5, "four steps are done")
        assert (engine.running, engine.queued) == (1, 1), "the second waits, though there is a place"
        leaver.cancel()
        await asyncio.wait([leaver])
        steps.release(1000)
        assert text(await stayer) == "2"
        await eventually(lambda: (engine.running, engine.queued) == (0, 0), "every place is free")
        assert engine.aborted == 1
        assert engine.prefilled_tokens < 1.1 * len(system), "what the first had read was taken over"


async def test_the_texts_of_more_sessions_than_streams_are_kept() -> None:
    model = ScriptedModel(["yes"], slots=6)
    prompts = [f"session {i} " * 20 for i in range(6)]
    async with started(model, streams=2) as engine:
        for prompt in prompts:
            await generate(engine, prompt[:9], prompt)
        read = engine.prefilled_tokens
        for prompt in prompts:
            await generate(engine, prompt[:9], prompt + " and on")
        assert engine.prefilled_tokens - read == 6 * len(" and on")
