"""The Python library, as an app uses it: against the real server, and against servers that are none."""

import asyncio
import json
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

import loquent
from loquent import Done, Heard, Picture, Screening, Session, Settings, Sound, Text, ToolCall
from pipelines.anomaly.settings import AnomalySettings
from pipelines.events import Message
from pipelines.image.weights import Drawer
from server.access.keys import new_key
from server.config import ServerSettings, SessionsSettings, hash_key
from server.config import Settings as ServerConfig
from tests.documents import blocks
from tests.pipelines.listening.fakes import ScriptedRecogniser, hearing_with, tone
from tests.server.scripts import Scripted, call, calls, text
from tests.support import (
    ROOT,
    ScriptedModel,
    ScriptedVoice,
    drawing,
    echo,
    eventually,
    run,
    running,
    screening,
    scripted_pipeline,
    scripted_speech,
)

LIBRARY = str(ROOT / "clients/python")
COUNT = [f"{number} " for number in range(40)]
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather in a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
WORD = 14_400  # bytes of sound of the scripted voice's words: 0.3 s


async def whole(session: Session, question: str) -> str:
    """A whole reply, whose pieces add up."""
    pieces = [piece async for piece in session.ask(question)]
    done = pieces[-1]
    assert isinstance(done, Done)
    assert done.text == said(pieces)
    return done.text.strip()


def said(pieces: list[loquent.Piece]) -> str:
    return "".join(piece.text for piece in pieces if isinstance(piece, Text))


# --- replies ---------------------------------------------------------------------------------------------------------


async def test_a_reply_comes_in_pieces_and_ends_with_how_it_ended() -> None:
    gate = threading.Semaphore(2)  # the server may hold a piece back until it knows the next one
    model = ScriptedModel(["Hel", "lo, ", "you."], gate=gate)
    async with running(model) as server, loquent.connect(server.url) as session:
        pieces: list[loquent.Piece] = []
        async for piece in session.ask("Hi"):
            pieces.append(piece)
            gate.release()  # so the first piece came before the model wrote the last one
        assert session.model
    *written, done = pieces
    assert len(written) > 1
    assert said(written) == "Hello, you."
    assert isinstance(done, Done)
    assert (done.text, done.status, done.reason) == ("Hello, you.", "completed", None)
    assert done.usage["output_tokens"] == 3


async def test_a_conversation_goes_on_from_question_to_question_with_its_settings() -> None:
    model = ScriptedModel(echo)
    async with (
        running(model) as server,
        loquent.connect(server.url, settings=Settings(instructions="Be brief.")) as session,
    ):
        assert await whole(session, "one") == "one"
        await session.update(Settings(instructions="Be long."))
        assert await whole(session, "two") == "two"
    assert model.prompts[0].startswith("system: Be brief.")
    assert model.prompts[1].splitlines()[0] == "system: Be long."
    assert "user: one" in model.prompts[1]


async def test_settings_that_can_not_be_had_are_warnings_and_invalid_ones_are_refused() -> None:
    async with running(ScriptedModel(echo)) as server:
        async with loquent.connect(server.url, settings=Settings(spoken=True)) as session:
            assert len(session.warnings) == 1
            with pytest.raises(loquent.RefusedError) as refused:
                await session.update(Settings(temperature=7))
            assert refused.value.code == "invalid_value"
            assert await whole(session, "Still there?") == "Still there?"
        with pytest.raises(loquent.RefusedError, match="temperature"):
            async with loquent.connect(server.url, settings=Settings(temperature=7)):
                pass


async def test_a_reply_that_fails_says_why_and_the_next_one_comes() -> None:
    def fails(prompt: str) -> list[str]:
        if prompt.endswith("crash"):
            raise RuntimeError("no such luck")
        return echo(prompt)

    async with running(ScriptedModel(fails)) as server, loquent.connect(server.url) as session:
        with pytest.raises(loquent.RefusedError) as failed:
            await whole(session, "crash")
        assert failed.value.code == "generation_failed"
        with pytest.raises(loquent.RefusedError, match="70"):
            await whole(session, "x" * 70_000)
        assert await whole(session, "on we go") == "on we go"


