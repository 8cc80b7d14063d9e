"""Tiny seeded encoder-decoders through the engine, the stage and the server, beside Hugging Face's own greedy text."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines import kernels
from pipelines.build import Pipeline, build
from pipelines.chat.engine.admission import EngineLimits
from pipelines.chat.engine.engine import Engine
from pipelines.chat.model.interface import Segment
from pipelines.chat.model.load import load
from pipelines.chat.model.seq2seq import EncoderDecoder
from pipelines.chat.model.seq2seq_attention import biased_attention, cross_attention, encoder_attention
from pipelines.chat.model.seq2seq_rules import Rules
from pipelines.chat.settings import ChatSettings
from pipelines.events import (
    Event,
    Finished,
    Format,
    Message,
    Sampling,
    StageError,
    Started,
    TextDelta,
    Tool,
    ToolUse,
    Turn,
)
from tests.support import engine_of, eventually, replies, running
from tests.tiny_seq2seq import BOS, EOS, KINDS, Reference, tiny_seq2seq

GREEDY = Sampling(temperature=0)
STREAMS = 4
TEXTS = (
    "hello world",
    "a",
    "The quick brown fox jumps over it.",
    "23 March 2026",
    "one two three four",
    "Nothing.",
    "x" * 40,
    "to be or not to be",
    "42",
)
TASKS: dict[str, Any] = {"german": {"source": "fra_Latn", "target": "deu_Latn"}, "french": {"target": "fra_Latn"}}


def settings(folder: Path, **more: object) -> ChatSettings:
    return ChatSettings.model_validate(
        {"model": str(folder), "dtype": "float32", "threads": 1, "context": 64, "streams": STREAMS, **more}
    )


def loaded(folder: Path, **more: object) -> EncoderDecoder:
    model = load(folder, settings(folder, **more))
    assert isinstance(model, EncoderDecoder)
    return model


def expected(model: EncoderDecoder, folder: Path, text: str, count: int, task: str = "") -> str:
    """What Hugging Face's greedy ``generate`` says, as text."""
    prompt, _ = model.tokenizer.encode(text, task, cut=False)
    starts = model.tokenizer.start.count
    forced = {"forced_bos_token_id": prompt[-1]} if task else {}
    return model.tokenizer.decode(Reference(folder).greedy(prompt[:-starts], count, starts, **forced))


@asynccontextmanager
async def served(model: EncoderDecoder, waiting: int = 100) -> AsyncIterator[Engine]:
    engine = Engine(lambda: model, EngineLimits(STREAMS, waiting))
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


async def said(
    engine: Engine, model: EncoderDecoder, text: str, sampling: Sampling = GREEDY, task: str = ""
) -> tuple[str, Finished]:
    """The reply's text and its end."""
    prompt, _ = model.tokenizer.encode(text, task, cut=False)
    engine.reserve()
    events = [event async for event in engine.generate(f"{task}{text}{sampling.seed}", prompt, sampling)]
    assert isinstance(events[-1], Finished)
    return "".join(event.text for event in events if isinstance(event, TextDelta)), events[-1]


@pytest.mark.parametrize("kind", KINDS)
async def test_greedy_replies_are_those_of_the_models_own_code_alone_and_beside_others(
    kind: str, tmp_path: Path
) -> None:
    folder = tiny_seq2seq(tmp_path, kind)
    task = "german" if kind == "nllb" else ""
    model = loaded(folder, tasks=TASKS if task else {})
    counts = [12 + 5 * (n % 5) for n in range(len(TEXTS))]
    wanted = [expected(model, folder, text, count, task) for text, count in zip(TEXTS, counts, strict=True)]
    assert len(set(wanted)) > len(wanted) // 2
    async with served(model) as engine:
        alone = [
            (await said(engine, model, text, Sampling(temperature=0, max_tokens=count), task))[0]
            for text, count in zip(TEXTS, counts, strict=True)
        ]
        together = await asyncio.gather(
            *(
                said(engine, model, text, Sampling(temperature=0, max_tokens=count), task)
                for text, count in zip(TEXTS, counts, strict=True)
            )
        )
    assert alone == wanted
    assert [text for text, _ in together] == wanted


async def test_the_same_in_bfloat16_with_packed_weights_goes_on_without_an_error(tmp_path: Path) -> None:
    model = loaded(tiny_seq2seq(tmp_path, "flan"), dtype="bfloat16")
    async with served(model) as engine:
        alone = await said(engine, model, TEXTS[2], Sampling(temperature=0, max_tokens=20))
    assert alone[1].usage.output_tokens == 20 or alone[1].reason == "stop"


