import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.events import Usage
from server.realtime import wire
from server.realtime.wire import CLIENT_EVENTS, SERVER_EVENTS, WireError, merge, parse
from tests.support import user, validate

Json = dict[str, Any]

CLIENT_SAMPLES: dict[str, Json] = {
    "session.update": {"session": {"instructions": "Be kind"}},
    "conversation.item.create": {"item": user("Hi") | {"id": "mine"}, "previous_item_id": "root"},
    "conversation.item.delete": {"item_id": "mine"},
    "conversation.item.retrieve": {"item_id": "mine"},
    "conversation.item.truncate": {"item_id": "mine", "content_index": 0, "audio_end_ms": 5},
    "loquent.feedback": {"item_id": "mine", "rating": "up", "comment": "Just what I wanted."},
    "input_audio_buffer.append": {"audio": "AAAA"},
    "input_audio_buffer.commit": {},
    "input_audio_buffer.clear": {},
    "output_audio_buffer.clear": {},
    "response.create": {"response": {"conversation": "none", "input": [user("Hi")], "metadata": {"a": "b"}}},
    "response.cancel": {"response_id": "r"},
}

ITEM = wire.Item(id="i", type="message", role="user", content=[wire.Content(type="input_text", text="Hi")])
REPLY = wire.Item(
    id="i",
    type="message",
    role="assistant",
    content=[wire.Content(type="output_text", text='é"\n')],
    status="completed",
)
CALL = wire.Item(id="i", type="function_call", status="completed", call_id="c", name="now", arguments="{}")
RESPONSE = wire.Response(
    id="r",
    status="completed",
    output=[REPLY],
    conversation_id="c",
    output_modalities=["text"],
    max_output_tokens="inf",
    metadata={"a": "b"},
    usage=wire.ResponseUsage.of(Usage(5, 3, 2)),
)
OF_PART: Json = {"response_id": "r", "item_id": "i"}
SERVER_SAMPLES: list[wire.ServerEvent] = [
    wire.Error(error=wire.ErrorBody(type="invalid_request_error", code="c", message="m", event_id="e")),
    wire.SessionCreated(session=wire.Session(id="s", model="tiny")),
    wire.SessionCreated(
        session=wire.Session(id="s"), loquent=wire.Resumable(session="sess_1", resume_token="sess_1.token")
    ),
    wire.SessionUpdated(session=wire.Session(id="s"), loquent=wire.SessionNotes(warnings=["w"])),
    wire.SessionUpdated(
        session=wire.Session(id="s"), loquent=wire.SessionNotes(resumed=wire.Resumed(complete=False, items=["i"]))
    ),
    wire.ConversationCreated(conversation=wire.Conversation(id="c")),
    wire.ItemAdded(previous_item_id=None, item=ITEM),
    wire.ItemDone(previous_item_id="p", item=REPLY),
    wire.ItemDeleted(item_id="i"),
    wire.ItemRetrieved(item=ITEM),
    wire.ItemRetrieved(
        item=REPLY.model_copy(
            update={"loquent": wire.ItemNotes(feedback=wire.Feedback(rating="down", comment="No."))},
        )
    ),
    wire.ItemTruncated(item_id="i", content_index=0, audio_end_ms=0),
    wire.FeedbackRecorded(item_id="i", rating="up"),
    wire.FeedbackRecorded(item_id="i", rating=None),
    wire.AudioCleared(),
    wire.SpeechStarted(audio_start_ms=320, item_id="item_1"),
    wire.SpeechStopped(audio_end_ms=1800, item_id="item_1"),
    wire.AudioCommitted(previous_item_id=None, item_id="item_1"),
    wire.TimeoutTriggered(audio_start_ms=0, audio_end_ms=6000, item_id="item_1"),
    wire.TranscriptionDelta(
        item_id="item_1", delta="Hi", logprobs=[wire.TokenLogprob(token="Hi", logprob=-0.1, bytes=[72, 105])]
    ),
    wire.TranscriptionCompleted(item_id="item_1", transcript="Hi", usage=wire.DurationUsage(seconds=1.5)),
    wire.TranscriptionFailed(
        item_id="item_1", error=wire.TranscriptionError(type="server_error", code="transcription_failed", message="No.")
    ),
    wire.ResponseCreated(response=RESPONSE.model_copy(update={"status": "in_progress", "output": [], "usage": None})),
    wire.ResponseCreated(response=RESPONSE, loquent=wire.ResponseNotes(queue=wire.Queue(ahead=3))),
    wire.ResponseDone(response=RESPONSE),
    wire.RateLimits(),
    wire.OutputItemAdded(response_id="r", item=REPLY),
    wire.OutputItemDone(response_id="r", item=REPLY),
    wire.OutputItemDone(response_id="r", output_index=1, item=CALL),
    wire.PartAdded(**OF_PART, part=wire.ContentPart(text="")),
    wire.PartDone(**OF_PART, part=wire.ContentPart(text="x")),
    wire.TextDelta(**OF_PART, delta="x"),
    wire.TextDone(**OF_PART, text="x"),
    wire.AudioDelta(**OF_PART, delta="AAAA"),
    wire.AudioDone(**OF_PART),
    wire.TranscriptDelta(**OF_PART, delta="x"),
    wire.TranscriptDone(**OF_PART, transcript="x"),
    wire.ArgumentsDelta(**OF_PART, output_index=1, call_id="c", delta="{"),
    wire.ArgumentsDone(**OF_PART, output_index=1, call_id="c", name="now", arguments="{}"),
]