async def test_functions_are_called_and_answered() -> None:
    stage = Scripted(calls(call("call_1", "weather", '{"city": ', '"Rome"}')))
    async with (
        running(stage.pipeline) as server,
        loquent.connect(server.url, settings=Settings(tools=[WEATHER])) as session,
    ):
        pieces = [piece async for piece in session.ask("Weather in Rome?")]
        assert pieces[0] == ToolCall("call_1", "weather", '{"city": "Rome"}')
        assert isinstance(pieces[1], Done)
        stage.follow(text("It is ", "sunny."))
        pieces = [piece async for piece in session.answer({"call_1": "sunny"})]
    assert said(pieces) == "It is sunny."
    assert stage.turns[1].messages[-1] == Message("tool", "sunny", call_id="call_1")
    offered = stage.turns[0].tools
    assert offered is not None
    assert [tool.name for tool in offered.tools] == ["weather"]


async def test_pictures_and_verdicts_come_before_the_end(minilm: Path, drawer: Drawer) -> None:
    pipeline = scripted_pipeline(ScriptedModel(echo), anomaly=screening(mode="enforce"), image=drawing(minilm, drawer))
    config = ServerConfig(anomaly=AnomalySettings(verdicts=True))
    async with running(pipeline, config) as server:
        await pipeline.wait_until(lambda: all(part.ready() for part in pipeline.parts))
        async with loquent.connect(server.url, settings=Settings(verdicts=True)) as session:
            pieces = [piece async for piece in session.ask("draw a happy cat")]
    (picture,) = [piece for piece in pieces if isinstance(piece, Picture)]
    (found,) = [piece for piece in pieces if isinstance(piece, Screening)]
    assert "cat" in picture.caption
    assert picture.url.startswith(server.url)
    assert found.action in ("allow", "flag")
    assert "p_value" in found.verdicts[0]
    assert isinstance(pieces[-1], Done)


# --- cancelling ------------------------------------------------------------------------------------------------------


async def test_a_reply_that_is_cancelled_ends_as_that() -> None:
    gate = threading.Semaphore(3)
    async with running(ScriptedModel(COUNT, gate=gate)) as server, loquent.connect(server.url) as session:
        pieces: list[loquent.Piece] = []
        async for piece in session.ask("Count"):
            pieces.append(piece)
            if isinstance(piece, Text) and said(pieces).startswith("0 1"):
                await session.cancel()
        gate.release(100)
    done = pieces[-1]
    assert isinstance(done, Done)
    assert (done.status, done.reason) == ("cancelled", "client_cancelled")
    assert done.text == said(pieces)
    assert done.text.startswith("0 1")
    assert "3" not in done.text


@pytest.mark.parametrize("holds", [False, True], ids=["its reader is gone", "its reader holds it"])
async def test_leaving_the_loop_cancels_the_reply_and_the_next_question_has_its_own(holds: bool) -> None:
    gate = threading.Semaphore(2)
    model = ScriptedModel(lambda prompt: COUNT if prompt.endswith("Count") else echo(prompt), gate=gate)
    async with running(model) as server, loquent.connect(server.url) as session:
        reply = session.ask("Count")
        async for _ in reply:
            break
        if not holds:
            del reply
            await eventually(lambda: server.backend.metrics.running == 0, "the reply stops though nothing is asked")
        gate.release(100)
        assert await whole(session, "second") == "second"
        if holds:
            assert [piece async for piece in reply] == []
        assert await whole(session, "third") == "third"


@pytest.mark.parametrize("begun", [False, True])
async def test_a_question_whose_task_is_cancelled_leaves_the_next_one_its_answer(begun: bool) -> None:
    gate = threading.Semaphore(0)
    model = ScriptedModel(lambda prompt: COUNT if prompt.endswith("Count") else echo(prompt), gate=gate)
    async with running(model) as server, loquent.connect(server.url) as session:
        asking = asyncio.create_task(whole(session, "Count"))
        if begun:
            await eventually(lambda: server.engine.running == 1, "it is being answered")
        else:
            await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        gate.release(200)
        assert await whole(session, "second") == "second"


async def test_one_session_streams_one_reply_at_a_time_and_two_sessions_two() -> None:
    gate = threading.Semaphore(0)
    async with (
        running(ScriptedModel(echo, gate=gate)) as server,
        loquent.connect(server.url) as one,
        loquent.connect(server.url) as other,
    ):
        asking = asyncio.create_task(whole(one, "first of one"))
        beside = asyncio.create_task(whole(other, "first of the other"))
        await eventually(lambda: server.backend.metrics.running == 2, "both are being answered")
        with pytest.raises(loquent.UsageError, match="one reply at a time"):
            await whole(one, "second of one")
        gate.release(100)
        assert list(await asyncio.gather(asking, beside)) == ["first of one", "first of the other"]


