"""The turn logic: whatever comes in whatever order, every reply is told whole and once."""

import json
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.events import (
    AudioDelta,
    CallDelta,
    CallDone,
    CallStarted,
    Event,
    Finished,
    Heard,
    Message,
    Picture,
    Sampling,
    Speech,
    StageError,
    Started,
    TextDelta,
    TextDone,
    Tool,
    ToolCall,
    ToolUse,
    Turn,
    Usage,
)
from server.config import LimitSettings
from server.names import ModelNames, VoiceNames
from server.realtime import session, wire
from server.realtime.session import Begin, Output, State, Stop, advance
from server.realtime.wire import parse
from tests.support import SPOKEN_END, sound_of, user, validate

Json = dict[str, Any]


@dataclass
class Table:
    """A session on paper: gives it inputs, keeps what it puts out, and holds it to its promises."""

    state: State = field(
        default_factory=lambda: State(
            id="s",
            names=ModelNames("tiny"),
            limits=LimitSettings(items=8, responses=3, conversation_bytes=1500),
        )
    )
    events: list[Json] = field(default_factory=list)
    turns: dict[str, Turn] = field(default_factory=dict)
    stopped: set[str] = field(default_factory=set)
    asked: list[Output] = field(default_factory=list)  # of the session's ears

    def give(self, given: session.Input) -> list[Json]:
        """Apply one input; returns the events it caused, as a client reads them."""
        self.state, outputs = advance(self.state, given)
        caused = [self._take(output) for output in outputs]
        events = [event for event in caused if event is not None]
        self.events += events
        return events

    def send(self, type: str, **fields: Any) -> list[Json]:
        """A client's event, by way of the wire."""

        try:
            return self.give(parse(json.dumps({"type": type, **fields}), message_bytes=4096))
        except wire.WireError as error:
            return self.give(session.Rejected(error))

    def produce(self, response_id: str, *produced: Event) -> list[Json]:
        return [event for one in produced for event in self.give(session.Produced(response_id, one))]

    def _take(self, output: Output) -> Json | None:
        if isinstance(output, Begin):
            self.turns[output.response_id] = output.turn
            return None
        if isinstance(output, Stop):
            self.stopped.add(output.response_id)
            return None
        if not isinstance(output, wire.ServerEvent):
            self.asked.append(output)
            return None
        event: Json = json.loads(wire.dump(output, "event_1"))
        validate(event)
        return event

    def check(self) -> None:
        """The promises, over everything that was told."""
        told = [e["response"]["id"] for e in self.events if e["type"] == "response.created"]
        for response_id in told:
            self._check_response(response_id)
        assert [id for id in told if id in self.turns] == list(self.turns)
        failed = {e["response"]["id"] for e in self.events if e.get("response", {}).get("status") == "failed"}
        assert set(told) - set(self.turns) <= failed, "a response that runs no turn has failed at once"
        done = [e["response"]["id"] for e in self.events if e["type"] == "response.done"]
        assert len(done) == len(set(done))
        active = {reply.id for reply in self.state.replies}
        assert set(told) == set(done) | active
        assert sum(not reply.out_of_band for reply in self.state.replies) <= 1
        ids = [item.id for item in self.state.items]
        assert len(ids) == len(set(ids))
        assert len(ids) <= self.state.limits.items
        assert set(self.state.sounds) <= set(ids), "what was deleted is forgotten"
        for kind in ("conversation.item", "response.output_item"):
            self._check_pairs(kind)
        assert self.state.held == sum(item.size for item in self.state.items)

    def _check_pairs(self, kind: str) -> None:
        open_items = {reply.item_id for reply in self.state.replies if reply.opened}
        open_items |= {reply.call.item_id for reply in self.state.replies if reply.call}
        added = [e["item"]["id"] for e in self.events if e["type"] == f"{kind}.added"]
        done = [e["item"]["id"] for e in self.events if e["type"] == f"{kind}.done"]
        still_open = list(added)
        for id in done:
            assert id in still_open, f"{kind} {id} was done before it was added"
            still_open.remove(id)
        assert set(still_open) <= open_items

    def _check_response(self, response_id: str) -> None:
        mine = [
            event
            for event in self.events
            if event.get("response_id") == response_id or event.get("response", {}).get("id") == response_id
        ]
        kinds = [event["type"].removeprefix("response.") for event in mine]
        assert kinds[0] == "created"
        spoken = mine[0]["response"]["output_modalities"] == ["audio"]
        if response_id in self.turns:
            assert spoken == (self.turns[response_id].speech is not None)
        items = self._by_item(mine)
        calls = [events for events in items if events[0]["item"]["type"] == "function_call"]
        assert items[len(items) - len(calls) :] == calls, "no message follows a call"
        assert len(items) - len(calls) <= 1
        for index, events in enumerate(items):
            assert {event["output_index"] for event in events} == {index}
            (self._check_call if events in calls else self._check_message)(events, spoken)
        if kinds[-1] != "done":
            assert kinds.count("output_item.added") - kinds.count("output_item.done") <= 1
            return
        response = mine[-1]["response"]
        assert response["status"] != "in_progress"
        assert response["usage"]["total_tokens"] == sum(
            response["usage"][side] for side in ("input_tokens", "output_tokens")
        )
        assert response["output"] == [events[-1]["item"] for events in items]
        if response["status"] == "completed":
            assert items, "what is completed has an item"
            assert calls or response["output"][0]["status"] == "completed"

    def _by_item(self, mine: list[Json]) -> list[list[Json]]:
        """The events of each item, which follow each other; the last one may be open."""
        items: list[list[Json]] = []
        for event in mine:
            if event["type"] == "response.output_item.added":
                assert not items or items[-1][-1]["type"] == "response.output_item.done"
                items.append([event])
            elif "output_index" in event:
                assert items[-1][-1]["type"] != "response.output_item.done"
                items[-1].append(event)
        for events in items:
            assert {event.get("item_id", event.get("item", {}).get("id")) for event in events} == {
                events[0]["item"]["id"]
            }
        return items

    def _check_message(self, events: list[Json], spoken: bool) -> None:
        kinds = [event["type"].removeprefix("response.") for event in events]
        word = "output_audio_transcript" if spoken else "output_text"
        text = "".join(event["delta"] for event in events if event["type"] == f"response.{word}.delta")
        assert kinds[:2] == ["output_item.added", "content_part.added"][: len(kinds)]
        deltas = {f"{word}.delta", *(["output_audio.delta"] if spoken else [])}
        if kinds[-1] != "output_item.done":
            assert set(kinds[2:]) <= deltas
            return
        last = ["output_audio.done"] if spoken else []
        last += [f"{word}.done", "content_part.done", "output_item.done"]
        assert kinds[-len(last) :] == last
        assert set(kinds[2 : -len(last)]) <= deltas
        key, kind = ("transcript", "output_audio") if spoken else ("text", "output_text")
        assert [event[key] for event in events if event["type"] == f"response.{word}.done"] == [text]
        assert events[-1]["item"]["content"] == [{"type": kind, key: text}]

    def _check_call(self, events: list[Json], spoken: bool) -> None:
        kinds = [event["type"].removeprefix("response.") for event in events]
        arguments = "".join(event.get("delta", "") for event in events)
        delta, done = "function_call_arguments.delta", "function_call_arguments.done"
        if kinds[-1] != "output_item.done":
            assert set(kinds[1:]) <= {delta}
            return
        assert kinds[-2:] == [done, "output_item.done"]
        assert set(kinds[1:-2]) <= {delta}
        item = events[-1]["item"]
        assert item["arguments"] == events[-2]["arguments"] == arguments
        assert (item["name"], item["call_id"]) == (events[-2]["name"], events[-2]["call_id"])
        assert item["status"] in ("completed", "incomplete")


