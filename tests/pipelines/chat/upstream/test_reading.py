"""Chunks as servers send them become the events of a reply."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.chat.upstream.chunks import read_chunk
from pipelines.chat.upstream.reading import Broken, ReplyReader
from pipelines.chat.upstream.sse import Malformed
from pipelines.events import (
    CallDelta,
    CallDone,
    CallStarted,
    Event,
    Finished,
    Started,
    TextDelta,
    TextDone,
    TokenLogprob,
    ToolCall,
    Usage,
)


def read(*choices: dict[str, Any], end: bool = True) -> list[Event]:
    reader = ReplyReader(7)
    found = [event for each in choices for event in reader.feed(read_chunk(json.dumps({"choices": [each]})))]
    return [*found, *(reader.end() if end else ())]


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"delta": {"content": text}} | more


def call(index: int | None = None, id: str = "", name: str = "", arguments: str | None = None) -> dict[str, Any]:
    function = ({"name": name} if name else {}) | ({} if arguments is None else {"arguments": arguments})
    entry: dict[str, Any] = (
        {"function": function} | ({} if index is None else {"index": index}) | ({"id": id} if id else {})
    )
    return {"delta": {"tool_calls": [entry]}}


def finish(reason: str) -> dict[str, Any]:
    return {"delta": {}, "finish_reason": reason}


def calls_of(events: list[Event]) -> list[ToolCall]:
    """The complete calls; checks that no call's events are mixed with another's."""
    current = ""
    for event in events:
        if isinstance(event, CallStarted):
            assert not current, "a call begins within another"
            current = event.id
        elif isinstance(event, CallDelta):
            assert event.id == current
        elif isinstance(event, CallDone):
            assert event.call.id == current
            assert event.call.arguments == "".join(
                each.arguments for each in events if isinstance(each, CallDelta) and each.id == current
            )
            current = ""
    return [event.call for event in events if isinstance(event, CallDone)]


def test_a_call_comes_in_pieces() -> None:
    events = read(
        said("Let me see."),
        call(0, "c1", "weather", ""),
        call(0, arguments='{"city": '),
        call(0, arguments='"Rome"}'),
        finish("tool_calls"),
    )
    assert events == [
        Started(7),
        TextDelta("Let me see."),
        TextDone(),
        CallStarted("c1", "weather"),
        CallDelta("c1", '{"city": '),
        CallDelta("c1", '"Rome"}'),
        CallDone(ToolCall("c1", "weather", '{"city": "Rome"}')),
        Finished("tool_calls", Usage(7, 0, 3)),
    ]


ARGUMENTS = ['{"city": "Rome", "days": [1, 2]}', '{"city": "Oslo"}', '{"a": {"b": "}"}}']


@given(st.randoms(use_true_random=False), st.booleans())
def test_parallel_calls_are_whole_however_their_pieces_are_mixed(chance: Any, mixed: bool) -> None:
    pieces: list[dict[str, Any]] = []
    waiting = []
    for index, arguments in enumerate(ARGUMENTS):
        cuts = sorted(chance.sample(range(len(arguments)), 4))
        texts = [arguments[a:b] for a, b in zip([0, *cuts], [*cuts, len(arguments)], strict=True)]
        waiting.append([call(index, f"c{index}", "f", texts[0]), *(call(index, arguments=text) for text in texts[1:])])
    while any(waiting):
        order = [each for each in waiting if each]
        pieces.append((chance.choice(order) if mixed else order[0]).pop(0))
    if mixed:  # a server names a call before it goes on with it, and calls in their order
        pieces.sort(key=lambda piece: "id" not in piece["delta"]["tool_calls"][0])
        heads = sorted(pieces[:3], key=lambda piece: piece["delta"]["tool_calls"][0]["index"])
        pieces = [*heads, *pieces[3:]]
    events = read(*pieces, finish("tool_calls"))
    assert [(each.id, each.arguments) for each in calls_of(events)] == [
        (f"c{index}", arguments) for index, arguments in enumerate(ARGUMENTS)
    ]


def test_whole_calls_without_an_index_are_several() -> None:
    events = read(call(None, "a", "f", "{}"), call(None, "b", "g", '{"x": 1}'), finish("stop"))
    assert [each.name for each in calls_of(events)] == ["f", "g"]
    assert isinstance(events[-1], Finished)
    assert events[-1].reason == "tool_calls"


def test_a_call_without_an_id_gets_one_and_two_of_one_id_do_not_share_it() -> None:
    none, same, other = calls_of(
        read(call(0, "", "f", "{}"), call(1, "x", "f", "{}"), call(2, "x", "f", "{}"), finish("stop"))
    )
    assert len({none.id, same.id, other.id}) == 3
    assert none.id.startswith("call_")
    assert same.id == "x"


def test_a_call_without_arguments_has_none() -> None:
    assert calls_of(read(call(0, "a", "now", ""), call(1, "b", "then"), finish("tool_calls"))) == [
        ToolCall("a", "now", "{}"),
        ToolCall("b", "then", "{}"),
    ]


def test_a_call_that_was_cut_short_is_not_done() -> None:
    events = read(call(0, "a", "f", "{}"), call(1, "b", "f", '{"x": '), finish("length"))
    assert [each.id for each in calls_of(events)] == ["a"]
    assert isinstance(events[-1], Finished)
    assert events[-1].reason == "length"


def test_text_behind_a_call_is_none() -> None:
    events = read(call(0, "a", "f", "{}"), said("\n"), finish("tool_calls"))
    assert not [event for event in events if isinstance(event, TextDelta)]


def test_log_probabilities_come_with_their_text() -> None:
    token = {"token": "Hi", "logprob": -0.5, "bytes": None, "top_logprobs": [{"token": "Ho", "logprob": -1.5}]}
    half = {"token": "�", "logprob": -2.0, "top_logprobs": []}
    events = read(
        said("", logprobs={"content": [half]}), said("Hi", logprobs={"content": [token]}), finish("stop"), end=False
    )
    assert events[1] == TextDelta("Hi", 2, (TokenLogprob("�", -2.0), TokenLogprob("Hi", -0.5, (("Ho", -1.5),))))


@pytest.mark.parametrize(
    ("reason", "ours"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("content_filter", "content_filter"),
        ("eos", "stop"),
        ("tool_calls", "stop"),
    ],
)
def test_reasons_are_ours(reason: str, ours: str) -> None:
    last = read(said("Hi"), finish(reason))[-1]
    assert isinstance(last, Finished)
    assert last.reason == ours


def test_a_refusal_is_text() -> None:
    assert read({"delta": {"refusal": "I can't."}}, finish("stop"))[1] == TextDelta("I can't.")


def test_a_reply_that_was_aborted_has_failed() -> None:
    with pytest.raises(Broken):
        read(said("Hi"), finish("abort"))


@pytest.mark.parametrize(
    "wrong",
    [
        [call(0, "a", "", "{}")],
        [call(0, "a", "f", "{}"), call(1, "b", "f", "{}"), call(0, arguments="}")],
        [{"delta": {"tool_calls": [{"index": 1000, "function": {"name": "f"}}]}}],
        [{"delta": {"tool_calls": "f"}}],
        [{"delta": {"content": ["a"]}}],
    ],
)
def test_what_makes_no_sense_is_an_error(wrong: list[dict[str, Any]]) -> None:
    with pytest.raises(Malformed):
        read(*wrong, finish("stop"))


@pytest.mark.parametrize(
    "data", ["", "null", "[]", "{", '{"object": "ping"}', '{"choices": 3}', '{"usage": {"prompt_tokens": -1}}']
)
def test_what_is_no_chunk_is_an_error(data: str) -> None:
    with pytest.raises(Malformed):
        read_chunk(data)
