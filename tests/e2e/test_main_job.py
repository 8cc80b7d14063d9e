"""The main job with the real model, reached as users reach it: the command, the SDK, another project's client."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from openai import AsyncOpenAI

from pipelines.build import build
from pipelines.chat.settings import ChatSettings
from server.config import Settings
from tests.support import eventually, run, running, text_of, user, validate

pytestmark = pytest.mark.e2e

QUESTION = "Name the capital of France."


def test_a_question_is_answered_in_the_terminal(loquent: str, server_url: str) -> None:
    answer = run(loquent, "ask", QUESTION, LOQUENT_URL=server_url)
    assert answer.returncode == 0, answer.stderr
    assert "Paris" in answer.stdout
    assert "\x1b" not in answer.stdout, "what is piped is plain"
    assert answer.stdout.endswith("\n")


def test_standard_input_is_appended_and_json_is_one_object(loquent: str, server_url: str) -> None:
    words = ("ask", "--json", "--url", server_url, "Repeat this word:")
    answer = run(loquent, *words, given="strawberry\n")
    assert answer.returncode == 0, answer.stderr
    told = json.loads(answer.stdout)
    assert (told["status"], told["model"]) == ("completed", "smollm2-135m-instruct")
    assert told["usage"]["output_tokens"] > 0
    assert "strawberry" in told["text"].lower()


def test_the_options_of_ask_reach_the_model(loquent: str, server_url: str) -> None:
    words = (
        "ask",
        "--json",
        "--url",
        server_url,
        "--max-tokens",
        "3",
        "--temperature",
        "1",
        "--seed",
        "5",
        "Tell a story",
    )
    first, second = (json.loads(run(loquent, *words).stdout) for _ in range(2))
    assert first["text"] == second["text"]
    assert (first["status"], first["reason"]) == ("incomplete", "max_output_tokens")
    assert first["usage"]["output_tokens"] == 3


def test_a_poem_about_the_sea_does_not_repeat_its_lines(loquent: str, server_url: str) -> None:
    answer = run(loquent, "ask", "--url", server_url, "Write a short poem about the sea.")
    assert answer.returncode == 0, answer.stderr
    lines = [line.strip() for line in answer.stdout.splitlines() if line.strip()]
    assert len(lines) >= 3
    assert max(lines.count(line) for line in lines) < 3


async def sdk_turn(connection: Any, text: str, **response: Any) -> list[dict[str, Any]]:
    await connection.conversation.item.create(item=user(text))
    await connection.response.create(response=response)
    events: list[dict[str, Any]] = []
    while not events or events[-1]["type"] != "response.done":
        raw = json.loads(await connection.recv_bytes())
        validate(raw)
        assert connection.parse_event(json.dumps(raw)).type == raw["type"]
        events.append(raw)
    return events


async def test_the_sdks_realtime_client_has_a_conversation(server_url: str) -> None:
    async with (
        asyncio.timeout(90),
        AsyncOpenAI(base_url=f"{server_url}/v1", api_key="none") as client,
        client.realtime.connect(model="gpt-realtime") as connection,
    ):
        assert (await connection.recv()).type == "session.created"
        assert (await connection.recv()).type == "conversation.created"
        await connection.session.update(
            session={
                "type": "realtime",
                "instructions": "You are a helpful assistant.",
                "output_modalities": ["text"],
            }
        )
        updated = await connection.recv()
        assert updated.type == "session.updated"
        events = await sdk_turn(connection, QUESTION)
        assert "Paris" in text_of(events)
        assert events[-1]["response"]["status"] == "completed"
        again = await sdk_turn(connection, "And of Italy?")
        tokens = [turn[-1]["response"]["usage"]["input_tokens"] for turn in (events, again)]
        assert tokens[1] > tokens[0], "the second turn knows of the first"


@pytest.mark.parametrize("stream", [True, False])
async def test_the_sdks_chat_completions_answer(server_url: str, stream: bool) -> None:
    async with asyncio.timeout(90), AsyncOpenAI(base_url=f"{server_url}/v1", api_key="none") as client:
        messages: Any = [{"role": "user", "content": QUESTION}]
        if stream:
            async with await client.chat.completions.create(
                model="gpt-4o-mini", messages=messages, stream=True
            ) as told:
                texts = [chunk.choices[0].delta.content or "" async for chunk in told if chunk.choices]
            assert len([text for text in texts if text]) > 2, "it streams"
            assert "Paris" in "".join(texts)
        else:
            reply = await client.chat.completions.create(model="gpt-4o-mini", messages=messages)
            assert "Paris" in (reply.choices[0].message.content or "")


async def test_streams_beside_each_other_say_what_each_says_alone() -> None:
    questions = [f"What is the capital of {country}?" for country in ("France", "Italy", "Spain", "Japan")]

    async def ask(http: aiohttp.ClientSession, url: str, question: str) -> str:
        body = {"messages": [{"role": "user", "content": question}], "max_tokens": 12}
        async with http.post(f"{url}/v1/chat/completions", json=body) as response:
            text: str = (await response.json())["choices"][0]["message"]["content"]
            return text

    # In float32: narrower types round differently as a prompt is read in other pieces, which may tip a near tie.
    pipeline = build({"chat": ChatSettings(dtype="float32")})
    async with asyncio.timeout(90), running(pipeline) as server, aiohttp.ClientSession() as http:
        alone = [await ask(http, server.url, question) for question in questions]
        together = await asyncio.gather(*(ask(http, server.url, question) for question in questions))
    assert together == alone


async def test_a_cancel_stops_the_real_model_within_one_step() -> None:
    pipeline = build({"chat": ChatSettings()})
    async with running(pipeline) as server, server.client() as client:
        await client.greet()
        await client.say("Tell me a long story about the sea.")
        await client.send("response.create")
        await client.until("response.output_text.delta")
        await client.send("response.cancel")
        events = await client.until("response.done")
        at_the_answer = server.engine.steps
        await eventually(lambda: server.engine.running == 0, "the stream is gone")
        assert server.engine.steps <= at_the_answer + 1
        assert events[-1]["response"]["status"] == "cancelled"
        assert text_of(client.seen) == next(e["text"] for e in events if e["type"] == "response.output_text.done")


async def test_fifty_clients_that_vanish_mid_stream_leave_the_real_engine_free() -> None:
    pipeline = build({"chat": ChatSettings()})

    async def vanish(server: Any) -> None:
        async with server.client() as client:
            await client.greet()
            await client.say("Tell me a long story about the sea.")
            await client.send("response.create")
            await client.until("response.output_text.delta")
            client.socket.transport.abort()

    async with running(pipeline, Settings()) as server:
        tasks = len(asyncio.all_tasks())
        await asyncio.gather(*(vanish(server) for _ in range(50)))
        await eventually(lambda: (server.engine.running, server.engine.queued) == (0, 0), "every place is free")
        await eventually(lambda: not server.backend.connections, "every connection is gone")
        await eventually(lambda: len(asyncio.all_tasks()) <= tasks, "no task is left")
        async with server.client() as client:
            await client.greet()
            assert "Paris" in text_of(await client.ask(QUESTION))


async def test_the_later_turns_of_a_session_compute_only_what_is_new() -> None:
    """Four turns behind long instructions, with the real model."""
    instructions = "You are the assistant of a small book shop by the sea. " * 17  # about 200 tokens
    pipeline = build({"chat": ChatSettings(max_tokens=24)})
    async with running(pipeline) as server, server.client() as client:
        await client.greet()
        await client.send("session.update", session={"type": "realtime", "instructions": instructions})
        await client.expect("session.updated")
        held = 0
        for question in ("Hello!", "Which book do you like?", "Who wrote it?", "Thank you."):
            before = server.engine.prefilled_tokens
            done = (await client.ask(question))[-1]["response"]
            usage = done["usage"]
            cached = usage["input_token_details"]["cached_tokens"]
            assert server.engine.prefilled_tokens - before == usage["input_tokens"] - cached
            if held:
                assert cached >= held - 1, "the last token may not have been read"
            held = usage["total_tokens"]
        assert held > 250
