"""The user's audio in a session's turn logic: what is heard becomes events, items and answers."""

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.events import AudioDelta, Finished, Heard, TextDelta, Usage
from pipelines.listening import events
from pipelines.listening.interface import Token, Transcript
from pipelines.listening.turns import Policy
from server.config import LimitSettings
from server.names import ModelNames, VoiceNames
from server.realtime import session
from server.realtime.session import CommitAudio, Configure, Hear, Silence, State
from tests.server.test_session import Table

Json = dict[str, Any]
SECOND = bytes(48_000)  # of audio, as PCM
PCM = bytes(32_000)  # of what was heard, a second of it
TRANSCRIBED = {"transcription": {"model": "whisper-1"}}


def table(**state: Any) -> Table:
    """A session whose audio is heard, behind its first events."""
    limits = LimitSettings(items=8, responses=3, conversation_bytes=3000, audio_seconds=5, audio_bytes=100_000)
    voices = VoiceNames("joe", (), ())
    made = Table(State("s", ModelNames("tiny"), limits, listens=True, voices=voices, **state))
    made.give(session.Connected())
    return made


def update(made: Table, **listening: Any) -> list[Json]:
    return made.send("session.update", session={"type": "realtime", "audio": {"input": listening}})


def append(made: Table, audio: bytes = SECOND) -> list[Json]:
    return made.send("input_audio_buffer.append", audio=base64.b64encode(audio).decode())


def say(made: Table, text: str | None = "Hello there.", **transcript: Any) -> list[Json]:
    """The user says something, and it is heard."""
    words = None if text is None else Transcript(text, "en", -0.1, **transcript)
    return [
        event
        for report in (
            events.SpeechStarted(1000, interrupts=False),
            events.SpeechStopped(2000),
            events.Ended(700, 2000, PCM, words),
        )
        for event in made.give(session.Heard(report))
    ]


def hears(made: Table) -> events.Hears:
    """How the session's ears were last configured."""
    return next(each.hears for each in reversed(made.asked) if isinstance(each, Configure))


def policy(made: Table) -> Policy:
    """When turns end in it."""
    found = hears(made).policy
    assert found is not None
    return found


def commit(made: Table) -> int:
    """The serial of the client's last commit."""
    return next(each.serial for each in reversed(made.asked) if isinstance(each, CommitAudio))


def kinds(given: list[Json]) -> list[str]:
    return [event["type"] for event in given]


def only(given: list[Json], kind: str) -> Json:
    (event,) = (event for event in given if event["type"] == kind)
    return event