# --- sound -----------------------------------------------------------------------------------------------------------


async def test_a_spoken_reply_comes_as_sound_and_what_was_not_heard_is_forgotten() -> None:
    model = ScriptedModel(lambda prompt: ["One ", "two ", "three."] if prompt.endswith("Count") else echo(prompt))
    pipeline = scripted_pipeline(model, speech=scripted_speech(ScriptedVoice()))
    async with running(pipeline) as server, loquent.connect(server.url, settings=Settings(spoken=True)) as session:
        pieces = [piece async for piece in session.ask("Count")]
        sound = b"".join(piece.pcm for piece in pieces if isinstance(piece, Sound))
        assert len(sound) == pytest.approx(3 * WORD, rel=0.1)
        assert said(pieces) == "One two three."
        await session.heard(400)
        await whole(session, "What did I hear?")
    assert "assistant: One\n" in model.prompts[-1]


async def test_the_users_sound_is_recognised_and_answered() -> None:
    pipeline = scripted_pipeline(ScriptedModel(echo), hearing=hearing_with(ScriptedRecogniser("Good morning.")))
    async with running(pipeline) as server:
        ears = server.backend.hearing
        assert ears is not None
        await pipeline.wait_until(lambda: ears.ready)
        async with loquent.connect(server.url, settings=Settings(push_to_talk=True)) as session:
            await session.append(tone(1_500))
            pieces = [piece async for piece in session.answer_sound()]
    assert Heard("Good morning.") in pieces
    assert said(pieces).strip() == "Good morning."


# --- coming back -----------------------------------------------------------------------------------------------------


async def test_a_reply_over_a_socket_that_breaks_is_whole() -> None:
    gate = threading.Semaphore(3)
    reports: list[str] = []
    async with (
        running(ScriptedModel(COUNT, gate=gate)) as server,
        loquent.connect(server.url, report=reports.append) as session,
    ):
        pieces: list[loquent.Piece] = []
        async for piece in session.ask("Count"):
            pieces.append(piece)
            if not reports and said(pieces).startswith("0 1"):
                session._link._socket.transport.abort()
                gate.release(100)
    assert said(pieces) == "".join(COUNT)
    assert reports == ["The connection was lost; coming back …"]


async def test_another_process_comes_back_to_the_rest_of_a_reply() -> None:
    gate = threading.Semaphore(3)
    async with running(ScriptedModel(COUNT, gate=gate)) as server:
        pieces: list[loquent.Piece] = []
        async with loquent.connect(server.url, settings=Settings(instructions="Count.")) as session:
            async for piece in session.ask("Count"):
                pieces.append(piece)
                if said(pieces).startswith("0 1"):
                    bookmark = await session.leave()
                    break
        await eventually(lambda: len(server.backend.live) == 1, "the session waits")
        gate.release(200)
        async with loquent.connect(server.url, resume=bookmark) as session:
            assert session.model
            pieces += [piece async for piece in session.rest()]
            assert [piece async for piece in session.rest()] == []
            assert await whole(session, "Again") == "".join(COUNT).strip()
    done = pieces[-1]
    assert isinstance(done, Done)
    assert said(pieces) == done.text == "".join(COUNT)


async def test_who_comes_back_and_asks_something_else_gets_that() -> None:
    gate = threading.Semaphore(1)
    model = ScriptedModel(lambda prompt: COUNT if prompt.endswith("Count") else echo(prompt), gate=gate)
    async with running(model) as server:
        async with loquent.connect(server.url) as session:
            async for _ in session.ask("Count"):
                bookmark = await session.leave()
                break
        async with loquent.connect(server.url, resume=bookmark) as session:
            gate.release(200)
            assert await whole(session, "other") == "other"


async def test_a_session_that_is_over_can_not_be_resumed() -> None:
    async with running(ScriptedModel(echo)) as server:
        async with loquent.connect(server.url) as session:
            await whole(session, "Hi")
            bookmark = session.bookmark
        with pytest.raises(loquent.ConnectionFailedError) as lost:
            async with loquent.connect(server.url, resume=bookmark):
                pass
        assert lost.value.code == "session_not_found"
        with pytest.raises(loquent.UsageError, match="bookmark"):
            async with loquent.connect(server.url, resume="nonsense"):
                pass