IDS = st.sampled_from(["a", "b", "c", "d", "item_s1", "item_s2", "item_s3", "item_s5", "nobody", ""])
TEXT = st.text("ab \n€", max_size=4)
CONTENT = st.lists(st.fixed_dictionaries({"type": st.just("input_text"), "text": TEXT}), max_size=2)
TOOLS: list[Json] = [{"type": "function", "name": "now"}, {"name": "then"}, {"type": "mcp", "server_label": "x"}]
CHOICES = st.sampled_from(
    ["auto", "none", "required", {"type": "function", "name": "now"}, {"type": "mcp", "server_label": "x"}]
)
ITEMS = (
    st.fixed_dictionaries(
        {"type": st.just("message"), "role": st.sampled_from(["user", "system", "assistant"]), "content": CONTENT},
        optional={"id": IDS},
    )
    | st.fixed_dictionaries(
        {"type": st.just("function_call_output"), "call_id": TEXT, "output": TEXT}, optional={"id": IDS}
    )
    | st.fixed_dictionaries(
        {"type": st.just("function_call"), "name": st.just("now"), "arguments": st.sampled_from(["{}", "[", "[]", ""])},
        optional={"id": IDS, "call_id": TEXT},
    )
)
RESPONSES = st.fixed_dictionaries(
    {},
    optional={
        "conversation": st.sampled_from(["auto", "none"]),
        "input": st.lists(ITEMS | st.fixed_dictionaries({"type": st.just("item_reference"), "id": IDS}), max_size=2),
        "instructions": TEXT,
        "metadata": st.dictionaries(TEXT, TEXT, max_size=1),
        "tools": st.lists(st.sampled_from(TOOLS), max_size=2),
        "tool_choice": CHOICES,
        "max_output_tokens": st.sampled_from([1, 7, "inf", 0, "seven"]),
        "output_modalities": st.sampled_from([["text"], ["audio"], ["audio"], ["text", "audio"]]),
        "audio": st.fixed_dictionaries({"output": st.fixed_dictionaries({"voice": TEXT})}),
    },
)


def step(name: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, Json]]:
    return st.tuples(st.just(name), st.fixed_dictionaries(fields))


PRODUCED = st.sampled_from(
    [
        Started(5),
        TextDelta("x"),
        TextDelta("€ y", 3),
        TextDone(),
        CallStarted("c1", "now"),
        CallStarted("c2", "then"),
        CallDelta("c1", '{"a'),
        CallDelta("c2", "{"),
        CallDone(ToolCall("c1", "now", '{"a":1}')),
        CallDone(ToolCall("c2", "then", "{}")),
        Finished("tool_calls", Usage(5, 0, 9)),
        Finished("stop", Usage(5, 0, 9)),
        Finished("length", Usage(5, 0, 9)),
    ]
)
STEPS = st.one_of(
    step("conversation.item.create", item=ITEMS),
    step("conversation.item.create", item=ITEMS, previous_item_id=IDS),
    step("conversation.item.delete", item_id=IDS),
    step("conversation.item.retrieve", item_id=IDS),
    step("conversation.item.truncate", item_id=IDS, content_index=st.just(0), audio_end_ms=st.integers(-1, 9)),
    step(
        "loquent.feedback",
        item_id=IDS,
        rating=st.sampled_from(["up", "down", None, "sideways"]),
        comment=st.sampled_from([None, "", "No.", "x" * 1001]),
    ),
    step(
        "session.update", session=st.dictionaries(st.sampled_from(["instructions", "tools", "audio"]), TEXT, max_size=2)
    ),
    step("session.update", session=st.fixed_dictionaries({"modalities": st.just(["text"])})),
    step("session.update", session=st.fixed_dictionaries({"tools": st.just(TOOLS), "tool_choice": CHOICES})),
    step("response.create", response=RESPONSES),
    step("response.create"),
    step("response.cancel"),
    step("response.cancel", response_id=st.sampled_from(["resp_s1", "resp_s3", "resp_s5", "nobody"])),
    step("input_audio_buffer.append", audio=TEXT),
    step("input_audio_buffer.commit"),
    step("input_audio_buffer.clear"),
    step("output_audio_buffer.clear"),
    step("nonsense", x=TEXT),
    step("!produce", which=st.integers(0, 5), event=PRODUCED),
    step("!produce", which=st.integers(0, 5), event=PRODUCED),
    step("!produce", which=st.integers(0, 1), event=PRODUCED),
    step("!fail", which=st.integers(0, 5)),
    step("!drain"),
    step("!disconnect"),
)


def as_sound(event: Event) -> Event:
    """What the pipeline brings instead where the reply is spoken."""
    if not isinstance(event, TextDelta):
        return event
    return AudioDelta(b"\1\2" * 240, event.text, (Heard(240, len(event.text)),), event.tokens)


VOICES = VoiceNames("joe", ("ann",), ("alloy",))


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(STEPS, max_size=30), st.booleans())
def test_any_interleaving_keeps_every_promise(steps: list[tuple[str, Json]], speaks: bool) -> None:
    table = Table()
    if speaks:
        table.state = replace(table.state, voices=VOICES)
    table.give(session.Connected())
    for name, fields in steps:
        # The pipeline may still bring something for a response that has ended meanwhile.
        started = list(table.turns) or ["nobody"]
        target = started[fields["which"] % len(started)] if "which" in fields else ""
        match name:
            case "!produce":
                spoken = target in table.turns and table.turns[target].speech is not None
                table.give(session.Produced(target, as_sound(fields["event"]) if spoken else fields["event"]))
            case "!fail":
                table.give(session.Failed(target, StageError("internal", "engine_failed", "It died.")))
            case "!drain":
                table.give(session.Draining())
            case "!disconnect":
                active = {reply.id for reply in table.state.replies}
                table.give(session.Disconnected())
                assert active <= table.stopped
            case _:
                table.send(name, **fields)
        table.check()
    table.give(session.Disconnected())
    table.check()
    assert table.state.replies == ()
    assert table.give(session.Connected()) == [], "a closed session says nothing more"


# The sequences of the protocol, one by one


@pytest.fixture
def table() -> Table:
    made = Table()
    made.give(session.Connected())
    return made


def kinds(events: list[Json]) -> list[str]:
    return [event["type"] for event in events]


def ask(table: Table, text: str = "Hi", **response: Any) -> str:
    """A user's message and a response to it; returns the response's id."""
    table.send("conversation.item.create", item=user(text))
    told = table.send("response.create", **({"response": response} if response else {}))
    created, _limits = (event for event in told if event["type"] != "conversation.item.deleted")
    id: str = created["response"]["id"]
    return id


def error_of(events: list[Json]) -> Json:
    assert kinds(events) == ["error"]
    error: Json = events[0]["error"]
    return error


