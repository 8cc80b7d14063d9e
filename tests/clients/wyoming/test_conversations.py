"""Conversations: one a satellite, which go on, ask, and are forgotten."""

from typing import Any

import pytest
from wyoming.asr import Transcript
from wyoming.event import Event

from clients.conversations import Conversations, TooManyError
from clients.target import Target
from clients.wyoming.handling import asks, handle
from tests.clients.wyoming import home_assistant
from tests.clients.wyoming.support import adapting, exchange, kinds
from tests.support import FreeClock, ScriptedModel, running


def asked(text: str, **context: Any) -> Event:
    return Transcript(text, context=context or None).event()


async def test_a_satellites_second_message_goes_on_with_its_conversation() -> None:
    model = ScriptedModel(["Fine."])
    async with running(model) as server, adapting(server.url) as port:
        for ids in ({"conversation_id": "a", "device_id": "x"}, {"device_id": "x"}, {"satellite_id": "y"}, {}):
            for text in ("Hello there.", "And now?"):
                await home_assistant.converse(port, text, **ids)
    firsts, seconds = model.prompts[::2], model.prompts[1::2]
    assert all(prompt.count("Hello there.") == 1 for prompt in model.prompts)
    assert all("And now?" not in prompt for prompt in firsts)
    assert all("And now?" in prompt for prompt in seconds)


async def test_an_answer_streams_and_comes_whole_before_the_streams_end() -> None:
    async with running(ScriptedModel(["It ", "is ", "on."])) as server, adapting(server.url) as port:
        found = await exchange(port, asked("Is it?", conversation_id="a"), last=("handled-stop",))
    chunks = "".join(event.data["text"] for event in found if event.type == "handled-chunk")
    assert kinds(found)[0] == "handled-start"
    assert kinds(found)[-2:] == ["handled", "handled-stop"]
    assert chunks == found[-2].data["text"] == "It is on."


@pytest.mark.parametrize(("reply", "goes_on"), [("Which light?", True), ("The light is on.", False)])
async def test_a_question_lets_the_user_answer_without_the_wake_word(reply: str, goes_on: bool) -> None:
    async with running(ScriptedModel([reply])) as server, adapting(server.url) as port:
        answer = await home_assistant.converse(port, "Turn it on.", conversation_id="a", device_id="x")
    assert answer.data["context"] == {"conversation_id": "a", "device_id": "x", "continue_conversation": goes_on}


@pytest.mark.parametrize(
    ("reply", "is_question"),
    [("Which one?", True), ("**Which one?**\n", True), ("“Why?”", True), ("哪个？", True), ("Why? Because.", False)],
)
def test_what_ends_with_a_question_asks(reply: str, is_question: bool) -> None:
    assert asks(reply) is is_question


@pytest.mark.parametrize("text", ["", " \n", "x" * 70_000])
async def test_what_can_not_be_answered_is_not_handled(text: str) -> None:
    async with running(ScriptedModel(["Fine."])) as server, adapting(server.url) as port:
        (event,) = await exchange(port, asked(text), last=("not-handled", "error"))
    assert event.type == ("error" if text.startswith("x") else "not-handled")


async def test_a_reply_that_fails_is_not_handled_and_the_conversation_goes_on() -> None:
    def reply(prompt: str) -> list[str]:
        if prompt.endswith("crash"):
            raise RuntimeError("the model crashed")
        return ["Fine."]

    model = ScriptedModel(reply)
    async with running(model) as server, adapting(server.url) as port:
        kinds = [(await home_assistant.converse(port, text, device_id="x")).type for text in ("One.", "crash", "Two.")]
    assert kinds == ["handled", "not-handled", "handled"]
    assert "One." in model.prompts[-1]


async def test_a_session_that_the_server_has_ended_is_opened_anew() -> None:
    model = ScriptedModel(["Fine."])
    found: list[Event] = []

    async def send(event: Event) -> None:
        found.append(event)

    async with running(model) as server:
        conversations = Conversations(Target.of(url=server.url))
        await handle(conversations, asked("One.", device_id="x"), send)
        async with conversations.use("x") as use:
            await (await use.session())._link.close()
        await handle(conversations, asked("Two.", device_id="x"), send)
        async with conversations.use("x") as use:
            await use.close()
    assert kinds(found) == 2 * ["handled-start", "handled-chunk", "handled", "handled-stop"]
    assert "One." not in model.prompts[-1]


async def test_conversations_are_bounded_in_number_and_idle_time() -> None:
    clock = FreeClock()
    async with running(ScriptedModel(["Fine."])) as server:
        target = Target.of(url=server.url)
        held = Conversations(target, most=2, idle=300, clock=clock)
        sessions = {}
        for name in ("a", "b", "c"):
            clock.now += 10
            async with held.use(name) as use:
                sessions[name] = await use.session()
        assert len(held) == 2
        async with held.use("b") as use:
            assert await use.session() is sessions["b"], "the oldest one was forgotten, not this one"
        async with held.use("b"), held.use("c"):
            with pytest.raises(TooManyError):
                async with held.use("d"):
                    pass
        clock.now += 299
        await held.sweep()
        assert len(held) == 2
        clock.now += 2
        await held.sweep()
        assert len(held) == 0
