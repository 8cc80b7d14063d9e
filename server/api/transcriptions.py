"""``POST /v1/audio/transcriptions`` and ``/v1/audio/translations``: the words of a sound file, in OpenAI's formats."""

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from pipelines.listening.files import decoded
from pipelines.listening.hearing import Hearing
from pipelines.listening.interface import RATE, Reading, Segment
from server.api.sse import EventStream, failures_in
from server.auth import TENANT
from server.backend import BACKEND, Backend
from server.errors import ApiError

Format = Literal["json", "text", "srt", "verbose_json", "vtt"]
FIELDS = ("file", "model", "language", "prompt", "response_format", "temperature", "timestamp_granularities", "stream")
IGNORED = ("chunking_strategy", "include", "known_speaker_names", "known_speaker_references", "user")
FIELD_BYTES = 16 * 1024  # of a field that is no file
FIELD_COUNT = 64
PIECE = 64 * 1024


@dataclass
class _Asked:
    """What a form holds."""

    file: bytes | None = None
    fields: dict[str, str] = field(default_factory=dict)
    granularities: set[str] = field(default_factory=set)

    @property
    def format(self) -> Format:
        """Raises: ApiError where there is no such format."""
        given = self.fields.get("response_format", "json")
        for known in get_args(Format):
            if given == known:
                return known  # type: ignore[no-any-return]
        raise _unsupported("response_format", given, ", ".join(get_args(Format)))

    @property
    def streams(self) -> bool:
        """Whether the words are to come as they are recognised."""
        return self.fields.get("stream", "false").lower() in ("true", "1")

    def reading(self, *, translate: bool) -> Reading:
        """How the file is to be recognised. Raises: ApiError."""
        words = "word" in self.granularities
        if self.granularities and self.format != "verbose_json":
            text = "timestamp_granularities needs response_format=verbose_json."
            raise ApiError(400, "invalid_value", text, "timestamp_granularities")
        language = self.fields.get("language", "").lower().replace("_", "-").split("-")[0]
        return Reading(language, self.fields.get("prompt", ""), translate, words, self._temperature())

    def _temperature(self) -> float | None:
        given = self.fields.get("temperature", "")
        try:
            value = float(given or 0)
        except ValueError:
            value = math.nan
        if not 0 <= value <= 1:
            raise ApiError(400, "invalid_value", f"temperature: {given!r:.40} is no number from 0 to 1.", "temperature")
        return value or None


def _unsupported(name: str, given: str, known: str) -> ApiError:
    return ApiError(400, "unsupported_value", f"{name}: {given!r:.40} is not supported; use {known}.", name)


async def transcribe(request: web.Request) -> web.StreamResponse:
    """The words of a sound file."""
    return await _answer(request, translate=False)


async def translate(request: web.Request) -> web.StreamResponse:
    """The words of a sound file, in English."""
    return await _answer(request, translate=True)


async def _answer(request: web.Request, *, translate: bool) -> web.StreamResponse:
    backend = request.app[BACKEND]
    hearing = await _hearing(backend)
    asked = await _form(request, backend)
    form, streams = asked.format, asked.streams
    reading = asked.reading(translate=translate)
    backend.names_of("transcriptions").resolve(asked.fields.get("model"))
    if asked.file is None:
        raise ApiError(400, "missing_required_parameter", "file: the sound file is missing.", "file")
    with hearing.capacity.permit(request[TENANT]):
        pcm = await decoded(asked.file, most_seconds=int(backend.settings.listening.file_seconds))
        asked.file = None
        seconds = len(pcm) / 2 / RATE
        async with aclosing(hearing.read(pcm, reading)) as segments:
            if streams:
                return await _stream(request, backend, segments, seconds)
            found = [segment async for segment in segments]
    return _whole(form, found, seconds, reading)


async def _hearing(backend: Backend) -> Hearing:
    hearing = await backend.pipeline.find_loaded(Hearing)
    if hearing is None:
        raise ApiError(404, "listening_not_available", "This server does not listen: [listening] model is empty.")
    hearing.check()
    return hearing


