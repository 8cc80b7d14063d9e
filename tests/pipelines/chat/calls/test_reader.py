"""Calls are read out of a reply's text, however it was cut."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.chat.calls.reader import CallReader
from pipelines.events import CallDelta, CallDone, CallStarted, Event, TextDelta, TextDone, ToolCall

CALL = '<tool_call>\n{"name": "%s", "arguments": %s}\n</tool_call>'
HARD = r'{"a": "}\"{[", "b": [1, {"c": "</tool_call>"}], "d": {}}'


def read(pieces: Sequence[str]) -> list[Event]:
    """The events, with the pieces of a text and of a call put together; the calls are numbered."""
    reader = CallReader(iter("123456789").__next__)
    events: list[Event] = [event for piece in pieces for event in reader.feed(TextDelta(piece))]
    merged: list[Event] = []
    for event in [*events, *reader.end()]:
        last = merged[-1] if merged else None
        if isinstance(event, TextDelta) and isinstance(last, TextDelta):
            merged[-1] = TextDelta(last.text + event.text)
        elif isinstance(event, CallDelta) and isinstance(last, CallDelta):
            merged[-1] = CallDelta(event.id, last.arguments + event.arguments)
        elif isinstance(event, TextDelta):
            merged.append(TextDelta(event.text))
        elif isinstance(event, CallDelta):
            merged.append(CallDelta(event.id, event.arguments))
        else:
            merged.append(event)
    return merged


def call(id: str, name: str, arguments: str) -> list[Event]:
    return [CallStarted(id, name), CallDelta(id, arguments), CallDone(ToolCall(id, name, arguments))]


REPLIES: list[tuple[str, list[Event]]] = [
    ("Hello  world.\n", [TextDelta("Hello  world.\n"), TextDone()]),
    ("", [TextDone()]),
    (CALL % ("f", "{}"), [TextDone(), *call("1", "f", "{}")]),
    (f"Wait. \n{CALL % ('f', HARD)}", [TextDelta("Wait."), TextDone(), *call("1", "f", HARD)]),
    (f"{CALL % ('f', '{}')}\n{CALL % ('g', HARD)}", [TextDone(), *call("1", "f", "{}"), *call("2", "g", HARD)]),
    (f"{CALL % ('f', '{}')} What follows is dropped.", [TextDone(), *call("1", "f", "{}")]),
    (r'<tool_call>{ "name" :"\u0066" ,"parameters": {"x": 1} }', [TextDone(), *call("1", "f", '{"x": 1}')]),
    ("A <tool_call> is a tag.", [TextDelta("A <tool_call> is a tag."), TextDone()]),
    ("a < b <tool", [TextDelta("a < b <tool"), TextDone()]),
    (
        '<tool_call>\n{"name": "f", "arguments": {"x": "cut sho',
        [TextDone(), CallStarted("1", "f"), CallDelta("1", '{"x": "cut sho')],
    ),
]


@pytest.mark.parametrize(("text", "events"), REPLIES)
def test_text_and_calls_are_told_apart(text: str, events: list[Event]) -> None:
    assert read([text]) == events


@given(st.sampled_from(REPLIES), st.lists(st.integers(0, 200), max_size=60))
def test_the_events_are_the_same_however_the_text_is_cut(reply: tuple[str, list[Event]], cuts: list[int]) -> None:
    text, events = reply
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    assert read([text[begin:end] for begin, end in pairwise(places)]) == events


@given(st.text(alphabet='<tool_ca>{}"name:rgumts\\ \n', max_size=80))
def test_no_text_breaks_the_reader(text: str) -> None:
    whole = read([text])
    assert whole == read(list(text))
    assert sum(isinstance(event, TextDone) for event in whole) == 1


def test_every_token_is_accounted_for_with_some_event() -> None:
    reader = CallReader()
    pieces = [f"Wait. {CALL % ('f', HARD)}"[at : at + 3] for at in range(0, 100, 3)]
    events = [event for piece in pieces for event in reader.feed(TextDelta(piece, tokens=2))]
    counted = sum(event.tokens for event in events if isinstance(event, TextDelta | CallDelta))
    assert 2 * len([piece for piece in pieces if piece]) - counted <= 2 * 8  # the end of a call has no event


def test_what_looks_like_a_call_for_too_long_is_text() -> None:
    text = "<tool_call>" + "x" * 2000
    assert read([text]) == [TextDelta(text), TextDone()]