async def test_a_target_language_begins_the_reply_and_a_source_language_the_input(tmp_path: Path) -> None:
    model = loaded(tiny_seq2seq(tmp_path, "nllb"), tasks=TASKS)
    language = model.tokenizer._tokenizer.convert_tokens_to_ids
    german, french = (model.tokenizer.encode("a", task, cut=False)[0] for task in ("german", "french"))
    assert german == [language("fra_Latn"), *french[1:-1], language("deu_Latn")]
    assert (french[0], french[-2:]) == (language("eng_Latn"), [EOS, language("fra_Latn")])
    with pytest.raises(StageError, match="german, french") as error:
        model.tokenizer.encode("a", "", cut=False)
    assert error.value.code == "task_required"


def test_a_task_with_a_language_that_the_model_does_not_know_is_refused_at_the_start(tmp_path: Path) -> None:
    folder = tiny_seq2seq(tmp_path, "nllb")
    with pytest.raises(ValueError, match="'xyz_Latn'"):
        loaded(folder, tasks={"x": {"target": "xyz_Latn"}})
    with pytest.raises(ValueError, match="no source languages"):
        loaded(tiny_seq2seq(tmp_path, "t5"), tasks={"x": {"source": "eng_Latn"}})


async def test_a_cancel_in_mid_reply_frees_the_slot_for_the_next(tmp_path: Path) -> None:
    folder = tiny_seq2seq(tmp_path, "t5")
    model = loaded(folder, context=512)
    async with served(model) as engine:
        prompt, _ = model.tokenizer.encode("hello", "", cut=False)
        for n in range(3 * STREAMS):
            engine.reserve()
            reply = engine.generate(str(n), prompt, Sampling(temperature=0, max_tokens=400, ignore_eos=True))
            async for event in reply:
                if isinstance(event, TextDelta):
                    break
            await reply.aclose()
        await eventually(lambda: not engine.running, "the cancelled replies to end")
        assert (engine.queued, engine.held_tokens) == (0, 0)
        text, _ = await said(engine, model, TEXTS[0], Sampling(temperature=0, max_tokens=20))
    assert text == expected(model, folder, TEXTS[0], 20)


async def test_stop_strings_end_a_reply_and_are_no_part_of_it(tmp_path: Path) -> None:
    folder = tiny_seq2seq(tmp_path, "mt5")
    model = loaded(folder)
    whole = expected(model, folder, TEXTS[0], 24)
    stop = whole[6:8]
    async with served(model) as engine:
        text, end = await said(engine, model, TEXTS[0], Sampling(temperature=0, max_tokens=24, stop=(stop,)))
    assert (text, end.reason) == (whole[: whole.index(stop)], "stop")


async def test_draft_tokens_change_nothing_and_a_seed_gives_one_text_whatever_runs_beside_it(tmp_path: Path) -> None:
    folder = tiny_seq2seq(tmp_path, "bart")
    model = loaded(folder)
    seeded = Sampling(temperature=0.9, seed=5, max_tokens=30)
    async with served(model) as engine:
        alone, _ = await said(engine, model, TEXTS[2], seeded)
        others = (said(engine, model, text, Sampling(temperature=1.0, max_tokens=25, seed=1)) for text in TEXTS[3:])
        beside, *_ = await asyncio.gather(said(engine, model, TEXTS[2], seeded), *others)
    assert beside[0] == alone


async def test_more_streams_than_may_run_or_wait_are_refused(tmp_path: Path) -> None:
    model = loaded(tiny_seq2seq(tmp_path, "t5"))
    async with served(model, waiting=2) as engine:
        for _ in range(STREAMS + 2):
            engine.reserve()
        with pytest.raises(StageError) as error:
            engine.reserve()
    assert error.value.kind == "overloaded"


def test_a_text_longer_than_its_slot_is_an_error_and_not_written(tmp_path: Path) -> None:
    model = loaded(tiny_seq2seq(tmp_path, "t5"))
    prompt, _ = model.tokenizer.encode("hello", "", cut=False)
    model.forward([Segment(0, 0, prompt, 1)])
    with pytest.raises(ValueError, match="64 tokens"):
        model.forward([Segment(0, len(prompt), [5] * 64, 1)])
    with pytest.raises(ValueError, match="input"):
        model.forward([Segment(0, 0, [5] * 80, 1)])