async def test_a_server_that_lets_no_session_wait_has_no_bookmarks() -> None:
    config = ServerConfig(sessions=SessionsSettings(linger=0))
    async with running(ScriptedModel(echo), config) as server, loquent.connect(server.url) as session:
        await whole(session, "Hi")
        assert session.bookmark == ""


# --- what goes wrong -------------------------------------------------------------------------------------------------


async def test_a_server_with_keys_takes_a_right_one_alone() -> None:
    key = new_key()
    config = ServerConfig(server=ServerSettings(keys=(hash_key(key),)))
    async with running(ScriptedModel(echo), config) as server:
        for wrong in (None, "lq-wrong"):
            with pytest.raises(loquent.ConnectionFailedError, match="requires a key") as refused:
                async with loquent.connect(server.url, key=wrong):
                    pass
            assert refused.value.code == "invalid_api_key"
        async with loquent.connect(server.url, key=key) as session:
            assert await whole(session, "Hi") == "Hi"


async def test_a_server_that_goes_away_amid_a_conversation_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loquent.link.BACK_SECONDS", 0.3)
    async with running(ScriptedModel(echo)) as server:
        opening = loquent.connect(server.url)
        session = await opening.__aenter__()
        await whole(session, "Hi")
    with pytest.raises(loquent.ConnectionFailedError) as lost:
        await whole(session, "Still there?")
    assert lost.value.code in ("gone", "shutting_down")
    await opening.__aexit__(None, None, None)
    with pytest.raises(loquent.ConnectionFailedError, match="no server at") as nowhere:
        async with loquent.connect(server.url):
            pass
    assert nowhere.value.code == "unreachable"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"url": "127.0.0.1:8700"}, "invalid_url"),
        ({"url": "ftp://x"}, "invalid_url"),
        ({"url": "http://x:87000"}, "invalid_url"),
        ({"url": ""}, "invalid_url"),
        ({"key": "two\nlines"}, "invalid_key"),
        ({"resume": ""}, "invalid_bookmark"),
    ],
)
async def test_an_argument_that_can_not_be_right_is_said(arguments: dict[str, str], code: str) -> None:
    with pytest.raises(loquent.UsageError) as wrong:
        async with loquent.connect(**arguments):  # type: ignore[arg-type]
            pass
    assert wrong.value.code == code


Behaviour = Callable[[ServerConnection], Coroutine[Any, Any, None]]
CREATED = {
    "type": "session.created",
    "event_id": "event_1",
    "session": {"id": "sess_1", "model": "m"},
}


