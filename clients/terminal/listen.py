"""``loquent listen``: the words of a file, a pipe or the microphone."""

import asyncio
import http.client
import json
import secrets
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from clients.target import Target, session
from clients.terminal.http import send
from clients.terminal.microphone import microphone, piped
from clients.terminal.output import print_json
from loquent import LoquentError, Session, UsageError

CUT_SHORT = "The server ended the words before their end; its log says why."
FINAL = (
    "conversation.item.input_audio_transcription.completed",
    "conversation.item.input_audio_transcription.failed",
)
TRAILING = bytes(48_000 * 2)  # of silence, behind a pipe's end: it ends the last turn


@dataclass(frozen=True, slots=True)
class Listening:
    """What to listen to, and how."""

    file: str | None = None  # "-" is a sound file on standard input; None is the microphone, or ``raw`` a pipe
    raw: bool = False  # standard input is PCM, as it is recorded
    language: str | None = None
    prompt: str | None = None
    translate: bool = False
    format: str = "text"


def listen_to_file(target: Target, asked: Listening, *, as_json: bool) -> None:
    """Print the words of a sound file. Raises: LoquentError that says what to do."""
    name, data = _read(asked.file or "-")
    format = "verbose_json" if as_json and asked.format == "text" else asked.format
    fields = {
        "model": target.model,
        "language": asked.language,
        "prompt": asked.prompt,
        "response_format": format,
    }
    streams = format == "text"
    if streams:
        fields |= {"response_format": "json", "stream": "true"}
    boundary = secrets.token_hex(16)
    body = _form({key: value for key, value in fields.items() if value}, name, data, boundary)
    path = "/v1/audio/translations" if asked.translate else "/v1/audio/transcriptions"
    with Console(stderr=True).status("listening …", spinner="dots"):
        response = send(target, path, body, f"multipart/form-data; boundary={boundary}")
        with response:
            whole = _show_deltas(response) if streams else b"".join(_lines(response)).decode()
    if as_json and format == "verbose_json":
        print_json(json.loads(whole), sys.stdout)
    elif not streams:
        print(whole.rstrip("\n"))


def _read(file: str) -> tuple[str, bytes]:
    """Raises: UsageError where there is nothing to read."""
    if file == "-":
        return "standard input", sys.stdin.buffer.read()
    try:
        return Path(file).name, Path(file).read_bytes()
    except OSError as error:
        raise UsageError(f"{file} can't be read: {error.strerror}.") from None


def _form(fields: dict[str, str], name: str, data: bytes, boundary: str) -> bytes:
    """A multipart form, of which the file is the last field."""
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode(errors="replace")
        for key, value in fields.items()
    ]
    quoted = name.encode("ascii", "replace").decode().replace('"', "_").replace("\r", "_").replace("\n", "_")
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{quoted}"\r\n\r\n'
    return b"".join([*parts, head.encode(), data, f"\r\n--{boundary}--\r\n".encode()])


def _lines(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Raises: LoquentError where the server ends in between."""
    try:
        yield from response
    except (OSError, http.client.HTTPException) as error:
        raise LoquentError(CUT_SHORT) from error


def _events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    for line in _lines(response):
        if line.startswith(b"data: "):
            yield json.loads(line[6:])


def _show_deltas(response: http.client.HTTPResponse) -> str:
    """Print words as they come; returns them all. Raises: LoquentError where the server fails in between."""
    for event in _events(response):
        if "error" in event:
            raise LoquentError(event["error"]["message"])
        if event["type"] == "transcript.text.delta":
            print(event["delta"], end="", flush=True)
        elif event["type"] == "transcript.text.done":
            print()
            return str(event["text"])
    raise LoquentError(CUT_SHORT)


async def listen_live(target: Target, asked: Listening, *, as_json: bool) -> None:
    """Print what is said into the microphone or a pipe, turn by turn, until its end or Ctrl-C.

    Raises: LoquentError that says what to do.
    """
    transcription = {"model": "whisper-1", "language": asked.language, "prompt": asked.prompt, "delay": "low"}
    settings = {
        "type": "transcription",
        "audio": {"input": {"transcription": {key: value for key, value in transcription.items() if value}}},
    }
    console = Console(stderr=True)
    async with session(replace(target, session=settings), waiting=console.print) as opened:
        shown = _Turns(as_json=as_json)
        showing = asyncio.create_task(shown.show(opened.events()))
        try:
            if asked.raw:
                async with aclosing(piped()) as pieces:  # type: ignore[type-var]
                    await _send(opened, pieces, showing)
                await opened.append(TRAILING)
                await opened.send("input_audio_buffer.commit")  # answered once all that came before is heard
                await shown.wait_for_commit(showing)
            else:
                async with microphone() as heard:
                    console.print("[dim]Speak; Ctrl-C ends.[/dim]")
                    await _send(opened, heard, showing)
        finally:
            showing.cancel()
            with suppress(asyncio.CancelledError):
                await showing
            shown.end()


async def _send(opened: Session, pieces: AsyncIterator[bytes], showing: "asyncio.Task[None]") -> None:
    async for piece in pieces:
        if showing.done():
            showing.result()
            return
        await opened.append(piece)


class _Turns:
    """Prints turns: on a terminal word by word, in JSON one object a turn."""

    def __init__(self, *, as_json: bool) -> None:
        self._json = as_json
        self._live = sys.stdout.isatty() and not as_json
        self._open = ""  # what is printed of the current turn
        self._stopped = ""  # the item of the last turn whose end was heard
        self._by_hand = ""  # the item of the turn that this client ended
        self._all_heard = asyncio.Event()

    async def wait_for_commit(self, showing: "asyncio.Task[None]") -> None:
        """Wait until the turn that this client ended is recognised. Raises: what ``showing`` raises."""
        heard = asyncio.ensure_future(self._all_heard.wait())
        try:
            await asyncio.wait([heard, showing], return_when=asyncio.FIRST_COMPLETED)
        finally:
            heard.cancel()
        if showing.done():
            showing.result()

    async def show(self, events: AsyncIterator[dict[str, Any]]) -> None:
        """Print what the events say. Raises: LoquentError."""
        async for event in events:
            match event["type"]:
                case "error":
                    raise LoquentError(event["error"]["message"])
                case "input_audio_buffer.speech_stopped":
                    self._stopped = event["item_id"]
                case "input_audio_buffer.committed" if event["item_id"] != self._stopped:
                    self._by_hand = event["item_id"]
                case "conversation.item.input_audio_transcription.delta" if self._live:
                    print(event["delta"], end="", flush=True)
                    self._open += event["delta"]
                case "conversation.item.input_audio_transcription.completed":
                    self._complete(event)
                case "conversation.item.input_audio_transcription.failed" if event["error"]["code"] != "no_speech":
                    print(f"loquent: {event['error']['message']}", file=sys.stderr)
            if event["type"] in FINAL and event["item_id"] == self._by_hand:
                self._all_heard.set()

    def _complete(self, event: dict[str, Any]) -> None:
        text = event["transcript"]
        if self._json:
            print_json({"text": text, "seconds": event["usage"].get("seconds")}, sys.stdout)
        elif self._live:
            rest = text[len(self._open) :] if text.startswith(self._open) else f"\r{text}"
            print(rest, flush=True)
        else:
            print(text, flush=True)
        self._open = ""

    def end(self) -> None:
        """End a line that is begun."""
        if self._open:
            print()
