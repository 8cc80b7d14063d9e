"""Calls over Media Streams: a scripted Twilio, the adapter, and the server around scripted or bundled models."""

import asyncio
import base64
import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from clients.telephony import keys, media
from clients.telephony.adapter import Line
from pipelines.listening.settings import ListeningSettings
from server.config import Settings
from tests.clients.sounds import spoken, words
from tests.clients.telephony.twilio import FORMAT, STREAM, Twilio, answering, calling, pcm_of
from tests.pipelines.listening.fakes import ScriptedRecogniser, hearing_with, silence, tone
from tests.support import ScriptedModel, ScriptedVoice, eventually, running, scripted_pipeline, scripted_speech

SAID = tone(900, 8_000)
QUIET = silence(900, 8_000)
CUT = "one two three four five six seven eight nine ten eleven twelve."


@asynccontextmanager
async def called(
    model: ScriptedModel, recogniser: ScriptedRecogniser | None = None, *, plays: bool = True, line: Line | None = None
) -> AsyncIterator[Twilio]:
    """A call that has begun, to a server with scripted models; a word takes 0.3 s."""
    hearing = hearing_with(recogniser, settings=ListeningSettings())
    pipeline = scripted_pipeline(model, hearing=hearing, speech=scripted_speech(ScriptedVoice(), paced=True))
    async with running(pipeline, Settings()) as server:
        await pipeline.wait_until(lambda: hearing.ready)
        async with answering(server.url, line) as address, calling(address, plays=plays) as call:
            await call.start()
            yield call


@pytest.mark.e2e
async def test_a_spoken_question_gets_a_spoken_answer(server_url: str) -> None:
    question = spoken(server_url, "What is the capital of France?", 8_000)
    async with answering(server_url, instructions="Answer in one short sentence.") as address, calling(address) as call:
        await call.start()
        talking = asyncio.create_task(call.say(question + silence(30_000, 8_000), speed=2))
        try:
            await eventually(lambda: len(call.sound) > 8_000, "the assistant speaks")
            size = 0
            while size < len(call.sound):  # until it has said everything
                size = len(call.sound)
                await asyncio.sleep(1.5)
        finally:
            talking.cancel()
            await asyncio.gather(talking, return_exceptions=True)
    assert "paris" in words(server_url, pcm_of(call.sound), 8_000)


@pytest.mark.e2e
async def test_a_caller_who_says_stop_is_heard_over_a_long_answer(server_url: str) -> None:
    question = spoken(server_url, "Please tell me a long story about a cat and a dog.", 8_000)
    stop = spoken(server_url, "Stop it, please.", 8_000)
    async with answering(server_url) as address, calling(address, plays=False) as call:
        await call.start()
        await call.say(question + silence(1_000, 8_000), speed=2)
        await eventually(lambda: len(call.sound) > 3 * 8_000, "the assistant speaks")
        await call.say(silence(1_500, 8_000) + stop + silence(1_000, 8_000), speed=1)
        await eventually(lambda: "clear" in call.events(), "it stops")


async def test_what_the_caller_hears_is_marked_and_marks_name_the_stream() -> None:
    async with called(ScriptedModel(["Hello ", "there."])) as call:
        await call.say(SAID + QUIET)
        await eventually(lambda: len(call.sound) >= 4_700, "two words of 0.3 s are played")
        await eventually(lambda: call.events().count("mark") == call.events().count("media"), "each piece is marked")
    assert {message["streamSid"] for message in call.received} == {STREAM}
    assert 4_700 <= len(call.sound) <= 6_100
    assert max(len(base64.b64decode(m["media"]["payload"])) for m in call.received if m["event"] == "media") <= 1_600


async def test_an_interruption_clears_and_only_what_was_played_stays_in_the_conversation() -> None:
    recogniser = ScriptedRecogniser()
    model = ScriptedModel(lambda prompt: CUT.split(" ")[0:1] + [" " + word for word in CUT.split(" ")[1:]])
    async with called(model, recogniser, plays=False) as call:
        await call.say(SAID + QUIET)
        await eventually(lambda: len(call.marks) >= 12, "2.4 s of the reply are sent")
        await call.play(5)  # at most one second of it
        await asyncio.sleep(2)  # the server, which sees no marks, takes more of it for played
        recogniser.text = "Stop!"
        await call.say(silence(300, 8_000) + tone(600, 8_000) + QUIET)
        await eventually(lambda: "clear" in call.events(), "Twilio forgets what it has not played")
        recogniser.text = "Go on."
        await call.say(silence(300, 8_000) + tone(900, 8_000) + QUIET)
        await eventually(lambda: "user: Go on." in model.prompts[-1], "the next turn is answered")
    cut = next(line for line in model.prompts[-1].splitlines() if line.startswith("assistant: "))
    assert cut in ("assistant: one two", "assistant: one two three")