def read(type: str, **fields: Any) -> wire.ClientEvent:
    return parse(json.dumps({"type": type, **fields}), message_bytes=2000)


def refusal(raw: str | bytes) -> WireError:
    with pytest.raises(WireError) as refused:
        parse(raw, message_bytes=2000)
    return refused.value


def test_the_tables_name_every_event_class() -> None:
    assert set(CLIENT_SAMPLES) == set(CLIENT_EVENTS)
    assert {type(event) for event in SERVER_SAMPLES} == set(SERVER_EVENTS.values())
    client = {kind for kind in wire.ClientEvent.__subclasses__() if not kind.__name__.startswith("_")}
    assert client == set(CLIENT_EVENTS.values())


@pytest.mark.parametrize("type", CLIENT_SAMPLES)
def test_a_client_event_round_trips(type: str) -> None:
    event = read(type, event_id="e", **CLIENT_SAMPLES[type])
    assert event.__class__ is CLIENT_EVENTS[type]
    assert event.event_id == "e"
    again = parse(event.model_dump_json(exclude_none=True), message_bytes=2000)
    assert again == event


@pytest.mark.parametrize("event", SERVER_SAMPLES, ids=lambda event: str(event.type))
def test_a_server_event_round_trips_and_is_one_that_the_sdk_knows(event: wire.ServerEvent) -> None:
    told = json.loads(wire.dump(event, "event_1"))
    assert told["event_id"] == "event_1"
    validate(told)
    assert SERVER_EVENTS[told["type"]].model_validate(told) == event


def test_what_a_response_says_it_always_says() -> None:
    sample = next(event for event in SERVER_SAMPLES if isinstance(event, wire.ResponseCreated))
    told = json.loads(wire.dump(sample, "e"))["response"]
    assert told["status_details"] is None
    assert told["output"] == []
    assert told["metadata"] == {"a": "b"}
    assert "usage" in told
    assert RESPONSE.usage is not None
    assert RESPONSE.usage.total_tokens == 7