def spoken(made: Table, response_id: str, milliseconds: int) -> list[Json]:
    """So much of a reply is said: a word every 500 ms."""
    ends = tuple(Heard(n * 12_000, 5 * n) for n in range(1, milliseconds // 500 + 1))
    text = "word " * (milliseconds // 500)
    return made.produce(response_id, AudioDelta(bytes(48 * milliseconds), text, ends))


def test_a_session_detects_turns_until_its_client_says_otherwise() -> None:
    made = table()
    detection = made.events[0]["session"]["audio"]["input"]["turn_detection"]
    assert detection == {
        "type": "server_vad",
        "threshold": 0.5,
        "prefix_padding_ms": 300,
        "silence_duration_ms": 500,
        "create_response": True,
        "interrupt_response": True,
    }
    assert policy(made) == Policy()
    assert hears(made).longest_ms == 5000


def test_turn_detection_can_be_switched_off_and_on_and_set() -> None:
    made = table()
    off = only(update(made, turn_detection=None), "session.updated")
    assert off["session"]["audio"]["input"]["turn_detection"] is None
    assert hears(made).policy is None
    semantic = only(update(made, turn_detection={"type": "semantic_vad", "eagerness": "high"}), "session.updated")
    assert semantic["session"]["audio"]["input"]["turn_detection"]["eagerness"] == "high"
    assert (policy(made).kind, policy(made).patience_ms) == ("semantic_vad", 2000)
    update(made, turn_detection={"type": "server_vad", "silence_duration_ms": 900, "idle_timeout_ms": 6000})
    assert (policy(made).kind, policy(made).silence_ms, policy(made).idle_ms, policy(made).threshold) == (
        "server_vad",
        900,
        6000,
        0.5,
    )
    update(made, turn_detection={"threshold": 0.8})
    assert (policy(made).silence_ms, policy(made).threshold) == (900, 0.8)


def test_a_turn_comes_in_the_protocols_order() -> None:
    made = table()
    update(made, **TRANSCRIBED)
    heard = say(made, "What is the capital of France?")
    assert kinds(heard) == [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        "conversation.item.input_audio_transcription.delta",
        "conversation.item.input_audio_transcription.completed",
        "response.created",
        "rate_limits.updated",
    ]
    ids = {event.get("item_id") or event.get("item", {}).get("id") for event in heard[:7]}
    assert len(ids) == 1
    assert heard[3]["item"]["content"] == [{"type": "input_audio", "transcript": None}]
    assert heard[6]["transcript"] == "What is the capital of France?"
    assert heard[6]["usage"] == {"type": "duration", "seconds": 1.0}
    (turn,) = made.turns.values()
    assert [message.content for message in turn.messages] == ["What is the capital of France?"]
    assert turn.new == (0,)


def test_without_transcription_there_are_no_events_of_it_and_an_answer_all_the_same() -> None:
    made = table()
    assert not [kind for kind in kinds(say(made)) if "transcription" in kind]
    assert len(made.turns) == 1


def test_a_client_may_create_the_responses_itself() -> None:
    made = table()
    update(made, turn_detection={"type": "server_vad", "create_response": False})
    assert "response.created" not in kinds(say(made))
    assert "response.created" in kinds(made.send("response.create"))
    (turn,) = made.turns.values()
    assert turn.messages[-1].content == "Hello there."


def test_what_could_not_be_recognised_fails_and_is_not_answered() -> None:
    made = table()
    update(made, **TRANSCRIBED)
    heard = say(made, None)
    failed = only(heard, "conversation.item.input_audio_transcription.failed")
    assert failed["error"]["code"] == "transcription_failed"
    assert made.turns == {}


def test_what_began_and_was_nothing_leaves_nothing() -> None:
    made = table()
    made.give(session.Heard(events.SpeechStarted(0, interrupts=False)))
    made.give(session.Heard(events.SpeechStopped(300)))
    assert made.give(session.Heard(events.SpeechDropped())) == []
    assert made.state.items == ()


class TestByHand:
    """Turns that the client ends."""

    @pytest.fixture
    def made(self) -> Table:
        made = table()
        update(made, turn_detection=None, **TRANSCRIBED)
        return made

    def test_a_commit_is_an_item_at_once_and_its_words_follow(self, made: Table) -> None:
        append(made)
        committed = made.send("input_audio_buffer.commit")
        assert kinds(committed) == [
            "input_audio_buffer.committed",
            "conversation.item.added",
            "conversation.item.done",
        ]
        heard = made.give(session.Heard(events.Transcribed(commit(made), PCM, Transcript("Hello."))))
        assert only(heard, "conversation.item.input_audio_transcription.completed")["transcript"] == "Hello."
        assert made.turns == {}

    def test_a_response_waits_for_the_words_of_what_was_committed(self, made: Table) -> None:
        append(made)
        made.send("input_audio_buffer.commit")
        created = made.send("response.create", response={"metadata": {"client_event_id": "7"}})
        assert kinds(created) == ["response.created", "rate_limits.updated"]
        assert made.turns == {}
        made.give(session.Heard(events.Transcribed(commit(made), PCM, Transcript("Hello."))))
        (turn,) = made.turns.values()
        assert turn.messages[-1].content == "Hello."
        assert turn.speech is not None

    def test_a_response_to_nothing_said_fails(self, made: Table) -> None:
        append(made)
        made.send("input_audio_buffer.commit")
        made.send("response.create")
        heard = made.give(session.Heard(events.Transcribed(commit(made), PCM, Transcript(""))))
        assert only(heard, "conversation.item.input_audio_transcription.failed")["error"]["code"] == "no_speech"
        done = only(heard, "response.done")["response"]
        assert (done["status"], done["status_details"]["error"]["code"]) == ("failed", "no_speech")

    def test_a_response_that_waits_can_be_cancelled(self, made: Table) -> None:
        append(made)
        made.send("input_audio_buffer.commit")
        serial = commit(made)
        made.send("response.create")
        cancelled = only(made.send("response.cancel"), "response.done")
        assert cancelled["response"]["status"] == "cancelled"
        made.give(session.Heard(events.Transcribed(serial, PCM, Transcript("Hello."))))
        assert made.turns == {}

    def test_a_commit_of_nothing_is_an_error(self, made: Table) -> None:
        (error,) = made.send("input_audio_buffer.commit")
        assert error["error"]["code"] == "input_audio_buffer_commit_empty"
        append(made)
        made.send("input_audio_buffer.clear")
        (error,) = made.send("input_audio_buffer.commit")
        assert error["error"]["code"] == "input_audio_buffer_commit_empty"

    def test_more_audio_than_a_turn_may_have_is_one_error(self, made: Table) -> None:
        answers = [append(made) for _ in range(9)]
        assert [kinds(given) for given in answers] == [[]] * 5 + [["error"]] + [[]] * 3
        assert answers[5][0]["error"]["code"] == "input_audio_too_long"
        made.send("input_audio_buffer.commit")
        assert append(made) == []
        assert isinstance(made.asked[-1], Hear)


@pytest.mark.parametrize("audio", ["not base64!", "AAA", "QQ=Q", "é"])
def test_audio_that_is_not_base64_is_an_error(audio: str) -> None:
    (error,) = table().send("input_audio_buffer.append", audio=audio)
    assert (error["error"]["code"], error["error"]["param"]) == ("invalid_value", "audio")


class TestInterruption:
    """Speech over a reply."""

    @pytest.fixture
    def made(self) -> Table:
        made = table()
        say(made)
        spoken(made, next(iter(made.turns)), 4000)
        return made

    def test_it_cancels_the_reply_and_takes_back_what_was_not_heard(self, made: Table) -> None:
        response_id = next(iter(made.turns))
        heard = made.give(session.Heard(events.SpeechStarted(5000, interrupts=True, unheard=2500)))
        assert kinds(heard) == [
            "input_audio_buffer.speech_started",
            "response.output_audio.done",
            "response.output_audio_transcript.done",
            "response.content_part.done",
            "response.output_item.done",
            "conversation.item.done",
            "response.done",
            "conversation.item.truncated",
        ]
        done = heard[6]["response"]
        assert done["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
        assert heard[7]["audio_end_ms"] == 1500
        assert made.stopped == {response_id}
        assert Silence() in made.asked
        say(made, "And Germany?")
        turn = list(made.turns.values())[-1]
        assert [message.content for message in turn.messages] == ["Hello there.", "word word word ", "And Germany?"]

    def test_an_order_to_stop_is_done_and_not_answered(self, made: Table) -> None:
        made.give(session.Heard(events.SpeechStarted(5000, interrupts=True, unheard=2500)))
        made.give(session.Heard(events.SpeechStopped(5600)))
        heard = made.give(session.Heard(events.Ended(4700, 5600, PCM, Transcript("Stop!"), order=True)))
        assert "conversation.item.done" in kinds(heard)
        assert len(made.turns) == 1, "it is part of the conversation, and nothing is said to it"

    def test_a_reply_that_is_done_and_still_heard_is_cut_as_well(self, made: Table) -> None:
        made.produce(next(iter(made.turns)), Finished("stop", Usage(1, 0, 1)))
        heard = made.give(session.Heard(events.SpeechStarted(5000, interrupts=True, unheard=1000)))
        assert kinds(heard) == ["input_audio_buffer.speech_started", "conversation.item.truncated"]
        assert heard[1]["audio_end_ms"] == 3000

    def test_a_client_that_truncates_too_can_only_take_more_back(self, made: Table) -> None:
        made.give(session.Heard(events.SpeechStarted(5000, interrupts=True, unheard=2500)))
        item = made.events[-1]["item_id"]
        cut = made.send("conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=3000)
        assert only(cut, "conversation.item.truncated")["audio_end_ms"] == 1500

    def test_where_it_does_not_interrupt_the_answer_comes_behind_the_reply(self, made: Table) -> None:
        update(made, turn_detection={"type": "server_vad", "interrupt_response": False})
        first = next(iter(made.turns))
        say(made, "And Germany?")
        assert len(made.turns) == 1
        ended = made.produce(first, Finished("stop", Usage(1, 0, 1)))
        assert kinds(ended)[-2:] == ["response.created", "rate_limits.updated"]
        assert list(made.turns.values())[1].messages[-1].content == "And Germany?"


def test_the_users_audio_can_be_retrieved_while_it_is_stored() -> None:
    made = table()
    update(made, turn_detection={"type": "server_vad", "create_response": False})
    ids = [only(say(made), "input_audio_buffer.committed")["item_id"] for _ in range(5)]
    part = only(made.send("conversation.item.retrieve", item_id=ids[-1]), "conversation.item.retrieved")["item"]
    assert part["content"][0]["transcript"] == "Hello there."
    assert len(base64.b64decode(part["content"][0]["audio"])) == 48_000
    oldest = only(made.send("conversation.item.retrieve", item_id=ids[0]), "conversation.item.retrieved")["item"]
    assert "audio" not in oldest["content"][0], "the oldest made room"


def test_log_probabilities_come_where_they_are_wanted() -> None:
    made = table()
    made.send(
        "session.update",
        session={
            "type": "realtime",
            "include": ["item.input_audio_transcription.logprobs"],
            "audio": {"input": TRANSCRIBED},
        },
    )
    assert hears(made).request.tokens
    heard = say(made, "Hi", tokens=(Token("Hi", -0.2),))
    completed = only(heard, "conversation.item.input_audio_transcription.completed")
    assert completed["logprobs"] == [{"token": "Hi", "logprob": -0.2, "bytes": [72, 105]}]


def test_a_transcription_session_only_recognises() -> None:
    made = table(transcribes=True)
    assert made.events[0]["session"]["type"] == "transcription"
    assert [event["type"] for event in made.events] == ["session.created"]
    made.send("session.update", session={"type": "transcription", "audio": {"input": TRANSCRIBED}})
    made.give(session.Heard(events.SpeechStarted(0, interrupts=False)))
    assert only(made.give(session.Heard(events.Partial("What is"))), made_of("delta"))["delta"] == "What is"
    made.give(session.Heard(events.SpeechStopped(900)))
    heard = made.give(session.Heard(events.Ended(0, 900, PCM, Transcript("What is it?"))))
    deltas = [event["delta"] for event in made.events if event["type"] == made_of("delta")]
    assert "".join(deltas) == only(heard, made_of("completed"))["transcript"]
    assert made.turns == {}
    (error,) = made.send("response.create")
    assert error["error"]["code"] == "transcription_session"


def made_of(what: str) -> str:
    return f"conversation.item.input_audio_transcription.{what}"


def test_the_silence_of_a_user_is_answered_where_the_client_wants_that() -> None:
    made = table()
    update(made, turn_detection={"type": "server_vad", "idle_timeout_ms": 6000})
    heard = made.give(session.Heard(events.Idle(0, 6000)))
    assert kinds(heard)[0] == "input_audio_buffer.timeout_triggered"
    assert "response.created" in kinds(heard)


def test_a_full_conversation_says_so_and_goes_on() -> None:
    made = table()
    made.send("session.update", session={"type": "realtime", "truncation": "disabled"})
    update(made, turn_detection={"type": "server_vad", "create_response": False})
    heard = [say(made) for _ in range(9)]
    assert only(heard[8], "error")["error"]["code"] == "conversation_full"


REPORTS = st.sampled_from(
    [
        events.SpeechStarted(100, interrupts=False),
        events.SpeechStarted(100, interrupts=True, unheard=700),
        events.SpeechStopped(900),
        events.SpeechDropped(),
        events.Partial("Hello"),
        events.Ended(0, 900, PCM, Transcript("Hello there.")),
        events.Ended(0, 900, PCM, Transcript("")),
        events.Ended(0, 900, PCM, None),
        events.Idle(0, 6000),
    ]
)


@given(
    st.lists(
        REPORTS
        | st.integers(1, 9).map(lambda serial: events.Transcribed(serial, PCM, Transcript("Words.")))
        | st.sampled_from(
            ["append", "commit", "clear", "create", "cancel", "manual", "vad", "sound", "end", "truncate"]
        ),
        max_size=40,
    )
)
def test_whatever_is_heard_the_session_keeps_its_promises(given: list[events.Report | str]) -> None:
    made = table()
    for each in given:
        replying = made.state.active
        match each:
            case "append":
                append(made)
            case "commit" | "clear":
                made.send(f"input_audio_buffer.{each}")
            case "create" | "cancel":
                made.send(f"response.{each}")
            case "manual":
                update(made, turn_detection=None, **TRANSCRIBED)
            case "vad":
                update(made, turn_detection={"type": "server_vad"})
            case "sound" if replying is not None and replying.id in made.turns:
                spoken(made, replying.id, 1000)
            case "end" if replying is not None and replying.id in made.turns:
                made.produce(replying.id, TextDelta("end."), Finished("stop", Usage(1, 0, 1)))
            case "truncate" if made.state.last_spoken is not None:
                made.send(
                    "conversation.item.truncate",
                    item_id=made.state.last_spoken,
                    content_index=0,
                    audio_end_ms=300,
                )
            case str():
                pass
            case _:
                made.give(session.Heard(each))
    made.give(session.Disconnected())
    created = [event["response"]["id"] for event in made.events if event["type"] == "response.created"]
    done = [event["response"]["id"] for event in made.events if event["type"] == "response.done"]
    assert sorted(created) == sorted(done), "each response that is created is done, once"
    added = [event["item"]["id"] for event in made.events if event["type"] == "conversation.item.added"]
    finished = [event["item"]["id"] for event in made.events if event["type"] == "conversation.item.done"]
    assert sorted(added) == sorted(finished)
    assert made.state.held == sum(item.size for item in made.state.items)
    assert set(made.state.audio) <= {item.id for item in made.state.items}
    assert sum(map(len, made.state.audio.values())) <= made.state.limits.audio_bytes