async def test_without_sound_that_is_unplayed_nothing_is_cleared() -> None:
    async with called(ScriptedModel(["Hello."])) as call:
        for _ in range(2):
            before = call.events().count("mark")
            await call.say(SAID + QUIET)
            await eventually(lambda before=before: call.events().count("mark") > before, "it is answered")  # type: ignore[misc]
            await eventually(lambda: not call.marks, "all is played")
            await asyncio.sleep(0.5)
    assert "clear" not in call.events()


async def test_keys_become_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "PAUSE_SECONDS", 0.3)
    model = ScriptedModel(["Thank you."])
    async with called(model, line=Line(port=0, keys="Keys: {keys}")) as call:
        await call.press("123")
        await eventually(lambda: len(model.prompts) == 1, "the first row is answered")
        await call.press("*9#")
        await eventually(lambda: len(model.prompts) == 2, "the second row is answered")
    assert "user: Keys: 1 2 3" in model.prompts[0]
    assert "user: Keys: * 9" in model.prompts[1]


async def test_a_key_stops_the_assistant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "PAUSE_SECONDS", 0.3)
    gate = threading.Semaphore(20)
    model = ScriptedModel([f"{word} " for word in CUT.capitalize().split()] * 10, gate=gate)
    async with called(model, plays=False) as call:
        await call.say(SAID + QUIET)
        await eventually(lambda: len(call.marks) > 2, "the assistant speaks")
        await call.press("1")
        await eventually(lambda: "clear" in call.events(), "it stops")
        gate.release(1000)
        await eventually(lambda: len(model.prompts) == 2, "the key is answered")
    assert "The caller pressed 1." in model.prompts[1]


async def test_the_call_ends_with_the_callers_stop() -> None:
    async with called(ScriptedModel(["Hello."])) as call:
        await call.send(event="stop", streamSid=STREAM, stop={"accountSid": "AC1", "callSid": "CA1"})
        assert await call.closed() == 1000


HELD = [{"event": "connected"}, {"event": "start", "start": {"streamSid": STREAM, "mediaFormat": FORMAT}}]


@pytest.mark.parametrize(
    "messages",
    [
        [b"\xff\xfe"],
        ["no JSON"],
        ["[" * 50_000],
        ["[]"],
        [{"event": "media", "media": {"payload": "AAAA"}}],
        [{"event": "start"}],
        [{"event": "start", "start": {"streamSid": 5, "mediaFormat": FORMAT}}],
        [{"event": "start", "start": {"streamSid": STREAM, "mediaFormat": {**FORMAT, "sampleRate": 16_000}}}],
        [*HELD, {"event": "media"}],
        [*HELD, {"event": "media", "media": {"payload": 7}}],
        [*HELD, {"event": "media", "media": {"payload": "not base64!"}}],
        [*HELD, {"event": "media", "media": {"payload": "A" * 40_000}}],
        [*HELD, {"event": "mark", "mark": {"name": "m" * 300}}],
        [*HELD, {"event": "dtmf", "dtmf": {"digit": "x"}}],
        [*HELD, {"event": "dtmf", "dtmf": {"digit": "12"}}],
    ],
    ids=lambda messages: str(messages[-1])[:60],
)
async def test_what_is_no_call_ends_it(messages: list[Any]) -> None:
    async with (
        running(scripted_pipeline(ScriptedModel(["Hi"]), hearing=hearing_with())) as server,
        answering(server.url) as address,
        calling(address) as call,
    ):
        for message in messages:
            await call.socket.send(message if isinstance(message, str | bytes) else json.dumps(message))
        assert await call.closed() == 1007


async def test_a_message_that_is_too_large_ends_the_call() -> None:
    async with called(ScriptedModel(["Hi"])) as call:
        await call.socket.send("x" * 100_000)
        assert await call.closed() == 1009


@pytest.mark.parametrize("name", ["START_SECONDS", "SILENCE_SECONDS"])
async def test_a_call_in_which_nothing_comes_ends(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, name, 0.2)
    async with running(ScriptedModel(["Hi"])) as server, answering(server.url) as address, calling(address) as call:
        if name == "SILENCE_SECONDS":
            await call.start()
        assert await call.closed() == 1007


async def test_unknown_events_and_foreign_marks_mean_nothing() -> None:
    async with called(ScriptedModel(["Hello."])) as call:
        await call.send(event="news", streamSid=STREAM)
        await call.send(event="mark", streamSid=STREAM, mark={"name": "other"})
        await call.say(SAID + QUIET)
        await eventually(lambda: bool(call.sound), "it is answered")