def test_a_text_turn_is_told_in_the_protocols_order(table: Table) -> None:
    response_id = ask(table)
    assert kinds(table.produce(response_id, Started(9))) == []
    assert kinds(table.produce(response_id, TextDelta("Hel"), TextDelta("lo"))) == [
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
    ]
    closing = table.produce(response_id, Finished("stop", Usage(9, 2, 4)))
    assert kinds(closing) == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "conversation.item.done",
        "response.done",
    ]
    response = closing[-1]["response"]
    assert (response["status"], response["status_details"]) == ("completed", None)
    assert response["conversation_id"] == "conv_s"
    assert response["usage"]["input_token_details"]["cached_tokens"] == 2
    assert response["output"][0]["content"] == [{"type": "output_text", "text": "Hello"}]
    assert kinds(table.events)[:6] == [
        "session.created",
        "conversation.created",
        "conversation.item.added",
        "conversation.item.done",
        "response.created",
        "rate_limits.updated",
    ]


def test_the_reply_becomes_part_of_the_conversation(table: Table) -> None:
    first = ask(table, "One")
    table.produce(first, TextDelta("Uno"), Finished("stop", Usage()))
    second = ask(table, "Two")
    said = [Message("user", "One"), Message("assistant", "Uno"), Message("user", "Two")]
    assert table.turns[second].messages == tuple(said)


def test_an_empty_reply_has_its_item_all_the_same(table: Table) -> None:
    closing = table.produce(ask(table), Finished("stop", Usage(3, 0, 0)))
    assert "response.output_text.delta" not in kinds(closing)
    assert closing[-1]["response"]["output"][0]["content"] == [{"type": "output_text", "text": ""}]


def test_a_cancel_closes_what_is_open_and_stops_the_turn(table: Table) -> None:
    response_id = ask(table)
    table.produce(response_id, Started(5), TextDelta("Hel", 2))
    closing = table.send("response.cancel")
    assert kinds(closing)[-3:] == ["response.output_item.done", "conversation.item.done", "response.done"]
    response = closing[-1]["response"]
    assert response["status_details"] == {"type": "cancelled", "reason": "client_cancelled"}
    assert (response["output"][0]["status"], response["usage"]["output_tokens"]) == ("incomplete", 2)
    assert table.stopped == {response_id}
    assert table.produce(response_id, TextDelta("lo"), Finished("cancelled", Usage())) == []


AUDIO: Json = {"output_modalities": ["audio"]}
SPOKEN = (  # three words of 0.1 s each, in two deltas
    AudioDelta(b"\0\0" * 4800, "One two", (Heard(2400, 3), Heard(4800, 7)), 2),
    AudioDelta(b"\1\1" * 2400, " three.", (Heard(7200, 14),), 2),
)


@pytest.fixture
def speaking(table: Table) -> Table:
    table.state = replace(table.state, voices=VOICES)
    return table


def test_an_audio_turn_is_told_in_the_protocols_order(speaking: Table) -> None:
    (updated,) = speaking.send("session.update", session=AUDIO | {"audio": {"output": {"voice": "ann", "speed": 1.5}}})
    assert updated["session"]["output_modalities"] == ["audio"]
    assert "loquent" not in updated
    response_id = ask(speaking)
    assert speaking.turns[response_id].speech == Speech("ann", 1.5)
    events = speaking.produce(response_id, Started(9), *SPOKEN, Finished("stop", Usage(9, 2, 4)))
    assert kinds(events) == [
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
        "response.output_audio_transcript.delta",
        "response.output_audio.delta",
        "response.output_audio_transcript.delta",
        "response.output_audio.delta",
        *SPOKEN_END,
    ]
    assert events[2]["part"] == {"type": "audio", "transcript": ""}
    assert sound_of(events) == b"".join(delta.pcm for delta in SPOKEN)
    response = events[-1]["response"]
    assert response["audio"]["output"] == {"format": {"type": "audio/pcm", "rate": 24000}, "voice": "ann"}
    assert response["output"][0]["content"] == [{"type": "output_audio", "transcript": "One two three."}]
    assert response["usage"]["output_token_details"] == {"text_tokens": 4, "audio_tokens": 6}
    assert response["usage"]["output_tokens"] == 10


def test_a_spoken_reply_is_read_by_the_model_in_later_turns(speaking: Table) -> None:
    first = ask(speaking, "Count", **AUDIO)
    speaking.produce(first, *SPOKEN, Finished("stop", Usage()))
    second = ask(speaking, "Again")
    assert speaking.turns[second].messages[1] == Message("assistant", "One two three.")
    assert speaking.turns[second].speech is None, "only that one response was to be spoken"


def test_text_is_told_without_sound_where_there_is_none(speaking: Table) -> None:
    events = speaking.produce(ask(speaking, **AUDIO), AudioDelta(b"", "```"), Finished("stop", Usage(1, 0, 1)))
    assert "response.output_audio.delta" not in kinds(events)
    assert events[-1]["response"]["usage"]["output_token_details"]["audio_tokens"] == 0


def test_cancelled_speech_counts_what_was_sent(speaking: Table) -> None:
    response_id = ask(speaking, **AUDIO)
    speaking.produce(response_id, Started(5), SPOKEN[0])
    closing = speaking.send("response.cancel")
    assert kinds(closing) == SPOKEN_END
    assert closing[1]["transcript"] == "One two"
    assert closing[-1]["response"]["usage"]["output_token_details"] == {"text_tokens": 2, "audio_tokens": 4}
    assert speaking.produce(response_id, SPOKEN[1]) == []


@pytest.mark.parametrize(
    ("end", "told", "kept"),
    [
        (0, 0, ""),
        (99, 99, ""),
        (100, 100, "One"),
        (250, 250, "One two"),
        (300, 300, "One two three."),
        (9999, 300, "One two three."),
    ],
)
def test_what_was_not_heard_leaves_the_transcript_and_the_context(
    speaking: Table, end: int, told: int, kept: str
) -> None:
    closing = speaking.produce(ask(speaking, "Count", **AUDIO), *SPOKEN, Finished("stop", Usage()))
    item_id = closing[-1]["response"]["output"][0]["id"]
    cut = {"item_id": item_id, "content_index": 0}
    (truncated,) = speaking.send("conversation.item.truncate", audio_end_ms=end, **cut)
    assert truncated["audio_end_ms"] == told
    (retrieved,) = speaking.send("conversation.item.retrieve", item_id=item_id)
    assert retrieved["item"]["content"] == [{"type": "output_audio", "transcript": kept}]
    (turn,) = [speaking.turns[ask(speaking, "And?")]]
    assert [message.content for message in turn.messages if message.role == "assistant"] == ([kept] if kept else [])
    (again,) = speaking.send("conversation.item.truncate", audio_end_ms=9999, **cut)
    assert again["audio_end_ms"] == told, "what was cut does not come back"
    speaking.check()


def test_truncating_a_reply_that_is_being_spoken_ends_it(speaking: Table) -> None:
    response_id = ask(speaking, **AUDIO)
    added = speaking.produce(response_id, SPOKEN[0])[0]["item"]
    events = speaking.send("conversation.item.truncate", item_id=added["id"], content_index=0, audio_end_ms=150)
    assert kinds(events)[-2:] == ["response.done", "conversation.item.truncated"]
    assert events[-2]["response"]["status"] == "cancelled"
    assert speaking.stopped == {response_id}
    assert speaking.state.items[-1].words == "One"
    speaking.check()