@asynccontextmanager
async def server_that(behave: Behaviour) -> AsyncIterator[str]:
    """The address of a websocket server that is none of ours."""
    async with serve(behave, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


def answering(*answers: Any) -> Behaviour:
    """Greet; to the events that follow answer with these in turn, an answer's events in a list."""

    async def behave(socket: ServerConnection) -> None:
        await socket.send(json.dumps(CREATED))
        for answer in answers:
            await socket.recv()
            for event in answer if isinstance(answer, list) else [answer]:
                await socket.send(event if isinstance(event, str | bytes) else json.dumps(event))
        await socket.wait_closed()

    return behave


def sending(message: str | bytes) -> Behaviour:
    async def behave(socket: ServerConnection) -> None:
        await socket.send(message)
        await socket.wait_closed()

    return behave


@pytest.mark.parametrize(
    "greeting",
    [
        "",
        "hello",
        "[]",
        "[" * 100_000,
        '{"event_id": "event_1"}',
        '{"type": 5}',
        '{"type": "session.created"}',
        '{"type": "session.created", "session": []}',
        '{"type": "session.created", "session": {"id": 1}}',
        '{"type": "error", "error": "no"}',
        b"\x00\xff",
        b"{}",
        "x" * (5 * 1024 * 1024),
    ],
    ids=range(13),
)
async def test_a_greeting_that_is_none_is_said(greeting: str | bytes) -> None:
    async with server_that(sending(greeting)) as url:
        with pytest.raises(loquent.ConnectionFailedError) as wrong:
            async with loquent.connect(url):
                pass
    assert wrong.value.code == "malformed"


ITEM = {"type": "conversation.item.done"}
BEGUN = {"type": "response.created", "response": {"id": "r"}}


@pytest.mark.parametrize(
    "event",
    [
        {"type": "response.output_text.delta", "response_id": "r"},
        {"type": "response.output_text.delta", "response_id": "r", "delta": 5},
        {"type": "response.output_audio.delta", "response_id": "r", "item_id": "i", "delta": "no base64!"},
        {"type": "response.output_audio.delta", "response_id": "r", "delta": "AAAA"},
        {"type": "response.output_item.done", "response_id": "r", "item": {"type": "function_call"}},
        {"type": "response.done", "response": {"id": "r"}},
        {"type": "response.done", "response": 7},
        {"type": "response.done", "response": {"id": "r", "status": "completed", "loquent": {"images": 5}}},
        {"type": "response.done", "response": {"id": "r", "status": "completed", "loquent": {"images": [5]}}},
        {"type": "response.done", "response": {"id": "r", "status": "completed", "usage": "much"}},
        "no JSON",
        b"\xff",
    ],
    ids=range(12),
)
async def test_an_event_amid_a_reply_that_is_malformed_is_an_error_and_no_end(event: Any) -> None:
    async with server_that(answering(ITEM, [BEGUN, event])) as url, loquent.connect(url, settings={}) as session:
        with pytest.raises(loquent.ConnectionFailedError) as wrong:
            await whole(session, "Hi")
    assert wrong.value.code == "malformed"


async def test_events_that_are_unknown_are_ignored() -> None:
    unknown = {"type": "response.output_smell.delta", "response_id": "r", "delta": 5}
    odd = {"type": "rate_limits.updated", "event_id": 7}
    delta = {"type": "response.output_text.delta", "response_id": "r", "delta": "Hi"}
    other = delta | {"response_id": "another", "delta": "Not this"}
    done = {"type": "response.done", "response": {"id": "r", "status": "completed", "smell": []}}
    behave = answering([odd, ITEM], [unknown, BEGUN, unknown, delta, other, odd, done])
    async with server_that(behave) as url, loquent.connect(url, settings={}) as session:
        assert [piece async for piece in session.ask("Hi")] == [Text("Hi"), Done("Hi", "completed", None, {})]


async def silent(socket: ServerConnection) -> None:
    await socket.wait_closed()


async def chatter(socket: ServerConnection) -> None:
    while True:
        await socket.send('{"type": "nothing"}')
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("behave", [silent, chatter, answering(), answering(ITEM), answering(ITEM, BEGUN)])
async def test_a_server_that_does_not_answer_is_given_up(behave: Behaviour) -> None:
    async with server_that(behave) as url:
        with pytest.raises(loquent.ConnectionFailedError, match="does not answer") as wrong:
            async with loquent.connect(url, silence=0.2, settings={}) as session:
                await whole(session, "Hi")
    assert wrong.value.code == "no_answer"


async def test_what_speaks_no_websocket_is_no_server() -> None:
    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        writer.close()

    async with await asyncio.start_server(shout, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(loquent.ConnectionFailedError, match="no server at"):
            async with loquent.connect(f"http://127.0.0.1:{port}"):
                pass


async def test_a_session_leaves_no_task_behind() -> None:
    done = {"type": "response.done", "response": {"id": "r", "status": "cancelled"}}
    delta = {"type": "response.output_text.delta", "response_id": "r", "delta": "Hi"}
    async with server_that(answering(ITEM, [BEGUN, delta], done)) as url:
        before = asyncio.all_tasks()
        async with loquent.connect(url, settings={}) as session:
            async for _ in session.ask("Count"):
                break
            await asyncio.sleep(0)
        await eventually(lambda: asyncio.all_tasks() <= before, "every task has ended")


async def test_the_example_of_the_documentation_runs() -> None:
    (program,) = [block for language, block in blocks("docs/clients.md") if language == "python"]
    assert "http://127.0.0.1:8700" in program
    async with running(ScriptedModel(["Par", "is."])) as server:
        program = program.replace("http://127.0.0.1:8700", server.url)
        done = await asyncio.to_thread(run, sys.executable, "-c", program, PYTHONPATH=LIBRARY)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Paris.\n(completed, 2 tokens)\n"


def test_the_library_imports_nothing_but_websockets() -> None:
    done = run(sys.executable, "-c", "import sys, loquent; print(*sys.modules)", PYTHONPATH=LIBRARY)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "websockets" in loaded, done.stderr
    assert not loaded & {"torch", "aiohttp", "rich", "prompt_toolkit", "platformdirs", "pydantic", "clients", "server"}
