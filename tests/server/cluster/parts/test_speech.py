"""Speech from replicas: the same sound as here, and what becomes of a sentence whose replica fails."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from pipelines.events import StageError
from pipelines.speech.interface import Sentence
from pipelines.speech.settings import SpeechSettings
from pipelines.speech.voices.interface import Samples, cast
from pipelines.speech.workers import Workers
from server.cluster.members import Member
from server.cluster.parts import asking
from server.cluster.parts.elsewhere import Elsewhere
from server.cluster.parts.speech import RemoteWorkers, unpack
from server.cluster.parts.wire import END, Frame, MalformedError, error_head
from server.config import Settings
from tests.server.cluster.parts.replicas import VOICED, answered, begun, connected, misbehaving, replica, with_voice
from tests.support import ScriptedVoice, eventually

TEXT = "One two three four."
SOUND = np.linspace(-1, 1, 100, dtype=np.float32)
PIECE = Frame({"rate": 16_000, "words": []}, SOUND.tobytes())


@asynccontextmanager
async def asked(*members: Member, start: bool = True, **speech: Any) -> AsyncIterator[RemoteWorkers]:
    """What asks these replicas."""
    elsewhere = Elsewhere(Settings(speech=SpeechSettings(**speech)), ("speech",))
    workers: RemoteWorkers = elsewhere.seams["speech"]
    async with connected(elsewhere, "speech", *members, start=start):
        yield workers


async def said(workers: RemoteWorkers | Workers, text: str = TEXT, **fields: Any) -> list[Samples]:
    async with asyncio.timeout(20), aclosing(workers.say(Sentence(text, **fields))) as pieces:
        return [piece async for piece in pieces]


async def code_of(workers: RemoteWorkers, text: str = TEXT) -> tuple[str, str]:
    """How saying it fails."""
    with pytest.raises(StageError) as failed:
        await said(workers, text)
    return failed.value.kind, failed.value.code


async def test_a_replica_says_the_same_as_a_voice_that_is_here() -> None:
    here = Workers(ScriptedVoice)
    await here.start()
    voice = ScriptedVoice(speakers=("a", "b"))
    async with replica("speech", with_voice(voice)) as other, asked(other.member) as workers:
        for fields in ({}, {"speed": 1.5, "due": time.monotonic() + 1}, {"rate": 16_000}):
            expected, found = await said(here, **fields), await said(workers, **fields)
            assert [each.words for each in found] == [each.words for each in expected]
            assert all(np.array_equal(a.audio, b.audio) for a, b in zip(found, expected, strict=True))
        assert await said(workers, "") == []
        assert (await said(workers, speaker="b"))[0].audio.size
        assert voice.said[-1][1] == "b"
        assert workers.voice is not None
        assert (workers.voice.rate, workers.voice.speakers) == (16_000, ("a", "b"))
        assert other.here.load.ongoing == 0
    await here.close()


async def test_pieces_come_as_they_are_made_and_closing_drops_the_sentence() -> None:
    gate = threading.Semaphore(1)
    made = with_voice(ScriptedVoice(gate=gate))
    async with replica("speech", made) as other, asked(other.member) as workers:
        async with aclosing(workers.say(Sentence(TEXT))) as pieces:
            assert len((await asyncio.wait_for(anext(pieces), 10)).audio)
            assert (made.load.ongoing, workers.waiting) == (1, 1)
        await eventually(lambda: made.load.ongoing == 0, "the replica drops it")
        assert workers.waiting == 0
        waiting = asyncio.create_task(said(workers))
        await eventually(lambda: made.load.ongoing == 1, "it has begun")
        waiting.cancel()
        await asyncio.wait([waiting])
        await eventually(lambda: made.load.ongoing == 0, "the replica drops this one, too")
        for _ in range(10):
            gate.release()
        assert len(await said(workers)) == 4


async def test_what_is_due_is_due_by_the_replicas_own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float | None] = []
    say = Workers.say

    def noted(self: Workers, sentence: Sentence) -> Any:
        seen.append(None if sentence.due is None else sentence.due - time.monotonic())
        return say(self, sentence)

    monkeypatch.setattr(Workers, "say", noted)
    async with replica("speech", with_voice(ScriptedVoice())) as other, asked(other.member) as workers:
        await said(workers)
        await said(workers, due=time.monotonic() + 3)
    assert seen[0] is None
    assert 1 < (seen[1] or 0) <= 3


async def test_errors_of_the_voice_come_out_the_same() -> None:
    async with replica("speech", with_voice(ScriptedVoice())) as other, asked(other.member) as workers:
        assert await code_of(workers, "crash") == ("internal", "speech_failed")
        assert await code_of(workers, "x" * 200_000) == ("internal", "internal_error")
        assert len(await said(workers)) == 4, "and the next sentence is spoken"


async def test_the_least_loaded_replica_is_asked_and_one_that_leaves_no_more() -> None:
    gates = threading.Semaphore(0), threading.Semaphore(0)
    one, two = (with_voice(ScriptedVoice(gate=gate)) for gate in gates)
    async with (
        replica("speech", one) as first,
        replica("speech", two) as second,
        asked(first.member, second.member) as workers,
    ):
        saying = [asyncio.create_task(said(workers)) for _ in range(4)]
        await eventually(lambda: (one.load.ongoing, two.load.ongoing) == (2, 2), "they share the sentences")
        workers._replicas.change((second.member,))
        more = asyncio.create_task(said(workers))
        await eventually(lambda: two.load.ongoing == 3, "only the second one is asked")
        for gate in gates:
            for _ in range(20):
                gate.release()
        assert [len(await each) for each in (*saying, more)] == [4] * 5, "what the first one had is its to finish"


async def hangs(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    raise AssertionError


async def hangs_within(request: web.Request) -> web.StreamResponse:
    await begun(request, PIECE)
    return await hangs(request)


async def dies(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def dies_within(request: web.Request) -> web.StreamResponse:
    await begun(request, PIECE)
    return await dies(request)


async def ends_early(request: web.Request) -> web.StreamResponse:
    response = await begun(request, PIECE)
    await response.write_eof()
    return response


async def garbage(request: web.Request) -> web.StreamResponse:
    response = await begun(request)
    await response.write(b"\xff" * 100)
    return response


async def no_sound(request: web.Request) -> web.StreamResponse:
    return answered(Frame({"rate": 16_000, "words": []}, b"abc"), END)


async def other_rate(request: web.Request) -> web.StreamResponse:
    return answered(Frame({"rate": 8_000, "words": []}, SOUND.tobytes()), END)


async def other_format(request: web.Request) -> web.StreamResponse:
    return answered(PIECE, END, format="0")


async def a_web_server(request: web.Request) -> web.StreamResponse:
    return web.Response(text="<html>")


async def fails(request: web.Request) -> web.StreamResponse:
    return web.Response(status=500, text="x" * 100_000)


async def forbids(request: web.Request) -> web.StreamResponse:
    return web.Response(status=403)


async def shuts_down(request: web.Request) -> web.StreamResponse:
    return web.json_response(error_head(StageError("unavailable", "server_shutting_down", "x")), status=503)


async def is_full(request: web.Request) -> web.StreamResponse:
    return web.json_response(error_head(StageError("overloaded", "server_overloaded", "x", retry_after=1)), status=503)


UNHEARD = ("unavailable", "sentence_failed")
BEFORE = [hangs, dies, garbage, other_format, a_web_server, fails, forbids, shuts_down, is_full]
WITHIN = [hangs_within, dies_within, ends_early]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "FIRST_SECONDS", 0.5)
    monkeypatch.setattr(asking, "NEXT_SECONDS", 0.5)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("handler", BEFORE)
async def test_what_fails_before_its_first_piece_is_said_by_another_replica(handler: Any) -> None:
    async with (
        misbehaving(handler) as (wrong,),
        replica("speech", with_voice(ScriptedVoice())) as right,
        asked(wrong, right.member) as workers,
    ):
        for _ in range(3):
            assert len(await said(workers)) == 4


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("handler", BEFORE)
async def test_where_no_other_replica_is_left_a_clear_error_comes_soon(handler: Any) -> None:
    async with misbehaving(handler) as (wrong,), asked(wrong) as workers:
        expected = ("overloaded", "server_overloaded") if handler is is_full else UNHEARD
        assert await code_of(workers) == expected
        assert workers.waiting == 0


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("handler", WITHIN)
async def test_what_fails_within_a_sentence_is_said_by_no_other_one(handler: Any) -> None:
    async with (
        misbehaving(handler) as (wrong,),
        replica("speech", with_voice(ScriptedVoice())) as right,
        asked(wrong) as workers,
    ):
        pieces = []
        with pytest.raises(StageError) as failed:
            async with aclosing(workers.say(Sentence(TEXT))) as sound:
                async for piece in sound:
                    pieces.append(piece)
                    workers._replicas.change((wrong, right.member))
        assert (failed.value.kind, failed.value.code) == UNHEARD
        assert len(pieces) == 1
        assert np.array_equal(pieces[0].audio, SOUND)


async def test_an_error_behind_the_first_piece_comes_behind_it() -> None:
    async def fails_within(request: web.Request) -> web.StreamResponse:
        return answered(PIECE, Frame(error_head(StageError("internal", "speech_failed", "x"))))

    async with misbehaving(fails_within) as (wrong,), asked(wrong) as workers:
        pieces = []
        with pytest.raises(StageError) as failed:
            async with aclosing(workers.say(Sentence(TEXT))) as sound:
                async for piece in sound:
                    pieces.append(piece)  # noqa: PERF401
        assert (len(pieces), failed.value.code) == (1, "speech_failed")


async def test_sound_that_makes_no_sense_or_of_another_voice_is_not_played() -> None:
    async with misbehaving(no_sound) as (wrong,), asked(wrong) as workers:
        assert await code_of(workers) == ("internal", "internal_error")
    async with misbehaving(other_rate) as (wrong,), asked(wrong) as workers:
        with pytest.raises(StageError, match="can't be reached"):
            await said(workers, rate=16_000)
    for head, body in (({}, b""), ({"rate": 1, "words": []}, b"abc"), ({"rate": 1, "words": []}, b"\xff" * 4)):
        with pytest.raises(MalformedError):
            unpack(Frame(head, body))


@pytest.mark.parametrize(
    "description", [Frame(), Frame({**VOICED.head, "rate": 1}), Frame({**VOICED.head, "casts": True}), END]
)
async def test_a_replica_that_does_not_say_what_it_is_is_not_asked(description: Frame) -> None:
    async with misbehaving(hangs, description=description) as (wrong,), asked(wrong, start=False) as workers:
        starting = asyncio.create_task(workers.start())
        await asyncio.sleep(0.3)
        assert not starting.done()
        assert workers.voice is None
        assert await code_of(workers) == UNHEARD
        starting.cancel()
        await asyncio.wait([starting])


async def test_a_wrong_secret_and_another_format_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async with replica("speech", with_voice(ScriptedVoice())) as other:
        stranger = Member("x", "speech", other.member.url, "wrong")
        for change in (None, ("FORMAT", "2")):
            if change is not None:
                stranger = other.member
                monkeypatch.setattr(asking, *change)
            async with asked(stranger, start=False) as workers:
                starting = asyncio.create_task(workers.start())
                await asyncio.sleep(0.3)
                assert not starting.done()
                assert workers._replicas.why_not == "none of 1 replicas answers"
                starting.cancel()
                await asyncio.wait([starting])


async def test_a_gateway_that_starts_first_waits_for_a_replica_and_closing_ends_what_waits() -> None:
    async with asked(start=False) as workers:
        starting = asyncio.create_task(workers.start())
        await asyncio.sleep(0.05)
        assert not starting.done()
        assert workers._replicas.why_not == "there is no replica of 'speech'"
        async with misbehaving(hangs) as (other,):
            workers._replicas.change((other,))
            await asyncio.wait_for(starting, 10)
            saying = asyncio.create_task(said(workers))
            await eventually(lambda: workers.waiting == 1, "it is asked")
            await workers.close()
            with pytest.raises(StageError):
                await saying
            with pytest.raises(StageError) as closed:
                await said(workers)
            assert closed.value.code == "server_shutting_down"


async def test_who_speaks_a_language_is_chosen_by_the_gateway() -> None:
    class Many(ScriptedVoice):
        def cast(self, text: str, speaker: str) -> Any:
            raise AssertionError("the gateway does")

    voice = Many(speakers=("af_heart", "bf_emma", "ef_dora"))
    async with replica("speech", with_voice(voice)) as other, asked(other.member, engine="kokoro") as workers:
        assert workers.voice is not None
        assert cast(workers.voice, "Hello.", "ef_dora") == ("ef_dora", "es")
        assert cast(workers.voice, "Hello.", "") == ("af_heart", "en-us")