def test_voices_go_by_many_names(speaking: Table) -> None:
    for asked, speaker in (("alloy", ""), ("joe", ""), ("ann", "ann"), ("nobody", ""), ({"id": "ann"}, "ann")):
        response_id = ask(speaking, **AUDIO, audio={"output": {"voice": asked}})
        assert speaking.turns[response_id].speech == Speech(speaker, 1.0)
        speaking.send("response.cancel")
    speaking.state = replace(speaking.state, voices=replace(VOICES, unknown="error"))
    error = error_of(speaking.send("session.update", session={"audio": {"output": {"voice": "nobody"}}}))
    assert (error["code"], error["param"]) == ("voice_not_found", "session.audio.output.voice")
    error = error_of(speaking.send("response.create", response=AUDIO | {"audio": {"output": {"voice": "nobody"}}}))
    assert (error["code"], error["param"]) == ("voice_not_found", "response.audio.output.voice")


def test_a_reply_has_the_format_of_its_session_or_its_own(speaking: Table) -> None:
    telephone = {"audio": {"output": {"format": {"type": "audio/pcmu"}}}}
    (updated,) = speaking.send("session.update", session=telephone)
    assert updated["session"]["audio"]["output"]["format"] == {"type": "audio/pcmu"}
    created, _ = speaking.send("response.create", response=AUDIO)
    assert created["response"]["audio"]["output"]["format"] == {"type": "audio/pcmu"}
    speaking.send("response.cancel")
    own = {"audio": {"output": {"format": {"type": "audio/pcm"}}}}
    created, _ = speaking.send("response.create", response=AUDIO | own)
    assert created["response"]["audio"]["output"]["format"] == {"type": "audio/pcm", "rate": 24000}


def test_audio_without_a_voice_becomes_text_and_says_so(table: Table) -> None:
    created, _ = table.send("response.create", response=AUDIO)
    assert created["response"]["output_modalities"] == ["text"]
    assert created["loquent"]["warnings"] == ["No voice is loaded: replies come as text."]
    assert table.turns[created["response"]["id"]].speech is None


def test_a_cancel_before_the_first_token_has_nothing_to_close(table: Table) -> None:
    ask(table)
    closing = table.send("response.cancel")
    assert kinds(closing) == ["response.done"]
    assert closing[0]["response"]["output"] == []


def test_a_second_cancel_is_an_error_that_clients_know(table: Table) -> None:
    ask(table)
    table.send("response.cancel")
    assert error_of(table.send("response.cancel", event_id="mine")) == {
        "type": "invalid_request_error",
        "code": "response_cancel_not_active",
        "message": "There is no such response in progress.",
        "param": "response_id",
        "event_id": "mine",
    }


def test_one_conversation_has_one_response_at_a_time(table: Table) -> None:
    ask(table)
    assert error_of(table.send("response.create"))["code"] == "conversation_already_has_active_response"


def test_responses_out_of_band_run_beside_it_and_leave_no_trace(table: Table) -> None:
    active = ask(table, "Hi")
    before = table.state.items
    created, _ = table.send(
        "response.create", response={"conversation": "none", "input": [user("Sum up")], "metadata": {"topic": "sum"}}
    )
    response_id = created["response"]["id"]
    assert table.turns[response_id].messages == (Message("user", "Sum up"),)
    events = table.produce(response_id, TextDelta("Sum"), Finished("stop", Usage()))
    assert not [kind for kind in kinds(events) if kind.startswith("conversation")]
    assert events[-1]["response"]["metadata"] == {"topic": "sum"}
    assert events[-1]["response"]["conversation_id"] is None
    assert table.state.items == before
    assert [reply.id for reply in table.state.replies] == [active]
    for _ in range(2):
        table.send("response.create", response={"conversation": "none"})
    assert error_of(table.send("response.create", response={"conversation": "none"}))["code"] == "too_many_responses"


def test_an_input_may_refer_to_items_of_the_conversation(table: Table) -> None:
    table.send("conversation.item.create", item=user("Known") | {"id": "k"})
    given = [{"type": "item_reference", "id": "k"}, user("New")]
    table.send("response.create", response={"conversation": "none", "input": given, "instructions": "Be brief"})
    (turn,) = table.turns.values()
    assert [message.content for message in turn.messages] == ["Be brief", "Known", "New"]
    missing = [{"type": "item_reference", "id": "nobody"}]
    error = error_of(table.send("response.create", response={"input": missing}))
    assert error["code"] == "item_reference_invalid_item_id"


def test_a_response_may_differ_from_its_session(table: Table) -> None:
    sampling = {"temperature": 0.5, "seed": 4}
    table.send(
        "session.update",
        session={"instructions": "Be kind", "max_output_tokens": 50, "loquent": {"sampling": sampling}},
    )
    plain = ask(table, "Hi")
    assert table.turns[plain].messages[0] == Message("system", "Be kind")
    assert table.turns[plain].sampling == Sampling(temperature=0.5, seed=4, max_tokens=50)
    table.send("response.cancel")
    own = {"sampling": {"seed": 9, "stop": ["END"], "top_k": 3, "logit_bias": {"5": 2}, "presence_penalty": 1}}
    other = ask(table, "Hi", instructions="Be brief", max_output_tokens=7, loquent=own)
    assert table.turns[other].messages[0] == Message("system", "Be brief")
    assert table.turns[other].sampling == Sampling(
        temperature=0.5,
        seed=9,
        max_tokens=7,
        stop=("END",),
        top_k=3,
        logit_bias=((5, 2.0),),
        presence_penalty=1.0,
    )


def test_out_of_tokens_is_incomplete(table: Table) -> None:
    closing = table.produce(ask(table), TextDelta("x"), Finished("length", Usage()))
    assert closing[-1]["response"]["status"] == "incomplete"
    assert closing[-1]["response"]["status_details"] == {"type": "incomplete", "reason": "max_output_tokens"}


@pytest.mark.parametrize("said", [(), (TextDelta("Hal"),)])
def test_a_failure_is_told_in_the_response_and_not_as_an_error(table: Table, said: tuple[TextDelta, ...]) -> None:
    response_id = ask(table)
    table.produce(response_id, *said)
    closing = table.give(session.Failed(response_id, StageError("invalid_request", "context_length_exceeded", "Long.")))
    response = closing[-1]["response"]
    assert "error" not in kinds(closing)
    assert response["status_details"]["error"] == {
        "type": "invalid_request_error",
        "code": "context_length_exceeded",
        "message": "Long.",
    }
    assert bool(response["output"]) == bool(said)


def test_a_response_that_fails_says_the_tokens_that_were_read(table: Table) -> None:
    response_id = ask(table)
    table.produce(response_id, Started(40, 30), TextDelta("x", 2))
    closing = table.give(session.Failed(response_id, StageError("internal", "engine_failed", "It died.")))
    usage = closing[-1]["response"]["usage"]
    assert (usage["input_tokens"], usage["input_token_details"]["cached_tokens"]) == (40, 30)
    assert (usage["output_tokens"], usage["total_tokens"]) == (2, 42)


