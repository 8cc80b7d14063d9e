"""A stage of another distribution, installed beside the server and used as its users would."""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from itertools import pairwise
from pathlib import Path

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loquent_mask import ADDRESS, MaskStage
from websockets.asyncio.client import connect

from pipelines.events import Event, Finished, Message, TextDelta, TextDone, Turn, Usage
from pipelines.flow import Next, flow
from tests.support import ROOT, START_SECONDS, Client, environment_with, realtime, run, started, text_of

ASKS = "List three made-up email addresses."
ENVIRONMENT = {
    "LOQUENT__PIPELINE__STAGES": '["mask", "chat"]',
    "LOQUENT__STAGES__MASK__MASK": "(hidden)",
    "LOQUENT__CHAT__MAX_TOKENS": "60",
    "LOQUENT__CHAT__REPETITION_PENALTY": "1.0",  # so that the reply repeats an address
}


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the server's packages, and the example installed into it."""
    return environment_with(ROOT / "examples/stage", tmp_path_factory.mktemp("environment"))


@pytest.fixture(scope="module")
def address(python: Path) -> Iterator[str]:
    """A server with the stage, in a process of its own."""
    with started([str(python), "-m", "server.commands"], ENVIRONMENT, cwd=Path("/")) as address:
        yield address


@pytest.mark.e2e
@pytest.mark.timeout(START_SECONDS)
async def test_the_address_is_masked_over_realtime_sse_and_http(address: str) -> None:
    async with connect(realtime(address), compression=None) as socket:
        client = Client(socket)
        await client.greet()
        written = text_of(await client.ask(ASKS))
    _check(written)
    body = {"messages": [{"role": "user", "content": ASKS}]}
    async with aiohttp.ClientSession() as http:
        async with http.post(f"{address}/v1/chat/completions", json=body) as answer:
            _check((await answer.json())["choices"][0]["message"]["content"])
        async with http.post(f"{address}/v1/chat/completions", json=body | {"stream": True}) as answer:
            lines = [line[6:] async for line in answer.content if line.startswith(b"data: {")]
    _check("".join(json.loads(line)["choices"][0]["delta"].get("content", "") for line in lines))


def _check(reply: str) -> None:
    assert "(hidden)" in reply
    assert not ADDRESS.search(reply)


def test_its_settings_are_checked_by_its_own_model(python: Path) -> None:
    checked = run(python, "-m", "server.commands", "config", "check", env=ENVIRONMENT)
    assert checked.returncode == 0, checked.stderr
    assert "stages.mask.mask" in checked.stdout
    wrong = run(python, "-m", "server.commands", "config", "check", env=ENVIRONMENT, LOQUENT__STAGES__MASK__MSK="x")
    assert wrong.returncode == 2
    assert "stages.mask.msk" in wrong.stderr


async def _masked(pieces: list[str], asked: str = "") -> tuple[str, str]:
    """What the model reads, and what the client sees of its reply."""
    read: list[str] = []

    async def model(turn: Turn, next: Next) -> AsyncGenerator[Event]:
        read.extend(message.content for message in turn.messages)
        for piece in pieces:
            yield TextDelta(piece)
        yield TextDone()
        yield Finished("stop", Usage())

    async with flow(Turn("t", (Message("user", asked),)), [MaskStage("***"), model]) as events:
        told = [event async for event in events]
    assert isinstance(told[-1], Finished)
    assert isinstance(told[-2], TextDone), "all of the text came before"
    return read[0], "".join(event.text for event in told if isinstance(event, TextDelta))


async def test_the_model_reads_no_address() -> None:
    assert (await _masked(["Yes."], "Write to anna@example.org, please."))[0] == "Write to ***, please."


@given(st.lists(st.integers(0, 40), max_size=6))
def test_the_reply_is_the_same_however_it_is_cut(cuts: list[int]) -> None:
    text = "Write to bob.b@mail.example.org or to eve@x.example."
    ends = [0, *sorted(cuts), len(text)]
    pieces = [text[begin:end] for begin, end in pairwise(ends)]
    assert asyncio.run(_masked(pieces))[1] == "Write to *** or to ***."