def test_what_the_generation_config_rules_out_depends_on_the_text() -> None:
    rules = Rules(never_first=(7,), never_behind=((3, 4, 5),), no_repeat=2, least=3, ends=(EOS,), starts=1)
    assert rules.banned([BOS]) == [EOS, 7]
    assert rules.banned([BOS, 3, 4]) == [5]
    assert rules.banned([BOS, 8, 9, 8]) == [9]
    logits = torch.zeros(2, 10)
    Rules(never=(1,), no_repeat=1).apply(logits, [[0, 4], [0, 6, 8]])
    ruled_out = [(row == torch.finfo(torch.float32).min).nonzero().flatten().tolist() for row in logits]
    assert ruled_out == [[0, 1, 4], [0, 1, 6, 8]]


@pytest.mark.parametrize("size", [8, 16, 32, 64, 48])
def test_the_kernels_attend_as_the_plain_code_does(size: int) -> None:
    if not kernels.load():
        pytest.skip("there are no kernels here")
    chance = torch.Generator().manual_seed(size)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=chance)

    segments = torch.tensor([[3, 0, 0, 0], [0, 1, 2, 7], [1, 3, 0, 0], [4, 2, 1, 5]], dtype=torch.int32)
    keys, values, q, k, v = random(3, 2, 20, size), random(3, 2, 20, size), *(random(1, 2, 6, size) for _ in range(3))
    lengths = torch.tensor([4, 17, 20], dtype=torch.int32)
    bias = random(2, 20)
    ops = torch.ops.loquent
    for given in (torch.float32, torch.bfloat16):
        a, b, c, into, of = (each.to(given) for each in (q, k, v, keys, values))
        copies = into.clone(), of.clone()
        tolerance = 1e-3 if given is torch.float32 else 0.1
        own = ops.biased_attention(a, b, c, into, of, segments, bias, 0.5)
        by = biased_attention(a, b, c, *copies, segments, bias, 0.5)
        assert torch.allclose(own.float(), by.float(), atol=tolerance)
        assert torch.equal(into, copies[0])
        assert torch.equal(of, copies[1])
        own = ops.cross_attention(a, into, of, segments, lengths, 0.3)
        by = cross_attention(a, into, of, segments, lengths, 0.3)
        assert torch.allclose(own.float(), by.float(), atol=tolerance)
        for distances in (random(2, 2 * 20 - 1), torch.zeros(0)):
            own = ops.encoder_attention(a, b, c, segments, distances, 0.3)
            by = encoder_attention(a, b, c, segments, distances, 0.3)
            assert torch.allclose(own.float(), by.float(), atol=tolerance)


@asynccontextmanager
async def piped(folder: Path, **more: object) -> AsyncIterator[Pipeline]:
    pipeline = build({"chat": settings(folder, **more)})
    await pipeline.start(lambda step: None)
    try:
        yield pipeline
    finally:
        await pipeline.close()


def user(text: str) -> tuple[Message, ...]:
    return (Message("system", "Ignored."), Message("user", "before"), Message("user", text))


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def test_the_last_message_is_the_input_behind_the_prefix_of_the_task(tmp_path: Path) -> None:
    folder = tiny_seq2seq(tmp_path, "t5")
    async with piped(folder, tasks={"say": "say: "}) as pipeline:
        model = engine_of(pipeline).model
        assert isinstance(model, EncoderDecoder)
        events = await replies(pipeline, Turn("t", user("hello"), Sampling(temperature=0, max_tokens=9), task="say"))
        assert text_of(events) == expected(model, folder, "say: hello", 9)
        for task, code in (("sing", "unknown_task"),):
            with pytest.raises(StageError, match="say") as error:
                await replies(pipeline, Turn("t", user("hello"), task=task))
            assert (error.value.code, error.value.param) == (code, "loquent.task")


async def test_an_input_beyond_the_encoder_is_refused_or_cut_with_a_notice(tmp_path: Path) -> None:
    folder = tiny_seq2seq(tmp_path, "t5", limit=20)
    few = Sampling(temperature=0, max_tokens=5)
    async with piped(folder) as pipeline:
        for text in ("long " * 30, "long " * 100_000):
            with pytest.raises(StageError, match="20 tokens") as error:
                await replies(pipeline, Turn("t", user(text), few))
            assert error.value.code == "context_length_exceeded"
            events = await replies(pipeline, Turn("t", user(text), few, overflow="trim"))
            started = events[0]
            assert isinstance(started, Started)
            assert started.input_tokens == 21  # with the start of the reply
            assert "20" in started.notices[0]
        model = engine_of(pipeline).model
        assert isinstance(model, EncoderDecoder)
        assert text_of(events) == expected(model, folder, ("long " * 30)[:19], 5)