def test_a_session_update_merges_deeply(table: Table) -> None:
    table.send(
        "session.update", session={"audio": {"output": {"voice": "joe", "speed": 1.25}}, "instructions": "Be kind"}
    )
    table.send("session.update", session={"audio": {"input": {"noise_reduction": {"type": "near_field"}}}})
    (updated,) = table.send("session.update", session={"audio": {"output": {"speed": 1.0}}})
    told = updated["session"]
    assert told["audio"]["output"]["voice"] == "joe"
    assert told["audio"]["output"]["speed"] == 1.0
    assert told["audio"]["input"]["noise_reduction"] == {"type": "near_field"}
    assert told["audio"]["input"]["turn_detection"] is None
    assert told["instructions"] == "Be kind"
    (updated,) = table.send("session.update", session={"audio": {"input": {"noise_reduction": None}}})
    assert updated["session"]["audio"]["input"]["noise_reduction"] is None


def test_what_can_not_be_had_is_said_and_not_refused(table: Table) -> None:
    wanted = {"output_modalities": ["audio"], "audio": {"input": {"turn_detection": {"type": "server_vad"}}}}
    (updated,) = table.send("session.update", session=wanted)
    assert updated["session"]["output_modalities"] == ["text"]
    assert updated["session"]["audio"]["input"]["turn_detection"] is None
    assert len(updated["loquent"]["warnings"]) == 2


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"parallel_tool_calls": False}, {"parallel_tool_calls": False}),
        ({"audio": {"input": {"noise_reduction": {}}}}, {"audio": {"input": {"noise_reduction": {}}}}),
        ({"audio": {"input": None, "output": None}}, {"audio": {"input": {"noise_reduction": None}}}),
        ({"audio": None}, {"audio": {"input": {"transcription": None}}}),
        ({"audio": {"output": {"format": None}}}, {"audio": {"output": {"format": {"type": "audio/pcm"}}}}),
        (
            {"audio": {"input": {"transcription": {"model": "gpt-4o-transcribe", "delay": "low", "keywords": ["a"]}}}},
            {"audio": {"input": {"transcription": {"delay": "low", "keywords": ["a"]}}}},
        ),
        ({"reasoning": {"effort": "none"}}, {"reasoning": {}}),
        ({"reasoning": {"effort": "low"}}, {"reasoning": {"effort": "low"}}),
        ({"prompt": {"id": "pmpt_1", "variables": {"a": "b"}}}, {"prompt": {"id": "pmpt_1", "variables": {"a": "b"}}}),
    ],
)
def test_what_clients_set_by_habit_is_taken_and_given_back(table: Table, given: Json, told: Json) -> None:
    (updated,) = table.send("session.update", session=given)
    assert updated["type"] == "session.updated", updated
    assert wire.merge(updated["session"], told) == updated["session"]


def test_a_stored_prompt_has_no_effect_and_a_warning(table: Table) -> None:
    (updated,) = table.send("session.update", session={"prompt": {"id": "pmpt_1"}})
    assert "prompt" in updated["loquent"]["warnings"][0]
    created, _ = table.send("response.create", response={"prompt": {"id": "pmpt_1"}})
    assert "prompt" in created["loquent"]["warnings"][0]
    (updated,) = table.send("session.update", session={"prompt": {"version": "2"}})
    assert "prompt" not in updated["session"]


def test_a_session_speaks_by_default_where_there_is_a_voice() -> None:
    for voices, modality in ((None, "text"), (VOICES, "audio")):
        table = Table()
        table.state = replace(table.state, voices=voices)
        created, _ = table.give(session.Connected())
        assert created["session"]["output_modalities"] == [modality]
        (turn,) = [table.turns[ask(table)]]
        assert (turn.speech is not None) == (voices is not None)
        table.send("response.cancel")
        table.send("session.update", session={"output_modalities": ["text"]})
        assert table.turns[ask(table)].speech is None
        (updated,) = table.send("session.update", session={"output_modalities": None})
        assert updated["session"]["output_modalities"] == [modality]


def test_a_bad_session_update_changes_nothing_and_names_its_place(table: Table) -> None:
    before = table.state
    error = error_of(table.send("session.update", session={"instructions": "x", "audio": {"output": {"speed": 9}}}))
    assert (error["code"], error["param"]) == ("invalid_value", "session.audio.output.speed")
    error = error_of(table.send("session.update", session={"loquent": {"sampling": {"temprature": 1}}}))
    assert (error["code"], error["param"]) == ("unknown_parameter", "session.loquent.sampling.temprature")
    assert table.state == before


def test_a_model_that_is_not_here_is_an_error_only_where_configured(table: Table) -> None:
    (updated,) = table.send("session.update", session={"model": "gpt-next"})
    assert updated["session"]["model"] == "tiny"
    strict = Table(State(id="s", names=ModelNames("tiny", ("gpt-realtime",), "error"), limits=LimitSettings()))
    assert error_of(strict.send("session.update", session={"model": "gpt-next"}))["code"] == "model_not_found"
    assert kinds(strict.send("session.update", session={"model": "gpt-realtime"})) == ["session.updated"]


WEATHER: Json = {"type": "function", "name": "weather", "description": "Of a city", "parameters": {"type": "object"}}
CLOCK: Json = {"name": "clock"}
CALLED = (
    CallStarted("call_1", "weather"),
    CallDelta("call_1", '{"city":', 3),
    CallDelta("call_1", '"Paris"}', 2),
    CallDone(ToolCall("call_1", "weather", '{"city":"Paris"}')),
)
CALL_EVENTS = [
    "response.output_item.added",
    "conversation.item.added",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.output_item.done",
    "conversation.item.done",
]


def test_the_functions_of_a_session_reach_the_turn(table: Table) -> None:
    (updated,) = table.send("session.update", session={"tools": [WEATHER, CLOCK], "tool_choice": "required"})
    assert updated["session"]["tools"] == [WEATHER, CLOCK | {"type": "function"}]
    assert "loquent" not in updated
    tools = (Tool("weather", "Of a city", {"type": "object"}), Tool("clock"))
    assert table.turns[ask(table)].tools == ToolUse(tools, "required")


@pytest.mark.parametrize(
    ("session_of", "response", "use"),
    [
        ({}, {}, None),
        ({"tools": [CLOCK]}, {}, ToolUse((Tool("clock"),))),
        ({"tools": [CLOCK], "parallel_tool_calls": False}, {}, ToolUse((Tool("clock"),), parallel=False)),
        ({"tools": [CLOCK], "parallel_tool_calls": False}, {"parallel_tool_calls": True}, ToolUse((Tool("clock"),))),
        ({"tools": [WEATHER], "tool_choice": "required"}, {"tools": []}, None),
        ({"tools": [WEATHER]}, {"tools": [CLOCK], "tool_choice": "none"}, ToolUse((Tool("clock"),), "none")),
        (
            {"tools": [CLOCK]},
            {"tool_choice": {"type": "function", "name": "clock"}},
            ToolUse((Tool("clock"),), "required", ("clock",)),
        ),
    ],
)
def test_a_response_has_its_own_functions_or_those_of_its_session(
    table: Table, session_of: Json, response: Json, use: ToolUse | None
) -> None:
    table.send("session.update", session=session_of)
    assert table.turns[ask(table, **response)].tools == use


