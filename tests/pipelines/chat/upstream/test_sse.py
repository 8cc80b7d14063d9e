from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.chat.upstream.sse import EventReader, Malformed


def read(pieces: Sequence[bytes], most: int = 1000) -> list[str]:
    reader = EventReader(most)
    found = [event for piece in pieces for event in reader.feed(piece)]
    return [*found, *reader.end()]


STREAM = (
    '\ufeff: hello\r\n\r\nevent: chunk\r\ndata: {"a": "grüß 👋"}\r\n\r\n: keep-alive\n\ndata:first\ndata: second\n\n'
    "id: 7\nretry: 5\n\rdata: x\r\rdata: [DONE]\n\n"
).encode()
EVENTS = ['{"a": "grüß 👋"}', "first\nsecond", "x", "[DONE]"]


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_the_events_are_the_same_however_their_bytes_were_cut(cuts: list[int]) -> None:
    at = [0, *sorted(cuts), len(STREAM)]
    assert read([STREAM[begin:end] for begin, end in pairwise(at)]) == EVENTS


def test_every_byte_may_come_alone() -> None:
    assert read([bytes([each]) for each in STREAM]) == EVENTS


@pytest.mark.parametrize("end", ["data: [DONE]", "data: [DONE]\n", "data: [DONE]\r", "data: [DONE]\r\n"])
def test_the_last_events_empty_line_may_be_missing(end: str) -> None:
    assert read([f"data: 1\n\n{end}".encode()]) == ["1", "[DONE]"]


@pytest.mark.parametrize("left", ['data: {"a": 1}', 'data: {"a": 1}\n', "dat", "data", "data: [DO", "data: 1\n: more"])
def test_half_an_event_at_the_end_is_an_error(left: str) -> None:
    with pytest.raises(Malformed, match="within an event"):
        read([f"data: 1\n\n{left}".encode()])


@pytest.mark.parametrize("garbage", ["<html>\n", '{"object": "error"}\n', "data {}\n\n", "\x00\x01\n"])
def test_what_is_no_event_is_an_error(garbage: str) -> None:
    with pytest.raises(Malformed, match="no field"):
        read([garbage.encode()])


def test_bytes_that_are_no_utf8_are_an_error() -> None:
    with pytest.raises(Malformed, match="UTF-8"):
        read([b"data: \xff\xfe\n\n"])


@pytest.mark.parametrize("long", [b"x" * 1001, b"data: " + b"x" * 1001 + b"\n\n", b"data: 123456789\n" * 112])
def test_the_bytes_of_an_event_are_bounded(long: bytes) -> None:
    with pytest.raises(Malformed, match="more than 1000 bytes"):
        read([long])
