"""Frames and errors, as a gateway and the replica of a part send them."""

import json

import pytest

from pipelines.events import ErrorKind, StageError
from server.cluster.parts.wire import (
    BODY_BYTES,
    END,
    HEAD_BYTES,
    LENGTHS,
    Frame,
    FrameReader,
    MalformedError,
    error_head,
    error_in,
    error_of,
    only,
)

FRAMES = [Frame({"words": [[1, 2]], "text": "ä\n"}, bytes(range(256))), Frame(), Frame({}, b"x"), END]


def test_frames_are_the_same_however_the_stream_is_cut() -> None:
    data = b"".join(each.packed() for each in FRAMES)
    for size in (1, 3, 8, 100, len(data)):
        reader = FrameReader()
        found = [frame for at in range(0, len(data), size) for frame in reader.feed(data[at : at + size])]
        assert found == FRAMES
        assert not reader.begun
    assert [each.ends for each in FRAMES] == [False, False, False, True]


@pytest.mark.parametrize(
    "data",
    [
        LENGTHS.pack(HEAD_BYTES + 1, 0),
        LENGTHS.pack(2, BODY_BYTES + 1) + b"{}",
        LENGTHS.pack(2, 0) + b"[]",
        LENGTHS.pack(3, 0) + b"{a}",
        LENGTHS.pack(2, 0) + b"\xff\xff",
        LENGTHS.pack(100_000, 0) + b"[" * 100_000,
        b"HTTP/1.1 200 OK\r\n\r\n",
    ],
)
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        list(FrameReader().feed(data))


def test_a_request_is_one_frame_and_nothing_else() -> None:
    frame = Frame({"a": 1}, b"b")
    assert only(frame.packed()) == frame
    for data in (b"", frame.packed() * 2, frame.packed()[:-1], frame.packed() + b"x"):
        with pytest.raises(MalformedError):
            only(data)
    with pytest.raises(MalformedError):
        Frame({}, bytes(BODY_BYTES + 1)).packed()


@pytest.mark.parametrize("kind", ["invalid_request", "overloaded", "unavailable", "internal"])
def test_an_error_of_each_kind_comes_out_the_same(kind: ErrorKind) -> None:
    given = StageError(kind, "some_code", "Some words: ä.", param="p", retry_after=3)
    found = error_of(Frame(error_head(given)).head)
    assert found is not None
    assert [getattr(found, name) for name in ("kind", "code", "message", "param", "retry_after")] == [
        kind,
        "some_code",
        "Some words: ä.",
        "p",
        3,
    ]
    assert error_of({"rate": 1}) is None
    again = error_in(json.dumps(error_head(found)).encode())
    assert again is not None
    assert again.code == "some_code"


@pytest.mark.parametrize(
    "said",
    [
        {"kind": "other", "code": "a", "message": ""},
        {"kind": "internal", "code": "A b", "message": ""},
        {"kind": "internal", "code": "a", "message": 1},
        {"kind": "internal", "code": "a", "message": "", "more": 1},
        {"kind": "internal", "code": "a", "message": "x" * 9000},
        "internal",
        None,
    ],
)
def test_an_error_that_is_none_is_refused(said: object) -> None:
    with pytest.raises(MalformedError):
        error_of({"error": said})