def test_tools_of_other_types_are_given_back_with_a_warning_and_not_offered(table: Table) -> None:
    mcp = {"type": "mcp", "server_label": "files", "server_url": "https://files.example"}
    (updated,) = table.send("session.update", session={"tools": [mcp, CLOCK]})
    assert updated["session"]["tools"] == [mcp, CLOCK | {"type": "function"}]
    assert "mcp" in updated["loquent"]["warnings"][0]
    created, _ = table.send("response.create", response={"tools": [mcp]})
    assert "mcp" in created["loquent"]["warnings"][0]
    assert table.turns[created["response"]["id"]].tools is None


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "name": "nobody"}, {"type": "function"}, {"type": "mcp", "x": "y"}]
)
def test_a_choice_that_can_not_be_had_fails_the_response(table: Table, choice: Json | str) -> None:
    table.send("conversation.item.create", item=user("Hi"))
    events = table.send("response.create", response={"tool_choice": choice})
    assert kinds(events) == ["response.created", "rate_limits.updated", "response.done"]
    assert events[-1]["response"]["status"] == "failed"
    assert "tool_choice" in events[-1]["response"]["status_details"]["error"]["message"]
    assert table.turns == {}
    table.check()
    assert ask(table) in table.turns, "the session goes on"


def test_a_call_alone_is_the_only_item_of_its_response(table: Table) -> None:
    response_id = ask(table)
    events = table.produce(response_id, Started(9), TextDone(), *CALLED)
    assert kinds(events) == CALL_EVENTS
    assert (events[0]["item"]["status"], events[0]["item"]["type"]) == ("in_progress", "function_call")
    done = events[4]
    assert (done["name"], done["call_id"], done["arguments"]) == ("weather", "call_1", '{"city":"Paris"}')
    (ended,) = table.produce(response_id, Finished("tool_calls", Usage(9, 0, 5)))
    assert ended["response"]["status"] == "completed"
    assert ended["response"]["output"] == [events[-1]["item"]]
    assert ended["response"]["output"][0]["status"] == "completed"
    table.check()


def test_a_message_is_closed_before_the_first_of_several_calls(table: Table) -> None:
    response_id = ask(table)
    second = (CallStarted("call_2", "clock"), CallDone(ToolCall("call_2", "clock", "{}")))
    table.produce(response_id, Started(9), TextDelta("Let me see."), TextDone())
    events = table.produce(response_id, *CALLED, *second, Finished("tool_calls", Usage()))
    message = ["response.output_text.done", "response.content_part.done"]
    message += ["response.output_item.done", "conversation.item.done"]
    assert kinds(events)[:4] == message
    assert kinds(events)[4:11] == CALL_EVENTS
    assert [event["output_index"] for event in events if "output_index" in event] == [0] * 3 + [1] * 5 + [2] * 4
    output = events[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["message", "function_call", "function_call"]
    assert output[2]["arguments"] == "{}"
    assert [item["id"] for item in output] == [item.id for item in table.state.items][1:]


def test_calls_come_after_the_sound_of_a_spoken_reply(speaking: Table) -> None:
    response_id = ask(speaking, **AUDIO)
    events = speaking.produce(response_id, Started(9), *SPOKEN, TextDone(), *CALLED, Finished("tool_calls", Usage()))
    assert kinds(events)[7:] == [*SPOKEN_END[:-1], *CALL_EVENTS, "response.done"]
    assert events[-1]["response"]["usage"]["output_token_details"]["audio_tokens"] == 6
    item_id = events[0]["item"]["id"]
    (truncated,) = speaking.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=100)
    assert truncated["audio_end_ms"] == 100
    speaking.check()


@pytest.mark.parametrize("end", ["cancel", "length", "failed", "disconnect"])
def test_a_call_that_is_cut_short_has_its_end_and_is_not_read_again(table: Table, end: str) -> None:
    response_id = ask(table)
    table.produce(response_id, Started(9), TextDone(), *CALLED[:2])
    match end:
        case "cancel":
            events = table.send("response.cancel")
        case "length":
            events = table.produce(response_id, Finished("length", Usage()))
        case "failed":
            events = table.give(session.Failed(response_id, StageError("internal", "engine_failed", "It died.")))
        case _:
            events = table.give(session.Disconnected())
    assert kinds(events) == [*CALL_EVENTS[4:], "response.done"]
    assert events[0]["arguments"] == '{"city":'
    assert events[-1]["response"]["output"][0]["status"] == "incomplete"
    table.check()
    if end != "disconnect":
        output = {"type": "function_call_output", "call_id": "call_1", "output": "sunny"}
        table.send("conversation.item.create", item=output)
        table.send("response.create")
        turn = table.turns[list(table.turns)[-1]]
        assert turn.messages == (Message("user", "Hi"), Message("tool", "sunny"))


def test_the_output_of_a_call_is_read_with_the_call_and_is_new(table: Table) -> None:
    response_id = ask(table)
    both = (*CALLED, CallStarted("call_2", "clock"), CallDone(ToolCall("call_2", "clock", "{}")))
    table.produce(response_id, Started(9), TextDelta("Wait."), TextDone(), *both, Finished("tool_calls", Usage()))
    for call_id, output in (("call_2", "noon"), ("call_1", "sunny"), ("call_9", "lost")):
        item = {"type": "function_call_output", "call_id": call_id, "output": output}
        table.send("conversation.item.create", item=item)
    table.send("response.create")
    turn = table.turns[list(table.turns)[-1]]
    calls = (ToolCall("call_1", "weather", '{"city":"Paris"}'), ToolCall("call_2", "clock", "{}"))
    assert turn.messages == (
        Message("user", "Hi"),
        Message("assistant", "Wait.", calls=calls),
        Message("tool", "noon", call_id="call_2"),
        Message("tool", "sunny", call_id="call_1"),
        Message("tool", "lost"),
    )
    assert turn.new == (2, 3, 4)


@pytest.mark.parametrize("arguments", ["{", "[]", '"x"', "[" * 300])
def test_a_call_whose_arguments_are_no_object_is_not_read(table: Table, arguments: str) -> None:
    call = {"type": "function_call", "call_id": "1", "name": "now", "arguments": arguments}
    table.send("conversation.item.create", item=call)
    assert table.turns[ask(table)].messages == (Message("user", "Hi"),)


def test_a_call_without_arguments_is_read_as_one_of_an_empty_object(table: Table) -> None:
    call = {"type": "function_call", "call_id": "1", "name": "now", "arguments": ""}
    table.send("conversation.item.create", item=call)
    assert table.turns[ask(table)].messages[0] == Message("assistant", "", calls=(ToolCall("1", "now", "{}"),))


def test_calls_of_a_response_out_of_band_leave_no_trace(table: Table) -> None:
    created, _ = table.send("response.create", response={"conversation": "none", "tools": [CLOCK]})
    events = table.produce(created["response"]["id"], Started(9), TextDone(), *CALLED, Finished("tool_calls", Usage()))
    assert kinds(events) == [kind for kind in CALL_EVENTS if kind.startswith("response")] + ["response.done"]
    assert table.state.items == ()
    table.check()


def test_a_call_for_which_the_conversation_has_no_room_fails_the_response(table: Table) -> None:
    for _ in range(6):
        table.send("conversation.item.create", item=user("x"))
    response_id = ask(table)
    events = table.produce(response_id, TextDelta("y"), TextDone(), *CALLED)
    assert events[-1]["response"]["status_details"]["error"]["code"] == "conversation_full"
    assert table.stopped == {response_id}
    table.check()


