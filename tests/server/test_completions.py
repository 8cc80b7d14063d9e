"""``POST /v1/completions`` through the real server with a scripted model."""

import json
from typing import Any

import pytest
from openai.types import Completion
from pydantic import TypeAdapter

from pipelines.events import Format, Message
from tests.server.scripts import Json, Scripted, sdk, text
from tests.support import Running, running

COMPLETION = TypeAdapter(Completion)


async def post(server: Running, **body: Any) -> tuple[int, Json]:
    async with server.http.post(f"{server.url}/v1/completions", json={"prompt": "Once"} | body) as answer:
        return answer.status, await answer.json()


async def test_a_prompt_is_one_message_of_the_users() -> None:
    model = Scripted(text("upon ", "a time"))
    async with running(model.pipeline) as server, sdk(server) as client:
        made = await client.completions.create(model="x", prompt="Once", max_tokens=5, stop=["."], user="u", best_of=1)
    assert made.choices[0].text == "upon a time"
    assert made.choices[0].finish_reason == "stop"
    assert made.usage is not None
    assert (made.usage.prompt_tokens, made.usage.completion_tokens) == (7, 2)
    assert model.turns[0].messages == (Message("user", "Once"),)
    assert (model.turns[0].sampling.max_tokens, model.turns[0].sampling.stop) == (5, (".",))


async def test_several_prompts_have_choices_of_their_own() -> None:
    model = Scripted(text("x", reason="length"))
    async with running(model.pipeline) as server:
        _, body = await post(server, prompt=["One", "Two"], n=2, echo=True, guided_regex="x+")
    made = COMPLETION.validate_python(body, strict=True)
    assert [(each.index, each.text) for each in made.choices] == [(0, "Onex"), (1, "Onex"), (2, "Twox"), (3, "Twox")]
    assert {each.finish_reason for each in made.choices} == {"length"}
    assert made.usage is not None
    assert (made.usage.prompt_tokens, made.usage.completion_tokens) == (14, 4)
    assert {turn.format for turn in model.turns} == {Format("regex", "x+", "guided_regex")}


async def test_a_streamed_completion_is_what_the_sdk_knows() -> None:
    asked = {"prompt": "Once", "stream": True, "echo": True, "stream_options": {"include_usage": True}}
    async with (
        running(Scripted(text(" upon", " a time")).pipeline) as server,
        server.http.post(f"{server.url}/v1/completions", json=asked) as answer,
    ):
        sent = [line.removeprefix("data: ") for line in (await answer.text()).split("\n\n") if line]
    assert sent[-1] == "[DONE]"
    chunks = [json.loads(line) for line in sent[:-1]]
    assert "".join(each["choices"][0]["text"] for each in chunks[:-1]) == "Once upon a time"
    assert [each["choices"][0]["finish_reason"] for each in chunks[:-1]] == [None, None, None, "stop"]
    assert COMPLETION.validate_python(chunks[-1], strict=True).usage is not None


@pytest.mark.parametrize(
    ("asked", "param", "said"),
    [
        ({"prompt": [1, 2]}, "prompt", "no tokens"),
        ({"prompt": [[1, 2], [3]]}, "prompt", "no tokens"),
        ({"prompt": []}, "prompt", "at least 1"),
        ({"prompt": {"a": 1}}, "prompt.0", "string"),
        ({"suffix": "x"}, "suffix", "suffix"),
        ({"logprobs": 3}, "logprobs", "logprobs"),
        ({"best_of": 3}, "best_of", "best_of"),
        ({"n": 9}, "n", "8"),
        ({"prompt": ["x"] * 16, "n": 2}, "n", "16"),
    ],
)
async def test_what_can_not_be_had_is_a_400_that_names_it(asked: Json, param: str, said: str) -> None:
    async with running(Scripted(text("Hi")).pipeline) as server:
        status, body = await post(server, **asked)
    assert (status, body["error"]["param"]) == (400, param), body
    assert said in body["error"]["message"]