@pytest.mark.parametrize(
    ("raw", "code", "param"),
    [
        ("{", "invalid_json", None),
        ("[" * 1500, "invalid_json", None),
        ("[" * 5000, "message_too_large", None),
        ("[]", "invalid_json", None),
        ('"x"', "invalid_json", None),
        (b"\xff\xfe", "invalid_json", None),
        ('{"type": NaN}', "invalid_json", None),
        ("{}", "missing_required_parameter", "type"),
        ('{"type": 5}', "unknown_event", "type"),
        ('{"type": "response.crate"}', "unknown_event", "type"),
        ('{"type": "response.created"}', "unknown_event", "type"),
        ('{"type": "conversation.item.create"}', "missing_required_parameter", "item"),
        ('{"type": "conversation.item.delete", "item_id": 5}', "invalid_value", "item_id"),
        ('{"type": "conversation.item.create", "item": {"type": "message"}}', "missing_required_parameter", "item"),
        ('{"type": "response.create", "response": {"max_output_tokens": "5"}}', "invalid_value", None),
        ('{"type": "response.create", "response": {"metadata": {"a": 1}}}', "invalid_value", "response.metadata.a"),
        ('{"type": "response.create", "response": {"loquent": {"x": 1}}}', "unknown_parameter", "response.loquent.x"),
    ],
)
def test_what_is_no_event_is_an_error_that_says_where(raw: str | bytes, code: str, param: str | None) -> None:
    error = refusal(raw)
    assert error.code == code
    if param:
        assert error.param == param


@pytest.mark.parametrize(
    "part", [{"type": "input_image", "image_url": "data:"}, {"type": "input_audio", "audio": "AA"}]
)
def test_content_that_no_model_here_reads_is_refused(part: Json) -> None:
    item = {"type": "message", "role": "user", "content": [part]}
    error = refusal(json.dumps({"type": "conversation.item.create", "item": item}))
    assert (error.code, error.param) == ("unsupported_content", "item.content.0")


def test_an_error_names_the_clients_event() -> None:
    assert refusal('{"type": "nonsense", "event_id": "mine"}').event_id == "mine"
    assert refusal('{"type": "conversation.item.delete", "event_id": "mine"}').event_id == "mine"


def test_unknown_keys_of_newer_clients_are_ignored() -> None:
    event = read("response.create", response={"prompt_cache": "x", "instructions": "y"}, trace=1)
    assert isinstance(event, wire.ResponseCreate)
    assert event.response is not None
    assert event.response.instructions == "y"


def test_only_audio_may_be_large() -> None:
    audio = json.dumps({"type": "input_audio_buffer.append", "audio": "A" * 4000})
    assert isinstance(parse(audio, message_bytes=2000), wire.AudioAppend)
    error = refusal(json.dumps({"type": "conversation.item.create", "item": user("x" * 4000), "event_id": "big"}))
    assert (error.code, error.event_id) == ("message_too_large", "big")


def test_a_large_event_that_only_says_that_it_is_audio_is_refused_unread() -> None:
    junk = '{"type": "input_audio_buffer.append", "audio": "AA", "event_id": "big", "junk": [' + "[]," * 2000 + "[]]}"
    with pytest.raises(WireError) as refused:
        parse(junk, message_bytes=2000)
    assert (refused.value.code, refused.value.event_id) == ("message_too_large", None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_whatever_arrives_is_an_event_or_a_clear_error(raw: bytes) -> None:
    with suppress(WireError):  # any other exception fails the test
        assert parse(raw, message_bytes=1000).type in CLIENT_EVENTS


@given(st.sampled_from(sorted(CLIENT_EVENTS)), st.dictionaries(st.sampled_from(["item", "response", "session"]), JSON))
def test_whatever_stands_in_an_event_is_an_event_or_a_clear_error(type: str, fields: Json) -> None:
    with suppress(WireError):
        assert read(type, **fields).type == type


@pytest.mark.parametrize(
    ("below", "above", "merged"),
    [
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}}, {"a": {"b": 1, "c": 3}}),
        ({"a": {"b": 1}}, {"a": None}, {"a": None}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({}, {"a": {"b": None}}, {"a": {"b": None}}),
    ],
)
def test_merging_is_deep_and_null_replaces(below: Json, above: Json, merged: Json) -> None:
    assert merge(below, above) == merged