def test_a_picture_of_a_reply_with_calls_is_listed_and_not_linked(table: Table) -> None:
    response_id = ask(table)
    picture = Picture("p", "a cat", 1, "flat", "mood", 64, url="http://x/p.png")
    events = table.produce(response_id, TextDone(), *CALLED, picture, Finished("tool_calls", Usage()))
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["function_call"]
    assert events[-1]["loquent"]["images"][0]["id"] == "p"
    table.check()


def test_tools_are_kept_and_given_back(table: Table) -> None:
    tools = [{"type": "function", "name": "now", "parameters": {"type": "object", "properties": {}}}]
    (updated,) = table.send("session.update", session={"tools": tools, "tool_choice": "none"})
    assert (updated["session"]["tools"], updated["session"]["tool_choice"]) == (tools, "none")


RETENTION: Json = {"type": "retention_ratio", "retention_ratio": 0.8, "token_limits": {"post_instructions": 900}}


@pytest.mark.parametrize(
    ("truncation", "told"),
    [
        ("auto", ("trim", 0.8, None)),
        ("disabled", ("error", None, None)),
        (RETENTION, ("trim", 0.8, 900)),
        ({"type": "retention_ratio", "retention_ratio": 1}, ("trim", 1.0, None)),
        (None, ("trim", 0.8, None)),
    ],
)
def test_what_happens_to_a_long_conversation_is_the_sessions_choice(
    table: Table, truncation: Any, told: tuple[str, float | None, int | None]
) -> None:
    (updated,) = table.send("session.update", session={"truncation": truncation})
    assert updated["session"]["truncation"] == (truncation or "auto")
    turn = table.turns[ask(table)]
    assert (turn.overflow, turn.retention, turn.retained_tokens) == told


def test_conversations_are_trimmed_unless_a_session_says_otherwise(table: Table) -> None:
    assert table.events[0]["session"]["truncation"] == "auto"
    assert table.turns[ask(table)].overflow == "trim"


@pytest.mark.parametrize(
    "truncation",
    [RETENTION | {"retention_ratio": 1.5}, RETENTION | {"token_limits": {"post_instructions": 0}}, "never"],
)
def test_a_truncation_that_makes_no_sense_is_refused(table: Table, truncation: Any) -> None:
    error = error_of(table.send("session.update", session={"truncation": truncation}))
    assert error["param"].startswith("session.truncation")


def test_items_go_where_they_are_put(table: Table) -> None:
    for name, previous in [("a", None), ("b", None), ("c", "a"), ("d", "root")]:
        (added, done) = table.send(
            "conversation.item.create", item=user(name) | {"id": name}, previous_item_id=previous
        )
        assert added["previous_item_id"] == done["previous_item_id"]
    assert [item.id for item in table.state.items] == ["d", "a", "c", "b"]
    assert [e["previous_item_id"] for e in table.events if e["type"].endswith(".added")] == [None, "a", "a", None]
    error = error_of(table.send("conversation.item.create", item=user("e"), previous_item_id="nobody"))
    assert error["code"] == "item_create_invalid_previous_item_id"
    error = error_of(table.send("conversation.item.create", item=user("e") | {"id": "a"}))
    assert error["code"] == "item_create_duplicate_item_id"


def test_the_id_of_a_reply_to_come_is_taken(table: Table) -> None:
    table.send("response.create")
    (reply,) = table.state.replies
    error = error_of(table.send("conversation.item.create", item=user("x") | {"id": reply.item_id}))
    assert error["code"] == "item_create_duplicate_item_id"


def test_items_are_retrieved_and_deleted_by_id(table: Table) -> None:
    (added, _) = table.send("conversation.item.create", item=user("Hi") | {"id": "mine"})
    (retrieved,) = table.send("conversation.item.retrieve", item_id="mine")
    assert retrieved["item"] == added["item"]
    assert kinds(table.send("conversation.item.delete", item_id="mine")) == ["conversation.item.deleted"]
    assert table.state.items == ()
    error = error_of(table.send("conversation.item.retrieve", item_id="mine", event_id="rci_mine"))
    assert (error["code"], error["event_id"]) == ("item_retrieve_invalid_item_id", "rci_mine")
    assert error_of(table.send("conversation.item.delete", item_id="mine"))["code"] == "item_delete_invalid_item_id"


def test_an_item_that_is_being_generated_stays(table: Table) -> None:
    response_id = ask(table)
    (added, *_) = table.produce(response_id, TextDelta("x"))
    assert error_of(table.send("conversation.item.delete", item_id=added["item"]["id"]))["code"] == "item_in_progress"


def test_truncating_an_item_without_audio_is_answered_and_changes_nothing(table: Table) -> None:
    response_id = ask(table)
    closing = table.produce(response_id, TextDelta("Hello"), Finished("stop", Usage()))
    item_id = closing[-1]["response"]["output"][0]["id"]
    before = table.state.items
    (truncated,) = table.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=99_999)
    assert (truncated["item_id"], truncated["audio_end_ms"]) == (item_id, 0)
    assert table.state.items == before
    refusals: list[tuple[Json, str]] = [
        ({"item_id": "nobody", "content_index": 0}, "item_truncate_invalid_item_id"),
        ({"item_id": item_id, "content_index": 3}, "invalid_value"),
        ({"item_id": before[0].id, "content_index": 0}, "invalid_value"),
    ]
    for fields, code in refusals:
        assert error_of(table.send("conversation.item.truncate", audio_end_ms=1, **fields))["code"] == code


def test_a_conversation_has_its_limits(table: Table) -> None:
    table.send("session.update", session={"truncation": "disabled"})
    error = error_of(table.send("conversation.item.create", item=user("x" * 1500)))
    assert error["code"] == "conversation_full"
    for _ in range(8):
        table.send("conversation.item.create", item=user("x"))
    assert error_of(table.send("conversation.item.create", item=user("x")))["code"] == "conversation_full"
    assert error_of(table.send("response.create"))["code"] == "conversation_full"


def test_a_session_can_not_be_made_to_grow_without_end(table: Table) -> None:
    sizes = []
    for number in range(5):
        session_of = {
            "tracing": {"metadata": {str(number): "x" * 500}},
            "tool_choice": {"type": "function", "name": "f"},
        }
        table.send("session.update", session=session_of)
        sizes.append(len(table.state.config.model_dump_json()))
    assert len(set(sizes)) == 1
    (updated,) = table.send("session.update", session={"tool_choice": "none"})
    assert updated["session"]["tool_choice"] == "none"


EMPTY_PARTS = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": ""}] * 64}
LONG_CALL = {"type": "function_call", "call_id": "1", "name": "f", "arguments": "x" * 1500}
HIDDEN = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "", "transcript": "x" * 1500}]}


@pytest.mark.parametrize("item", [EMPTY_PARTS, LONG_CALL, HIDDEN])
def test_whatever_takes_room_in_a_conversation_counts(table: Table, item: Json) -> None:
    assert error_of(table.send("conversation.item.create", item=item))["code"] == "conversation_full"
    parts = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": ""}] * 65}
    assert error_of(table.send("conversation.item.create", item=parts))["param"] == "item.content"


