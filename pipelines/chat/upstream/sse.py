"""Reads server-sent events out of bytes, however they were cut: pure, bounded, and strict about what is no event.

The format is that of https://html.spec.whatwg.org/multipage/server-sent-events.html, except that a field that it does
not know is an error here: what a peer sends instead of events must not look like silence.
"""

import re
from collections.abc import Iterator

MOST = 1024 * 1024  # bytes of one event
FIELDS = (b"data", b"event", b"id", b"retry")
_END = re.compile(rb"\r\n|\n|\r(?!\Z)")  # of a line; what follows a CR at the end of the bytes may be its LF
_BOM = b"\xef\xbb\xbf"


class Malformed(ValueError):  # noqa: N818 - what the bytes are
    """This is no stream of events; the message says why."""


class EventReader:
    """The data of the events of one response."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._rest = bytearray()  # of a line; bounded by ``most``
        self._data: list[bytes] = []  # of the event that is being read; bounded by ``most``
        self._size = 0  # of it
        self._first = True

    def feed(self, received: bytes) -> Iterator[str]:
        """The events that these bytes complete. Raises: Malformed."""
        ends = b"\n" in received or b"\r" in received or self._rest.endswith(b"\r")
        self._rest += received
        if ends:
            *lines, rest = _END.split(bytes(self._rest))
            self._rest = bytearray(rest)
            for line in lines:
                if (text := self._line(line)) is not None:
                    yield text
        self._check(len(self._rest))

    def end(self) -> Iterator[str]:
        """The last event, where only its empty line is missing. Raises: Malformed where half an event is left."""
        line = bytes(self._rest).rstrip(b"\r")
        if line in (b"data: [DONE]", b"data:[DONE]"):
            self._line(line)
        elif line and not line.startswith(b":"):
            raise Malformed("the stream ended within an event")
        if self._data == [b"[DONE]"]:
            yield from self._dispatch()
        elif self._data:
            raise Malformed("the stream ended within an event")

    def _line(self, line: bytes) -> str | None:
        """The event that ends with this line, if one does."""
        if self._first:
            self._first = False
            line = line.removeprefix(_BOM)
        if not line:
            return next(self._dispatch(), None)
        field, _, value = line.partition(b":")
        if field == b"data":
            self._data.append(value.removeprefix(b" "))
            self._size += len(value)
            self._check(0)
        elif field and field not in FIELDS:  # a comment has none
            raise Malformed("a line is no field of an event")
        return None

    def _dispatch(self) -> Iterator[str]:
        data, self._data, self._size = self._data, [], 0
        if data:
            try:
                yield b"\n".join(data).decode()
            except UnicodeDecodeError:
                raise Malformed("an event is no UTF-8") from None

    def _check(self, pending: int) -> None:
        if self._size + pending > self._most:
            raise Malformed(f"an event has more than {self._most} bytes")
