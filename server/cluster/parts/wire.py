"""What a gateway and the replica of a part say to each other over HTTP. Pure.

A request is a POST whose body is one frame; its answer is a stream of frames, of which the last one says that this is
the end, or which error is. A frame is the lengths of its two halves, each 4 bytes, the least first; a JSON object; and
bytes, which are float32 numbers or files. An error before the first frame is an answer with another status than 200,
and the same JSON object.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.events import ErrorKind, StageError

FORMAT: Final = "1"  # to be raised with every change of what is said: others are refused, and not misread
FORMAT_HEADER: Final = "X-Loquent-Part-Format"
CONTENT_TYPE: Final = "application/x-loquent-frames"
PATH: Final = "/-/parts/"
DESCRIBE: Final = "describe"  # below it: what a replica is, in one frame
HEAD_BYTES: Final = 16 * 1024 * 1024  # of one frame, as are the next
BODY_BYTES: Final = 128 * 1024 * 1024
REQUEST_BYTES: Final = 32 * 1024 * 1024
ERROR_BYTES: Final = 64 * 1024
# Codes of errors that gateways show to no client: a request that can't be read, a generator that was replaced.
MALFORMED, OTHER_GENERATOR = "malformed_request", "other_generator"
OF_FLOAT: Final = 4  # bytes
LENGTHS: Final = struct.Struct("<II")


class MalformedError(Exception):
    """What came is none of the above."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A JSON object, and bytes."""

    head: dict[str, Any] = field(default_factory=dict)
    body: bytes = b""

    def packed(self) -> bytes:
        """As it is sent. Raises: MalformedError where it is larger than may be."""
        head = json.dumps(self.head).encode()
        if len(head) > HEAD_BYTES or len(self.body) > BODY_BYTES:
            raise MalformedError(f"a frame of {len(head)} and {len(self.body)} bytes is too large")
        return LENGTHS.pack(len(head), len(self.body)) + head + self.body

    @property
    def ends(self) -> bool:
        """Whether the answer is complete."""
        return self.head.get("end") is True


END: Final = Frame({"end": True})


def floats(body: bytes) -> NDArray[np.float32]:
    """The numbers (N,) that a frame's bytes are, to be written to. Raises: MalformedError."""
    if len(body) % OF_FLOAT:
        raise MalformedError("bytes that are no numbers")
    numbers = np.frombuffer(bytearray(body), "<f4")
    if not np.isfinite(numbers).all():
        raise MalformedError("numbers that are none")
    return numbers


class FrameReader:
    """Cuts a stream of bytes into frames; of one frame at most is more than one read of the stream held."""

    def __init__(self) -> None:
        self._held = bytearray()

    @property
    def begun(self) -> bool:
        """Whether a frame has begun that is not complete."""
        return bool(self._held)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete with these bytes. Raises: MalformedError."""
        self._held += data
        while len(self._held) >= LENGTHS.size:
            head, body = LENGTHS.unpack_from(self._held)
            if head > HEAD_BYTES or body > BODY_BYTES:
                raise MalformedError(f"a frame of {head} and {body} bytes is none")
            end = LENGTHS.size + head + body
            if len(self._held) < end:
                return
            frame = Frame(_object(self._held[LENGTHS.size : LENGTHS.size + head]), bytes(self._held[end - body : end]))
            del self._held[:end]
            yield frame


def only(data: bytes) -> Frame:
    """The one frame that these bytes are. Raises: MalformedError."""
    reader = FrameReader()
    frames = list(reader.feed(data))
    if len(frames) != 1 or reader.begun:
        raise MalformedError("this is not one frame")
    return frames[0]


def _object(data: bytes | bytearray) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise MalformedError("the head of a frame is no JSON object")
    return found


class _Error(BaseModel):
    """An error as it is sent."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    kind: ErrorKind
    code: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,64}$")]
    message: Annotated[str, Field(max_length=8192)]
    param: Annotated[str, Field(max_length=256)] | None = None
    retry_after: Annotated[int, Field(ge=0, le=86400)] | None = None


def error_head(error: StageError) -> dict[str, Any]:
    """The head of a frame, or the body of a response, that says what went wrong."""
    found = {"kind": error.kind, "code": error.code, "message": error.message[:8192]}
    return {"error": found | {"param": error.param, "retry_after": error.retry_after}}


def error_of(head: dict[str, Any]) -> StageError | None:
    """The error that a head says; None where it says none. Raises: MalformedError."""
    if "error" not in head:
        return None
    try:
        said = _Error.model_validate(head["error"])
    except ValidationError:
        raise MalformedError("an error that can't be read") from None
    return StageError(said.kind, said.code, said.message, param=said.param, retry_after=said.retry_after)


def error_in(data: bytes) -> StageError | None:
    """The error that the body of a response says; None where it says none. Raises: MalformedError."""
    return error_of(_object(data))
