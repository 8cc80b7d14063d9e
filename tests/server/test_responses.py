"""``/v1/responses`` through the real server with a scripted model: replies, events, and what a request may say."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from typing import Any

import openai
import pytest
from openai.types.responses import ResponseInputParam
from pydantic import BaseModel

from pipelines.events import (
    CallDelta,
    CallStarted,
    Event,
    Finished,
    Picture,
    StageError,
    Started,
    TextDelta,
    TextDone,
    TokenLogprob,
    Tool,
    ToolCall,
    Turn,
    Usage,
)
from server.config import LimitSettings, Settings
from tests.server.scripts import (
    WEATHER,
    Json,
    Scripted,
    call,
    calls,
    respond,
    responded,
    response,
    sdk,
    stream_event,
    text,
)
from tests.support import eventually, running

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"type": "function", "name": "weather", "description": "Of a city", "parameters": SCHEMA, "strict": True}
OFFERED = (Tool("weather", "Of a city", SCHEMA), Tool("time"))
TOOLS = [FUNCTION, {"name": "time"}]


def kinds(events: list[Json]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


TEXT = ["output_item.added", "content_part.added", "output_text.delta", "output_text.done", "content_part.done"]
CALL = ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"]


async def test_a_whole_response_is_what_the_sdk_knows() -> None:
    async with running(Scripted(text("Hel", "lo.")).pipeline) as server:
        status, body = await respond(server, metadata={"a": "b"}, user="u", temperature=0.5)
    assert status == 200
    made = response(body)
    assert (made.output_text, made.status, made.error, made.incomplete_details) == ("Hello.", "completed", None, None)
    assert (made.metadata, made.user, made.temperature, made.truncation) == ({"a": "b"}, "u", 0.5, "disabled")
    assert made.completed_at is not None
    assert made.usage is not None
    assert (made.usage.input_tokens, made.usage.output_tokens, made.usage.total_tokens) == (7, 2, 9)
    assert made.usage.input_tokens_details.cached_tokens == 2
    missing = set(type(made).model_fields) - set(body) - {
        # what only OpenAI's own service has
        "access_programs", "image", "input_transformations", "moderation", "prompt_cache_diagnostics",
        "prompt_cache_options", "prompt_cache_retention", "tool_usage",
    }  # fmt: skip
    assert not missing


async def test_the_events_of_a_text_come_in_openais_order() -> None:
    async with running(Scripted(text("Hel", "lo.")).pipeline) as server:
        events = await responded(server)
    order = ["created", "in_progress", *TEXT[:3], *TEXT[2:], "output_item.done", "completed"]
    assert kinds(events) == order
    assert "".join(event["delta"] for event in events if event["type"].endswith("text.delta")) == "Hello."
    assert events[0]["response"]["status"] == events[1]["response"]["status"] == "in_progress"
    assert events[0]["response"]["output"] == []
    assert events[-1]["response"]["output"] == [events[-2]["item"]]
    ids = {event["item_id"] for event in events if "item_id" in event} | {events[-2]["item"]["id"]}
    assert len(ids) == 1
    assert response(events[-1]["response"]).output_text == "Hello."


async def test_the_events_of_calls_come_in_openais_order() -> None:
    script = calls(WEATHER, call("call_2", "time", "{}"), said="Let me see.")
    async with running(Scripted(script).pipeline) as server:
        events = await responded(server, tools=TOOLS)
    text_order = [*TEXT, "output_item.done"]
    call_order = [CALL[0], CALL[1], CALL[1], *CALL[2:], *CALL]
    assert kinds(events) == ["created", "in_progress", *text_order, *call_order, "completed"]
    final = response(events[-1]["response"])
    assert [item.type for item in final.output] == ["message", "function_call", "function_call"]
    assert [event["output_index"] for event in events if event["type"].endswith("item.added")] == [0, 1, 2]
    weather = events[-1]["response"]["output"][1]
    assert (weather["call_id"], weather["name"], weather["arguments"]) == ("call_1", "weather", '{"city": "Paris"}')
    assert weather["id"] != weather["call_id"]
    assert final.status == "completed"


@pytest.mark.parametrize(
    ("reason", "status", "why"),
    [
        ("length", "incomplete", {"reason": "max_output_tokens"}),
        ("content_filter", "incomplete", {"reason": "content_filter"}),
        ("cancelled", "cancelled", None),
    ],
)
async def test_an_end_before_the_end_is_incomplete(reason: Any, status: str, why: Any) -> None:
    async with running(Scripted(text("Hel", reason=reason)).pipeline) as server:
        _, body = await respond(server)
        events = await responded(server)
    for made in (body, events[-1]["response"]):
        response(made)
        assert (made["status"], made["incomplete_details"], made["completed_at"]) == (status, why, None)
        assert made["output"][0]["status"] == "incomplete"
    assert events[-1]["type"] == "response.incomplete"


async def test_a_call_that_is_cut_short_is_incomplete() -> None:
    async with running(Scripted(calls(WEATHER[:2], reason="length")).pipeline) as server:
        events = await responded(server, tools=TOOLS)
    assert kinds(events)[-3:] == ["function_call_arguments.done", "output_item.done", "incomplete"]
    assert events[-2]["item"]["status"] == "incomplete"
    assert events[-2]["item"]["arguments"] == '{"city": '


async def test_a_reply_of_nothing_is_an_empty_message() -> None:
    async with running(Scripted(text()).pipeline) as server:
        events = await responded(server)
    assert kinds(events)[2:-1] == [*TEXT[:2], *TEXT[3:], "output_item.done"]
    assert response(events[-1]["response"]).output_text == ""


async def test_a_picture_is_a_link_at_the_texts_end() -> None:
    picture = Picture("img_1", "happy cat", 1, "flat", "gan", 64, b"png")
    script: list[Event] = [Started(7), TextDelta("Here."), TextDone(), picture, Finished("stop", Usage(7, 0, 1))]
    async with running(Scripted(script).pipeline) as server:
        events = await responded(server)
    final = events[-1]["response"]
    assert final["output"][0]["content"][0]["text"].startswith("Here.\n\n![happy cat](http://127.0.0.1")
    assert final["loquent"]["images"][0]["caption"] == "happy cat"
    assert kinds(events).count("output_item.added") == 1


async def test_logprobs_come_with_each_token() -> None:
    sent = (TokenLogprob("Hi", -0.1, (("Hi", -0.1), ("Yo", -2.0))), TokenLogprob("\ufffd", -1.0))
    script: list[Event] = [Started(7), TextDelta("Hi", 2, sent), TextDone(), Finished("stop", Usage(7, 0, 2))]
    model = Scripted(script)
    async with running(model.pipeline) as server:
        events = await responded(server, include=["message.output_text.logprobs"], top_logprobs=2)
        await respond(server, include=["message.output_text.logprobs"])
        await respond(server, top_logprobs=0)
    assert [turn.sampling.logprobs for turn in model.turns] == [2, 0, None]
    delta = next(event for event in events if event["type"].endswith("text.delta"))
    assert delta["logprobs"][0]["top_logprobs"][1] == {"token": "Yo", "logprob": -2.0}
    part = events[-1]["response"]["output"][0]["content"][0]
    assert [each["bytes"] for each in part["logprobs"]] == [[72, 105], []]


# Failures


async def fails_at_once(turn: Turn) -> AsyncGenerator[Event]:
    raise StageError("invalid_request", "context_length_exceeded", "Too long.", param="input")
    yield Started(1)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_failure_before_the_first_event_is_a_status(stream: bool) -> None:
    async with running(Scripted(fails_at_once).pipeline) as server:
        status, body = await respond(server, stream=stream)
    assert (status, body["error"]["code"], body["error"]["param"]) == (400, "context_length_exceeded", "input")


@pytest.mark.parametrize(
    ("error", "code", "own"),
    [
        (StageError("overloaded", "server_overloaded", "Full."), "server_error", "server_overloaded"),
        (StageError("overloaded", "too_many_requests", "Full."), "rate_limit_exceeded", "too_many_requests"),
        (ValueError("a secret"), "server_error", "internal_error"),
    ],
)
async def test_a_failure_midway_is_response_failed(error: Exception, code: str, own: str) -> None:
    async def fails(turn: Turn) -> AsyncGenerator[Event]:
        yield TextDelta("Hel")
        raise error

    async with running(Scripted(fails).pipeline) as server:
        events = await responded(server)
        assert events[-1]["type"] == "response.failed"
        failed = events[-1]["response"]
        assert (failed["status"], failed["error"]["code"]) == ("failed", code)
        assert failed["loquent"]["error"]["code"] == own
        assert "secret" not in json.dumps(events)
        async with server.http.get(f"{server.url}/v1/responses/{failed['id']}") as answer:
            assert (await answer.json())["status"] == "failed"


async def test_what_is_blocked_midway_is_incomplete() -> None:
    async def blocked(turn: Turn) -> AsyncGenerator[Event]:
        yield TextDelta("Hel")
        raise StageError("invalid_request", "content_filter", "Blocked.")

    async with running(Scripted(blocked).pipeline) as server:
        last = (await responded(server))[-1]
    assert (last["type"], last["response"]["incomplete_details"]) == (
        "response.incomplete",
        {"reason": "content_filter"},
    )


async def test_a_failure_behind_a_comment_is_response_failed_in_full() -> None:
    opened = asyncio.Event()

    async def late(turn: Turn) -> AsyncGenerator[Event]:
        await opened.wait()
        raise StageError("overloaded", "server_overloaded", "Full.")
        yield Started(1)

    settings = Settings(limits=LimitSettings(sse_keep_alive=0.02))
    async with running(Scripted(late).pipeline, settings) as server:
        asked = {"input": "Hi", "stream": True}
        async with server.http.post(f"{server.url}/v1/responses", json=asked) as answer:
            assert await answer.content.readuntil(b"\n\n") == b": keep-alive\n\n"
            opened.set()
            sent = [line for line in (await answer.text()).splitlines() if line.startswith("event: ")]
    assert sent == ["event: response.created", "event: response.in_progress", "event: response.failed"]


# The stock client


async def test_the_sdk_streams_a_tool_loop() -> None:
    async def script(turn: Turn) -> AsyncGenerator[Event]:
        sent = calls(WEATHER) if turn.messages[-1].role == "user" else text("It is sunny.")
        for event in sent:
            yield event

    model = Scripted(script)
    tools: Any = [FUNCTION]
    async with running(model.pipeline) as server, sdk(server) as client:
        history: ResponseInputParam = [{"role": "user", "content": "Weather in Paris?"}]
        async with client.responses.stream(model="x", input=history, tools=tools) as stream:
            seen = [event.type async for event in stream]
            first = await stream.get_final_response()
        made: Any = first.output[0]
        assert (made.name, made.parsed_arguments) == ("weather", {"city": "Paris"})
        again: Any = [
            *history,
            made.to_dict(),
            {"type": "function_call_output", "call_id": made.call_id, "output": "sunny"},
        ]
        again[1].pop("parsed_arguments")
        second = await client.responses.create(model="x", input=again, tools=tools)
    assert seen[-1] == "response.completed"
    assert second.output_text == "It is sunny."
    assert [message.role for message in model.turns[1].messages] == ["user", "assistant", "tool"]
    assert model.turns[1].messages[1].calls == (ToolCall("call_1", "weather", '{"city": "Paris"}'),)


async def test_the_sdk_parses_a_response_into_a_model() -> None:
    class City(BaseModel):
        name: str

    model = Scripted(text('{"name": ', '"Paris"}'))
    async with running(model.pipeline) as server, sdk(server) as client:
        made = await client.responses.parse(model="x", input="Which city?", text_format=City)
    assert made.output_parsed == City(name="Paris")
    assert model.turns[0].format is not None
    assert model.turns[0].format.param == "text.format.schema"


async def test_the_sdks_errors_name_the_parameter() -> None:
    async with running(Scripted(text("Hi")).pipeline) as server, sdk(server) as client:
        with pytest.raises(openai.BadRequestError) as error:
            await client.responses.create(model="x", input="Hi", background=True)
    assert error.value.param == "background"


# Cancel and disconnect


async def hangs_amid_a_call(turn: Turn) -> AsyncGenerator[Event]:
    yield Started(7)
    yield TextDelta("Let me see.")
    yield TextDone()
    yield CallStarted("call_1", "weather")
    yield CallDelta("call_1", '{"ci')
    await asyncio.Event().wait()


async def begun(answer: Any) -> str:
    """The id of the response whose stream this is, once its call has begun."""
    created = json.loads((await answer.content.readuntil(b"\n\n")).split(b"data: ")[1])
    while b"arguments.delta" not in await answer.content.readuntil(b"\n\n"):
        pass
    id: str = created["response"]["id"]
    return id


async def test_a_response_is_cancelled_from_another_connection() -> None:
    model = Scripted(hangs_amid_a_call)
    async with running(model.pipeline) as server, sdk(server) as client:
        async with server.http.get(f"{server.url}/livez"):
            pass  # a connection that stays open has a task
        before = len(asyncio.all_tasks())
        asked = {"input": "Hi", "stream": True}
        async with server.http.post(f"{server.url}/v1/responses", json=asked) as answer:
            id = await begun(answer)
            assert (await client.responses.retrieve(id)).status == "in_progress"
            cancelled = await client.responses.cancel(id)
            blocks = [block for block in (await answer.text()).split("\n\n") if block]
        last = json.loads(blocks[-1].split("data: ")[1])
        assert cancelled.status == last["response"]["status"] == "cancelled"
        assert last["type"] == "response.incomplete"
        stream_event(last)
        assert [item["status"] for item in last["response"]["output"]] == ["completed", "incomplete"]
        assert last["response"]["usage"]["output_tokens"] == 2
        assert model.open == 0
        assert (await client.responses.retrieve(id)).status == "cancelled"
        assert (await client.responses.cancel(id)).status == "cancelled"
        await client.close()
        await eventually(lambda: len(asyncio.all_tasks()) <= before, "no task is left")


async def test_a_response_that_has_ended_is_returned_by_cancel_as_it_is() -> None:
    async with running(Scripted(text("Hi")).pipeline) as server, sdk(server) as client:
        made = await client.responses.create(model="x", input="Hi")
        assert (await client.responses.cancel(made.id)).status == "completed"
        with pytest.raises(openai.NotFoundError):
            await client.responses.cancel("resp_0")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_goes_amid_a_call_leaves_nothing(stream: bool) -> None:
    model = Scripted(hangs_amid_a_call)
    async with running(model.pipeline) as server:
        before = len(asyncio.all_tasks())
        asking = asyncio.create_task(respond(server, stream=stream))
        await eventually(lambda: model.open == 1, "it runs")
        asking.cancel()
        await eventually(lambda: (model.open, server.backend.requests) == (0, 0), "nothing of it is left")
        await eventually(lambda: len(asyncio.all_tasks()) <= before, "no task is left")


async def test_the_time_of_a_response_is_now() -> None:
    async with running(Scripted(text("Hi")).pipeline) as server:
        _, body = await respond(server)
    assert abs(body["created_at"] - time.time()) < 60
