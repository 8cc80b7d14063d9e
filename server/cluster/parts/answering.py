"""The side of a replica: answers what gateways ask of its part, behind the guard."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager

from aiohttp import web
from pydantic import ValidationError

from pipelines.events import StageError, shutting_down
from server.backend import BACKEND, Backend
from server.cluster.parts.wire import (
    CONTENT_TYPE,
    DESCRIBE,
    END,
    FORMAT,
    FORMAT_HEADER,
    MALFORMED,
    PATH,
    REQUEST_BYTES,
    Frame,
    MalformedError,
    error_head,
    only,
)
from server.errors import STATUS, as_stage_error

log = logging.getLogger(__name__)

BODY_SECONDS = 10.0  # in which a request must have come
WRITE_SECONDS = 120.0  # that a gateway may leave a piece unread: speech is read as it is played

Answer = Callable[[Frame], AsyncGenerator[Frame]]  # raises in the stream: StageError, what the frame's reader raises


class Load:
    """How much a replica has to do, in progress or waiting: Serve asks, and adds or removes replicas by it."""

    def __init__(self) -> None:
        self.ongoing = 0  # passages, texts to judge, pictures, or sentences

    @contextmanager
    def of(self, count: int) -> Iterator[None]:
        """So many while the block runs."""
        self.ongoing += count
        try:
            yield
        finally:
            self.ongoing -= count


class Answering:
    """Answers requests below ``PATH``."""

    def __init__(self, answers: Mapping[str, Answer], describe: Callable[[], Frame]) -> None:
        """``answers`` by the last part of their path; ``describe`` says what this is, and may raise StageError."""

        async def described(request: Frame) -> AsyncGenerator[Frame]:
            yield describe()

        self._answers = {**answers, DESCRIBE: described}

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """Answer it; a gateway that closes the connection cancels this, and what is computed for it is dropped."""
        answer = self._answers.get(request.path.removeprefix(PATH))
        if answer is None or request.method != "POST":
            return _refused(StageError("invalid_request", "not_found", "This replica has no such part."), 404)
        if (given := request.headers.get(FORMAT_HEADER, "")) != FORMAT:
            text = f"This replica speaks format {FORMAT}, and not {given:.20}: another version is being rolled out."
            return _refused(StageError("unavailable", "other_format", text), 409)
        backend = request.app[BACKEND]
        if backend.draining:
            return _refused(shutting_down())
        with backend.in_flight():
            return await _answered(request, backend, answer)


async def _answered(request: web.Request, backend: Backend, answer: Answer) -> web.StreamResponse:
    async def write(response: web.StreamResponse, data: bytes) -> None:
        await backend.deliver(request, response.write(data), seconds=WRITE_SECONDS)

    response: web.StreamResponse | None = None
    try:
        async with aclosing(answer(only(await _body(request)))) as frames:
            async for frame in _with_end(frames):
                data = frame.packed()
                if response is None:
                    response = web.StreamResponse(headers={FORMAT_HEADER: FORMAT, "Content-Type": CONTENT_TYPE})
                    await response.prepare(request)
                await write(response, data)
    except Exception as error:
        if isinstance(error, ConnectionError):
            raise
        failure = _as_stage_error(error)
        if response is None:
            return _refused(failure)
        await write(response, Frame(error_head(failure)).packed())
    assert response is not None  # noqa: S101 - there is at least the end
    await response.write_eof()
    return response


async def _with_end(frames: AsyncGenerator[Frame]) -> AsyncGenerator[Frame]:
    async for frame in frames:
        yield frame
    yield END


async def _body(request: web.Request) -> bytes:
    """The request's body. Raises: MalformedError."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for piece in request.content.iter_any():
                body += piece
                if len(body) > REQUEST_BYTES:
                    raise MalformedError(f"a request has at most {REQUEST_BYTES} bytes")
    except TimeoutError:
        raise MalformedError(f"it did not come within {BODY_SECONDS:.0f} s") from None
    return bytes(body)


def _as_stage_error(error: Exception) -> StageError:
    if isinstance(error, MalformedError | ValidationError):
        # Without pydantic's words: they hold what was sent.
        text = str(error) if isinstance(error, MalformedError) else type(error).__name__
        return StageError("invalid_request", MALFORMED, f"The request can't be read: {text}.")
    if not isinstance(error, StageError):
        log.error("a part failed on a request: %s", type(error).__name__)  # its words may be those of a client
    return as_stage_error(error)


def _refused(error: StageError, status: int | None = None) -> web.Response:
    return web.json_response(error_head(error), status=status or STATUS[error.kind], headers={FORMAT_HEADER: FORMAT})