async def test_a_reply_ends_at_the_decoders_last_position(tmp_path: Path) -> None:
    async with piped(tiny_seq2seq(tmp_path, "mbart"), context=1024) as pipeline:
        events = await replies(pipeline, Turn("t", user("hi"), Sampling(temperature=0, max_tokens=5000)))
    end = events[-1]
    assert isinstance(end, Finished)
    assert end.usage.output_tokens == 62 or end.reason == "stop"  # 64 positions, two of the start


@pytest.mark.parametrize("kind", ["t5", "marian", "nllb"])
async def test_a_reply_keeps_to_a_json_schema(kind: str, tmp_path: Path) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}, "kind": {"enum": ["long", "short"]}},
        "required": ["n", "kind"],
    }
    form = Format("json_schema", json.dumps(schema), "response_format", strict=True)
    async with piped(tiny_seq2seq(tmp_path, kind), tasks=TASKS if kind == "nllb" else {}, context=128) as pipeline:
        turn = Turn(
            "t", user("hi"), Sampling(temperature=0, max_tokens=60), format=form, task="german" * (kind == "nllb")
        )
        said = json.loads(text_of(await replies(pipeline, turn)))
    assert said["kind"] in ("long", "short")
    assert isinstance(said["n"], int)


async def test_what_needs_a_conversation_is_refused(tmp_path: Path) -> None:
    async with piped(tiny_seq2seq(tmp_path, "t5")) as pipeline:
        required = ToolUse((Tool("f"),), mode="required")
        for turn, param in (
            (Turn("t", user("a"), tools=required), "tool_choice"),
            (Turn("t", user("a"), prefill=True), "continue_final_message"),
            (Turn("t", (Message("system", "a"),)), "messages"),
        ):
            with pytest.raises(StageError) as error:
                await replies(pipeline, turn)
            assert (error.value.kind, error.value.param) == ("invalid_request", param)
        assert engine_of(pipeline).queued == 0


async def test_a_server_answers_tasks_over_http_and_realtime(tmp_path: Path) -> None:
    folder = tiny_seq2seq(tmp_path, "t5", limit=20)
    pipeline = build({"chat": settings(folder, tasks={"say": "say: "}, overflow="trim", max_tokens=9, temperature=0)})
    async with running(pipeline) as server:
        model = server.engine.model
        assert isinstance(model, EncoderDecoder)
        wanted = expected(model, folder, "say: hello", 9)
        url = f"{server.url}/v1/chat/completions"

        async def post(text: str, **own: object) -> tuple[int, dict[str, Any]]:
            body = {"messages": [{"role": "user", "content": text}], "loquent": own}
            async with server.http.post(url, json=body) as answer:
                return answer.status, await answer.json()

        status, body = await post("hello", task="say")
        assert (status, body["choices"][0]["message"]["content"]) == (200, wanted)
        assert "loquent" not in body
        status, body = await post("hello", task="sing")
        assert (status, body["error"]["code"], body["error"]["param"]) == (400, "unknown_task", "loquent.task")
        assert "say" in body["error"]["message"]
        status, body = await post("long " * 30)
        assert status == 200
        assert "was cut" in body["loquent"]["warnings"][0]
        async with server.client() as client:
            await client.receive()
            session = {"type": "realtime", "output_modalities": ["text"], "loquent": {"task": "say"}}
            await client.send("session.update", session=session)
            await client.until("session.updated")
            for text, own in (("hello", None), ("hello", {"task": "sing"}), ("long " * 30, None)):
                content = [{"type": "input_text", "text": text}]
                await client.send(
                    "conversation.item.create", item={"type": "message", "role": "user", "content": content}
                )
                await client.send("response.create", response={"loquent": own} if own else {})
                done = (await client.until("response.done"))[-1]
                response = done["response"]
                if own:
                    assert response["status_details"]["error"]["code"] == "unknown_task"
                elif text == "hello":
                    assert response["output"][0]["content"][0]["text"] == wanted
                else:
                    assert "was cut" in done["loquent"]["warnings"][0]
