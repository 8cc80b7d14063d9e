"""Calls over ConversationRelay: text both ways, between a scripted Twilio and the server."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from clients.telephony import keys, relay
from clients.telephony.adapter import Line
from tests.clients.telephony.twilio import Twilio, answering, calling
from tests.support import ScriptedModel, eventually, running

SETUP = {
    "type": "setup",
    "sessionId": "VX1",
    "callSid": "CA1",
    "from": "+15551234567",
    "to": "+15557654321",
    "customParameters": {},
}


@asynccontextmanager
async def called(model: ScriptedModel, line: Line | None = None) -> AsyncIterator[Twilio]:
    """A call that is set up, to a server with a scripted model."""
    async with (
        running(model) as server,
        answering(server.url, line) as address,
        calling(address, "/relay") as call,
    ):
        await call.send(**SETUP)
        yield call


async def prompt(call: Twilio, text: str, *, last: bool = True) -> None:
    await call.send(type="prompt", voicePrompt=text, lang="en-US", last=last)


def said(call: Twilio) -> list[str]:
    """What was said so far, reply by reply; the last one may still be spoken."""
    replies = [""]
    for message in call.received:
        replies[-1] += message["token"]
        if message["last"]:
            replies.append("")
    return replies


@pytest.mark.e2e
async def test_a_question_is_answered_token_by_token(server_url: str) -> None:
    async with (
        answering(server_url, instructions="Answer in one short sentence.") as address,
        calling(address, "/relay") as call,
    ):
        await call.send(**SETUP)
        await prompt(call, "What is the capital of France?")
        await eventually(lambda: bool(call.received) and call.received[-1]["last"], "the reply ends")
    assert "Paris" in said(call)[0]
    assert len(call.received) > 2
    assert {message["type"] for message in call.received} == {"text"}


async def test_a_call_is_one_conversation_and_partial_prompts_are_not_answered() -> None:
    model = ScriptedModel(["Fine."])
    async with called(model) as call:
        await prompt(call, "How", last=False)
        await prompt(call, "How are you?")
        await eventually(lambda: len(said(call)) == 2, "the first reply ends")
        await prompt(call, "Really?")
        await eventually(lambda: len(said(call)) == 3, "the second reply ends")
    assert said(call) == ["Fine.", "Fine.", ""]
    assert model.prompts[-1].splitlines() == ["user: How are you?", "assistant: Fine.", "user: Really?"]


async def test_after_an_interruption_only_what_was_heard_stays_in_the_conversation() -> None:
    gate = threading.Semaphore(6)
    counted = [f"{word} " for word in "one two three four five six seven eight nine ten".split()]  # noqa: SIM905
    model = ScriptedModel(lambda prompt: ["Fine."] if "Go on." in prompt else counted, gate=gate)
    async with called(model) as call:
        await prompt(call, "Count.")
        await eventually(lambda: "three" in said(call)[-1], "some words are sent")
        await call.send(type="interrupt", utteranceUntilInterrupt="one two", durationUntilInterruptMs="460")
        await prompt(call, "Go on.")
        await asyncio.sleep(0.2)
        gate.release(100)
        await eventually(lambda: "Fine." in said(call)[0], "the next prompt is answered")
    assert "eight" not in said(call)[0]
    assert model.prompts[-1].splitlines() == ["user: Count.", "assistant: one two", "user: Go on."]


async def test_a_reply_of_which_nothing_was_heard_leaves_the_conversation() -> None:
    model = ScriptedModel(["Fine."])
    async with called(model) as call:
        await prompt(call, "How are you?")
        await eventually(lambda: len(said(call)) == 2, "the reply ends")
        await call.send(type="interrupt", utteranceUntilInterrupt="", durationUntilInterruptMs="0")
        await prompt(call, "Hello?")
        await eventually(lambda: len(said(call)) == 3, "the second reply ends")
    assert model.prompts[-1].splitlines() == ["user: How are you?", "user: Hello?"]


async def test_keys_become_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "PAUSE_SECONDS", 0.2)
    model = ScriptedModel(["Fine."])
    async with called(model) as call:
        for key in "42":
            await call.send(type="dtmf", digit=key)
        await eventually(lambda: len(said(call)) == 2, "it is answered")
    assert model.prompts == ["user: The caller pressed 4 2."]


async def test_a_reply_that_fails_is_an_apology_and_the_call_goes_on() -> None:
    def reply(prompt: str) -> list[str]:
        if prompt.endswith("crash"):
            raise RuntimeError("the model crashed")
        return ["Fine."]

    async with called(ScriptedModel(reply)) as call:
        for text in ("One.", "crash", "Two."):
            before = len(said(call))
            await prompt(call, text)
            await eventually(lambda before=before: len(said(call)) > before, "the reply ends")  # type: ignore[misc]
        await call.send(type="error", description="Twilio could not say it")
    assert said(call) == ["Fine.", relay.APOLOGY, "Fine.", ""]


async def test_a_call_that_takes_too_long_is_ended() -> None:
    async with called(ScriptedModel(["Fine."]), Line(port=0, seconds=0.5)) as call:
        assert await call.closed() == 1000
    assert call.received == [{"type": "end"}]


@pytest.mark.parametrize(
    "message",
    [
        {"type": "prompt", "voicePrompt": "Hello?"},
        {"type": "setup", "then": {"type": "prompt"}},
        {"type": "setup", "then": {"type": "prompt", "voicePrompt": ["a"]}},
        {"type": "setup", "then": {"type": "prompt", "voicePrompt": "a" * 20_000}},
        {"type": "setup", "then": {"type": "interrupt"}},
        {"type": "setup", "then": {"type": "dtmf", "digit": "11"}},
        {"type": "setup", "then": {"type": "error"}},
    ],
    ids=lambda message: str(message)[:60],
)
async def test_what_is_no_call_ends_it(message: dict[str, object]) -> None:
    then = message.pop("then", None)
    async with (
        running(ScriptedModel(["Hi"])) as server,
        answering(server.url) as address,
        calling(address, "/relay") as call,
    ):
        await call.send(**message)
        if isinstance(then, dict):
            await call.send(**then)
        assert await call.closed() == 1007


async def test_of_prompts_that_come_at_once_the_last_is_answered() -> None:
    model = ScriptedModel(lambda prompt: [f"So you say {prompt.splitlines()[-1].removeprefix('user: ')}"])
    async with called(model) as call:
        for text in ("One.", "Two.", "Three."):
            await prompt(call, text)
        await eventually(lambda: len(said(call)) == 2, "the last prompt is answered")
    assert said(call) == ["So you say Three.", ""]