async def _form(request: web.Request, backend: Backend) -> _Asked:
    """Read the form. Raises: ApiError that names the field which is wrong."""
    if not request.content_type.startswith("multipart/"):
        raise ApiError(400, "invalid_form", "The body is a form: multipart/form-data with the field `file`.")
    asked = _Asked()
    limits = backend.settings.limits
    try:
        async with asyncio.timeout(limits.keep_alive + limits.upload_bytes / limits.body_bytes * limits.send_seconds):
            reader = await request.multipart()
            for _ in range(FIELD_COUNT):
                part = await reader.next()
                if part is None:
                    return asked
                if isinstance(part, BodyPartReader):
                    await _field(part, asked, limits.upload_bytes)
    except TimeoutError:
        raise ApiError(408, "request_timeout", "The form did not arrive in time.") from None
    except HttpProcessingError:  # its message is pages long
        raise ApiError(400, "invalid_form", "The form can't be read: the header of a part is invalid.") from None
    except (ValueError, RuntimeError, LookupError) as error:
        raise ApiError(400, "invalid_form", f"The form can't be read: {error}") from None
    raise ApiError(400, "invalid_form", f"The form has more than {FIELD_COUNT} fields.")


async def _field(part: BodyPartReader, asked: _Asked, most: int) -> None:
    name = (part.name or "").removesuffix("[]")
    if name == "file":
        asked.file = await _read(part, most, "file")
        return
    value = (await _read(part, FIELD_BYTES, name)).decode("utf-8", errors="replace")
    if name == "timestamp_granularities":
        if value not in ("word", "segment"):
            raise _unsupported(name, value, "word, segment")
        asked.granularities.add(value)
    elif name in FIELDS:
        asked.fields[name] = value
    elif name not in IGNORED:
        raise ApiError(400, "unknown_parameter", f"There is no parameter {name!r:.80}.", name[:80])


async def _read(part: BodyPartReader, most: int, name: str) -> bytes:
    data = bytearray()
    while chunk := await part.read_chunk(PIECE):
        data += chunk
        if len(data) > most:
            raise ApiError(413, "request_too_large", f"{name[:80]} may have {most} bytes.", name[:80])
    return bytes(data)


async def _stream(
    request: web.Request, backend: Backend, segments: AsyncGenerator[Segment], seconds: float
) -> web.StreamResponse:
    stream = EventStream(request, backend)
    text = ""
    async with failures_in(stream, "transcription"), stream.keep_alive():
        async for segment in segments:
            delta = segment.text if text else segment.text.lstrip()
            text += delta
            await stream.send(json.dumps({"type": "transcript.text.delta", "delta": delta}))
        await stream.send(json.dumps({"type": "transcript.text.done", "text": text, "usage": _usage(seconds)}))
    return stream.response


def _usage(seconds: float) -> dict[str, Any]:
    return {"type": "duration", "seconds": math.ceil(seconds)}


def _whole(form: Format, segments: list[Segment], seconds: float, reading: Reading) -> web.Response:
    text = "".join(segment.text for segment in segments).strip()
    match form:
        case "text":
            return web.Response(text=text + "\n")
        case "srt":
            return web.Response(text="\n".join(_srt(segments)), content_type="application/x-subrip", charset="utf-8")
        case "vtt":
            return web.Response(text="\n".join(_vtt(segments)), content_type="text/vtt", charset="utf-8")
        case "json":
            return web.json_response({"text": text, "usage": _usage(seconds)})
    language = segments[0].language if segments else reading.language
    verbose: dict[str, Any] = {
        "task": "translate" if reading.translate else "transcribe",
        "language": language or "unknown",
        "duration": round(seconds, 3),
        "text": text,
        "usage": _usage(seconds),
        "segments": [_verbose(number, segment) for number, segment in enumerate(segments)],
    }
    if reading.words:
        verbose["words"] = [
            {"word": word.text, "start": word.start, "end": word.end} for segment in segments for word in segment.words
        ]
    return web.json_response(verbose)


def _verbose(number: int, segment: Segment) -> dict[str, Any]:
    return {
        "id": number,
        "seek": 0,
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "tokens": list(segment.tokens),
        "temperature": segment.temperature,
        "avg_logprob": segment.logprob,
        "compression_ratio": segment.compression,
        "no_speech_prob": segment.no_speech,
    }


def _srt(segments: list[Segment]) -> Iterator[str]:
    for number, segment in enumerate(segments, start=1):
        yield f"{number}\n{_time(segment.start, ',')} --> {_time(segment.end, ',')}\n{segment.text.strip()}\n"


def _vtt(segments: list[Segment]) -> Iterator[str]:
    yield "WEBVTT\n"
    for segment in segments:
        text = segment.text.strip().replace("-->", "->")
        yield f"{_time(segment.start, '.')} --> {_time(segment.end, '.')}\n{text}\n"


def _time(seconds: float, point: str) -> str:
    whole = round(seconds * 1000)
    hours, rest = divmod(whole, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}{point}{rest % 1000:03}"