def test_a_full_conversation_gives_up_its_oldest_items_and_says_so(table: Table) -> None:
    system = {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "Be kind."}]}
    table.send("conversation.item.create", item={"id": "rules", **system})
    deleted: list[str] = []
    for number in range(30):
        told = table.send("conversation.item.create", item={"id": f"i{number}", **user("x")})
        assert kinds(told)[-2:] == ["conversation.item.added", "conversation.item.done"]
        deleted += [each["item_id"] for each in told if each["type"] == "conversation.item.deleted"]
        assert len(table.state.items) <= 8
    assert deleted == [f"i{number}" for number in range(len(deleted))]
    assert "rules" in {item.id for item in table.state.items}
    response_id = ask(table)
    table.produce(response_id, TextDelta("y"), Finished("stop", Usage()))
    assert len(table.state.items) <= 8
    large = user("x" * 900)
    for _ in range(4):
        assert "error" not in kinds(table.send("conversation.item.create", item=large))
    assert table.state.held <= table.state.limits.conversation_bytes
    too_large = table.send("conversation.item.create", item=user("x" * 1500))
    assert error_of(too_large)["code"] == "conversation_full"


def test_a_reply_in_the_making_has_its_place_among_the_items(table: Table) -> None:
    table.send("session.update", session={"truncation": "disabled"})
    for _ in range(6):
        table.send("conversation.item.create", item=user("x"))
    response_id = ask(table)
    assert error_of(table.send("conversation.item.create", item=user("x")))["code"] == "conversation_full"
    table.produce(response_id, TextDelta("y"), Finished("stop", Usage()))
    assert len(table.state.items) == 8


def test_a_reply_may_be_asked_for_before_anybody_spoke(table: Table) -> None:
    table.send("response.create")
    (turn,) = table.turns.values()
    assert turn.messages == (Message("user", ""),)


def test_tool_outputs_and_spoken_words_are_read(table: Table) -> None:
    spoken = {"type": "message", "role": "assistant", "content": [{"type": "output_audio", "transcript": "I said"}]}
    table.send("conversation.item.create", item=spoken)
    table.send(
        "conversation.item.create", item={"type": "function_call", "call_id": "1", "name": "now", "arguments": "{}"}
    )
    table.send("conversation.item.create", item={"type": "function_call_output", "call_id": "1", "output": "noon"})
    table.send("response.create")
    (turn,) = table.turns.values()
    said = Message("assistant", "I said", calls=(ToolCall("1", "now", "{}"),))
    assert turn.messages == (said, Message("tool", "noon", call_id="1"))


def test_audio_is_dropped_until_there_are_ears(table: Table) -> None:
    error = error_of(table.send("input_audio_buffer.append", audio="!!!", event_id="mine"))
    assert (error["code"], error["event_id"]) == ("input_audio_not_supported", "mine")
    for _ in range(3):
        assert table.send("input_audio_buffer.append", audio="AAAA") == [], "clients hear of it once"
    assert kinds(table.send("input_audio_buffer.clear")) == ["input_audio_buffer.cleared"]
    assert error_of(table.send("input_audio_buffer.commit"))["code"] == "input_audio_not_supported"
    assert error_of(table.send("output_audio_buffer.clear"))["code"] == "unsupported_event"


def test_nothing_begins_while_the_server_drains(table: Table) -> None:
    response_id = ask(table)
    table.give(session.Draining())
    assert kinds(table.produce(response_id, TextDelta("x"), Finished("stop", Usage())))[-1] == "response.done"
    assert error_of(table.send("response.create"))["code"] == "server_shutting_down"


BLOCKED = StageError("invalid_request", "content_filter", "The message was refused.")


def test_a_blocked_message_leaves_the_conversation_and_the_next_one_is_answered(table: Table) -> None:
    first = ask(table, "Fine.")
    table.produce(first, TextDelta("Yes."), Finished("stop", Usage()))
    blocked = ask(table, "Attack")
    events = table.give(session.Failed(blocked, BLOCKED))
    assert [event["type"] for event in events] == ["response.done", "conversation.item.deleted"]
    assert events[0]["response"]["status_details"]["reason"] == "content_filter"
    last = ask(table, "Thanks.")
    turn = table.turns[last]
    assert [message.content for message in turn.messages] == ["Fine.", "Yes.", "Thanks."]
    assert turn.new == (2,)
    table.check()


def test_a_turn_says_which_of_its_messages_no_turn_has_brought_before(table: Table) -> None:
    first = ask(table, "One", instructions="Be brief.")
    assert table.turns[first].new == (1,)
    table.give(session.Failed(first, StageError("overloaded", "server_overloaded", "Full.")))
    again = ask(table, "Two")
    assert table.turns[again].new == (0, 1), "the first was never screened"
    table.produce(again, Started(3))
    table.send("response.create", response={"conversation": "none"})
    assert table.turns[list(table.turns)[-1]].new == ()


def test_responses_beside_each_other_bring_one_message_under_one_id(table: Table) -> None:
    table.send("conversation.item.create", item=user("One"))
    for _ in range(3):
        table.send("response.create", response={"conversation": "none"})
    turns = list(table.turns.values())
    assert [turn.new for turn in turns] == [(0,)] * 3
    assert len({turn.messages[0].id for turn in turns}) == 1
    assert turns[0].messages[0].id


def test_an_item_under_the_id_of_another_is_new(table: Table) -> None:
    table.send("conversation.item.create", item=user("Harmless") | {"id": "mine"})
    table.send("response.create")
    (first,) = table.turns
    before = table.turns[first].messages[0].id
    table.produce(first, TextDelta("Yes."), Finished("stop", Usage()))
    table.send("response.create", response={"conversation": "none", "input": [user("Attack") | {"id": "mine"}]})
    assert table.turns[list(table.turns)[-1]].new == (0,)
    table.send("conversation.item.delete", item_id="mine")
    table.send("conversation.item.create", item=user("Attack") | {"id": "mine"})
    table.send("response.create")
    turn = table.turns[list(table.turns)[-1]]
    assert turn.new == (1,)
    assert turn.messages[1].id not in ("", before)


def test_text_that_nobody_speaks_is_the_transcript_of_a_spoken_reply(table: Table) -> None:
    table.state = replace(table.state, voices=VoiceNames("joe", (), ()))
    reply = ask(table, "Hi", output_modalities=["audio"])
    table.produce(reply, TextDelta("No."), Finished("content_filter", Usage()))
    kinds = [event["type"] for event in table.events]
    assert "response.output_audio_transcript.delta" in kinds
    assert "response.output_text.delta" not in kinds
    table.check()


def test_a_conversation_holds_bytes_not_characters(table: Table) -> None:
    table.send("conversation.item.create", item=user("漢" * 500))
    assert table.events[-1]["error"]["code"] == "conversation_full"
    table.send("conversation.item.create", item=user("a" * 500))
    assert table.events[-1]["type"] == "conversation.item.done"


def test_an_input_of_many_references_is_bounded(table: Table) -> None:
    table.send("conversation.item.create", item=user("a" * 600) | {"id": "long"})
    table.send("response.create", response={"input": [{"type": "item_reference", "id": "long"}] * 3})
    error = table.events[-1]["error"]
    assert (error["code"], error["param"]) == ("input_too_large", "response.input")
    assert not table.turns
