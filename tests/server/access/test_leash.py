"""The leash of a client secret in the pure session: how it begins, what it refuses, and how it ends."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.events import Finished, StageError, TextDelta, Usage
from server.access.leash import Leash
from server.errors import RateLimitedError
from server.realtime import session
from server.realtime.session.leash import known_field
from tests.server.test_session import STEPS, VOICES, Table

Json = dict[str, Any]

SHOP = {"type": "realtime", "instructions": "You sell shoes.", "tools": [{"type": "function", "name": "buy"}]}


def table(*locked: str, begin: Json | None = None, turns: int | None = None, **state: Any) -> Table:
    made = Table()
    leash = Leash("s", 0, session=SHOP if begin is None else begin, locked=frozenset(locked), turns=turns)
    made.state = replace(made.state, leash=leash, turns_left=turns, **state)
    made.give(session.Connected())
    return made


def refused(events: list[Json]) -> tuple[str, str | None]:
    """The code and parameter of the one error."""
    (event,) = events
    assert event["type"] == "error"
    return event["error"]["code"], event["error"]["param"]


def answered(made: Table) -> list[Json]:
    """The events of a whole response."""
    events = made.send("response.create")
    id = events[0]["response"]["id"]
    return events + made.produce(id, TextDelta("Hi", 1), Finished("stop", Usage(1, 0, 1)))


def test_a_session_begins_with_the_secrets_settings() -> None:
    made = table()
    (created, _) = made.events
    assert created["session"]["instructions"] == "You sell shoes."
    assert [tool["name"] for tool in created["session"]["tools"]] == ["buy"]
    answered(made)
    (turn,) = made.turns.values()
    assert turn.messages[0].content == "You sell shoes."


def test_a_secret_for_transcription_begins_a_transcription_session() -> None:
    made = table(begin={"type": "transcription"}, listens=True)
    assert made.events[0]["session"]["type"] == "transcription"


def test_a_handshake_can_not_choose_another_type_than_the_secrets() -> None:
    made = table(begin={"type": "realtime"}, listens=True, transcribes=True)
    assert made.events[0]["session"]["type"] == "realtime"


def test_settings_that_are_valid_no_longer_begin_no_session() -> None:
    made = table(begin={"type": "realtime", "audio": {"output": {"speed": 99}}})
    assert [event["type"] for event in made.events] == ["error"]
    assert made.state.closed
    assert made.state.refused is not None
    assert made.state.refused[0] == 1008


UPDATES: list[tuple[str, Json]] = [
    ("instructions", {"instructions": "You are a pirate."}),
    ("instructions", {"instructions": None}),
    ("instructions", {"instructions": ""}),
    ("tools", {"tools": []}),
    ("tools", {"tools": [{"type": "function", "name": "refund"}]}),
    ("audio.output.voice", {"audio": {"output": {"voice": "other"}}}),
    ("audio.output", {"audio": {"output": {"speed": 1.5}}}),
    ("audio", {"audio": {"output": {"voice": "other"}}}),
    ("audio.input.turn_detection", {"audio": {"input": {"turn_detection": None}}}),
    ("max_output_tokens", {"max_output_tokens": 5}),
    ("tool_choice", {"tool_choice": "none"}),
    ("output_modalities", {"output_modalities": ["text"]}),
    ("loquent", {"loquent": {"sampling": {"temperature": 2.0}}}),
    ("loquent.sampling.temperature", {"loquent": {"sampling": {"temperature": 2.0}}}),
    ("type", {"type": "transcription"}),
    ("truncation", {"truncation": "disabled"}),
]


@pytest.mark.parametrize(("locked", "asked"), UPDATES)
def test_an_update_that_changes_a_locked_field_is_refused_whole(locked: str, asked: Json) -> None:
    made = table(locked, listens=True, voices=VOICES)
    before = made.state
    assert refused(made.send("session.update", session=asked)) == ("field_locked", f"session.{locked}")
    assert made.state.config == before.config
    assert made.state.transcribes == before.transcribes


@pytest.mark.parametrize(("locked", "asked"), UPDATES)
def test_what_is_not_locked_can_be_changed(locked: str, asked: Json) -> None:
    made = table("parallel_tool_calls", listens=True, voices=VOICES)
    (updated,) = made.send("session.update", session=asked)
    assert updated["type"] == "session.updated"


def test_a_locked_field_may_be_sent_as_it_is() -> None:
    made = table("instructions", "tools", "model")
    asked = {**SHOP, "model": "gpt-realtime", "max_output_tokens": 7}
    (updated,) = made.send("session.update", session=asked)
    assert (updated["type"], updated["session"]["max_output_tokens"]) == ("session.updated", 7)


SYSTEM = {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "Obey."}]}


@pytest.mark.parametrize(
    ("locked", "asked", "param"),
    [
        ("instructions", {"instructions": "Obey."}, "instructions"),
        ("instructions", {"instructions": ""}, "instructions"),
        ("instructions", {"input": [SYSTEM]}, "input.0.role"),
        ("instructions", {"conversation": "none", "input": [SYSTEM]}, "input.0.role"),
        ("tools", {"tools": []}, "tools"),
        ("tool_choice", {"tool_choice": "required"}, "tool_choice"),
        ("audio.output.voice", {"audio": {"output": {"voice": "other"}}}, "audio.output.voice"),
        ("audio", {"audio": {"output": {"voice": {"id": "other"}}}}, "audio"),
        ("output_modalities", {"output_modalities": ["text"]}, "output_modalities"),
        ("max_output_tokens", {"max_output_tokens": 9}, "max_output_tokens"),
        ("loquent", {"loquent": {"sampling": {"seed": 1}}}, "loquent"),
        ("loquent.image", {"loquent": {"image": True}}, "loquent.image"),
    ],
)
def test_a_response_can_not_differ_in_a_locked_field(locked: str, asked: Json, param: str) -> None:
    made = table(locked, voices=VOICES)
    assert refused(made.send("response.create", response=asked)) == ("field_locked", f"response.{param}")
    assert not made.turns


def test_a_message_of_the_system_is_an_instruction() -> None:
    made = table("instructions")
    assert refused(made.send("conversation.item.create", item=SYSTEM)) == ("field_locked", "item.role")
    assert made.state.items == ()


def test_a_response_may_repeat_what_is_locked() -> None:
    made = table("instructions", "tools")
    asked = {"instructions": "You sell shoes.", "tools": SHOP["tools"]}
    assert made.send("response.create", response=asked)[0]["type"] == "response.created"


def test_responses_beyond_the_secrets_turns_are_refused() -> None:
    made = table(turns=2)
    assert answered(made)[-1]["response"]["status"] == "completed"
    assert answered(made)[-1]["response"]["status"] == "completed"
    assert refused(made.send("response.create")) == ("turn_limit_reached", None)
    assert len(made.turns) == 2


def test_a_refused_response_uses_no_turn() -> None:
    made = table("instructions", turns=1)
    made.send("response.create", response={"instructions": "Obey."})
    made.send("response.create", response={"conversation": "none", "input": [{"type": "item_reference", "id": "no"}]})
    assert answered(made)[-1]["response"]["status"] == "completed"


def test_a_response_that_the_limits_refuse_uses_no_turn() -> None:
    made = table(turns=1)
    for error in (RateLimitedError("Too many requests.", 5), StageError("internal", "engine_failed", "It died.")):
        (id,) = (e["response"]["id"] for e in made.send("response.create") if e["type"] == "response.created")
        (done,) = made.give(session.Failed(id, error))
        assert done["response"]["status_details"]["error"]["code"] == error.code
    assert refused(made.send("response.create")) == ("turn_limit_reached", None)


def test_a_session_whose_time_is_over_ends_its_replies_and_is_closed_with_the_reason() -> None:
    made = table()
    (id,) = (event["response"]["id"] for event in made.send("response.create") if event["type"] == "response.created")
    made.produce(id, TextDelta("Hel", 1))
    events = made.give(session.Expired())
    assert [event["type"] for event in events][-2:] == ["response.done", "error"]
    response = events[-2]["response"]
    assert (response["status"], response["status_details"]["error"]["code"]) == ("failed", "session_expired")
    assert events[-1]["error"]["code"] == "session_expired"
    assert made.stopped == {id}
    assert made.state.closed
    assert made.state.refused == (1008, "invalid_request_error.session_expired")
    assert made.give(session.Expired()) == []
    made.check()


def test_a_revoked_key_ends_a_session_with_its_own_reason() -> None:
    made = table()
    made.give(session.Expired("invalid_api_key", "The key is no longer valid."))
    assert made.state.refused == (1008, "invalid_request_error.invalid_api_key")


def test_a_session_says_when_it_ends() -> None:
    made = table(expires_at=1_800_000_000)
    assert made.events[0]["session"]["expires_at"] == 1_800_000_000
    (updated,) = made.send("session.update", session={"max_output_tokens": 7})
    assert updated["session"]["expires_at"] == 1_800_000_000
    assert "expires_at" not in table().events[0]["session"]


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("instructions", True),
        ("audio.output.voice", True),
        ("audio.input.turn_detection.threshold", True),
        ("loquent.sampling.temperature", True),
        ("type", True),
        ("nothing", False),
        ("audio.output.nothing", False),
        ("instructions.more", False),
        ("", False),
        (".", False),
        ("model_fields", False),
    ],
)
def test_a_field_to_lock_is_one_that_a_session_has(name: str, known: bool) -> None:
    assert known_field(name) is known


FIELDS = ("instructions", "tools", "tool_choice", "max_output_tokens", "audio", "loquent", "truncation", "include")


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(STEPS, max_size=30), st.sets(st.sampled_from(FIELDS)), st.integers(0, 3))
def test_whatever_a_client_sends_what_is_locked_stays_and_no_more_turns_run(
    steps: list[tuple[str, Json]], locked: set[str], turns: int
) -> None:
    made = table(*locked, turns=turns)
    begun = made.state.config
    for name, fields in steps:
        if not name.startswith("!"):
            made.send(name, **fields)
    for field in locked:
        assert getattr(made.state.config, field) == getattr(begun, field)
    assert len(made.turns) <= turns
    if "instructions" in locked:
        for turn in made.turns.values():
            assert [message.content for message in turn.messages if message.role == "system"] == ["You sell shoes."]
    made.give(session.Expired())
    made.check()
    assert made.state.replies == ()
