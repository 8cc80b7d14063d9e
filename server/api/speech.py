"""``POST /v1/audio/speech``: speech synthesis, in OpenAI's format; the sound is streamed while it is computed."""

import asyncio
import base64
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from pipelines.events import AudioDelta, Speech, StageError, audio_tokens
from pipelines.speech.formats import CONTENT_TYPES, FORMATS, AudioFormatName, Encoder
from pipelines.speech.stage import SpeechStage
from server.api import requests
from server.auth import TENANT
from server.backend import BACKEND, Backend, abort
from server.errors import ApiError, translate

log = logging.getLogger(__name__)

IGNORED: dict[str, requests.Harmless] = {"instructions": "any", "user": "any"}


class VoiceId(BaseModel):
    """A voice, by its id."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    id: str


class SpeechRequest(BaseModel):
    """The supported parameters."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    input: Annotated[str, Field(min_length=1)]
    model: str | None = None
    voice: str | VoiceId | None = None
    response_format: Annotated[
        Literal["mp3", "opus", "aac", "flac", "wav", "pcm"], WithJsonSchema({"type": "string", "enum": list(FORMATS)})
    ] = "mp3"
    speed: Annotated[float, Field(ge=0.25, le=4)] = 1.0
    stream_format: Literal["audio", "sse"] = "audio"


async def create(request: web.Request) -> web.StreamResponse:
    """Speak a text."""
    backend = request.app[BACKEND]
    asked = requests.read(await requests.body(request), SpeechRequest, ignored=IGNORED)
    if asked.response_format == "aac":
        known = ", ".join(FORMATS)
        raise ApiError(
            400,
            "unsupported_value",
            f"response_format: aac is not supported; use {known}.",
            "response_format",
        )
    backend.names_of("speech").resolve(asked.model)
    speech = backend.pipeline.find(SpeechStage)
    if speech is None:
        raise ApiError(404, "voice_not_found", "This server has no voice: [pipeline] stages lacks 'speech'.")
    speaker = _speaker(backend, asked)
    sound = speech.read(asked.input, Speech(speaker, asked.speed), request[TENANT])
    async with aclosing(sound), aclosing(_audible(sound)) as audible:
        first = await anext(audible, None)
        if first is None:
            raise ApiError(400, "nothing_to_say", "input: there is nothing in it that this voice can say.", "input")
        return await _Answer(request, backend, asked.response_format, asked.stream_format).run(first, audible)


def _speaker(backend: Backend, asked: SpeechRequest) -> str:
    voices = backend.voices
    name = asked.voice.id if isinstance(asked.voice, VoiceId) else asked.voice
    return voices.resolve(name) if voices is not None else ""


async def _audible(deltas: AsyncGenerator[AudioDelta]) -> AsyncGenerator[bytes]:
    async for delta in deltas:
        if delta.pcm:
            yield delta.pcm


class _Answer:
    """Sends the sound of one request, encoded."""

    def __init__(
        self, request: web.Request, backend: Backend, format: AudioFormatName, framing: Literal["audio", "sse"]
    ) -> None:
        self._request = request
        self._backend = backend
        self._encoder = Encoder(format)
        self._events = framing == "sse"
        kind = "text/event-stream; charset=utf-8" if self._events else CONTENT_TYPES[format]
        self._response = web.StreamResponse(headers={"Content-Type": kind, "Cache-Control": "no-cache"})

    async def run(self, first: bytes, rest: AsyncGenerator[bytes]) -> web.StreamResponse:
        """Send everything. When the voice fails midway, an SSE stream ends with an error and a plain stream is cut."""
        await self._response.prepare(self._request)
        samples = 0
        try:
            pcm: bytes | None = first
            while pcm is not None:
                samples += len(pcm) // 2
                await self._send(await asyncio.to_thread(self._encoder.encode, pcm))
                pcm = await anext(rest, None)
            await self._send(await asyncio.to_thread(self._encoder.end))
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:
            if isinstance(error, StageError):
                log.warning("speech stopped before the end of the text: %s", error.code)
            else:
                log.exception("speech stopped before the end of the text")
            if not self._events:
                abort(self._request)  # the client sees that the sound is incomplete
                raise ConnectionResetError("the sound is incomplete") from error
            await self._send_event(translate(error).body())
            return self._response
        if self._events:
            tokens = audio_tokens(samples)
            usage = {"input_tokens": 0, "output_tokens": tokens, "total_tokens": tokens}
            await self._send_event({"type": "speech.audio.done", "usage": usage})
        return self._response

    async def _send(self, data: bytes) -> None:
        if not data:
            return
        if self._events:
            await self._send_event({"type": "speech.audio.delta", "audio": base64.b64encode(data).decode()})
        else:
            await self._backend.deliver(self._request, self._response.write(data))

    async def _send_event(self, event: dict[str, Any]) -> None:
        await self._backend.deliver(self._request, self._response.write(f"data: {json.dumps(event)}\n\n".encode()))
