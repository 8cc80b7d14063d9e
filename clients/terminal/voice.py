"""``loquent chat --voice``: a spoken conversation, with the microphone open or while Enter says so."""

import asyncio
import base64
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.markup import escape

from clients.target import Target, session
from clients.terminal.microphone import microphone
from clients.terminal.sound import Player
from loquent import Session

OPEN = "Speak; Ctrl-C leaves. With loudspeakers rather than headphones, the assistant may hear itself."
HARMLESS = ("response_cancel_not_active", "item_truncate_invalid_item_id")
PUSH = "Enter begins to record, and Enter again sends it; Ctrl-C leaves."


async def talk(target: Target, *, push: bool = False) -> None:
    """Talk until Ctrl-C. Raises: LoquentError without a microphone or a sound card, ConnectionFailedError."""
    console = Console()
    listening: dict[str, Any] = {"transcription": {"model": "whisper-1"}}
    if push:
        listening["turn_detection"] = None
    audio = {**target.session.get("audio", {}), "input": listening}
    target = replace(target, session=target.session | {"audio": audio})
    async with session(target, waiting=console.print) as opened:
        console.print(
            f"[bold]{escape(opened.model)}[/bold] at {escape(target.url)}\n[dim]{PUSH if push else OPEN}[/dim]\n"
        )
        for warning in opened.warnings:
            console.print(f"[yellow]{escape(warning)}[/yellow]\n")
        with Player() as player:
            async with microphone() as pieces:
                await _Talk(opened, player, console, push=push).run(pieces)


class _Talk:
    """One conversation."""

    def __init__(self, opened: Session, player: Player, console: Console, *, push: bool) -> None:
        self._opened = opened
        self._player = player
        self._console = console
        self._push = push
        self._records = not push
        self._item = ""  # the message that is being said, or was said last
        self._line = False  # a line of the reply is begun

    async def run(self, pieces: AsyncIterator[bytes]) -> None:
        """Talk until something fails, or until cancelled."""
        works = [self._send(pieces), self._show()]
        if self._push:
            works.append(_on_enter(self._toggle))
        tasks = [asyncio.ensure_future(work) for work in works]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self, pieces: AsyncIterator[bytes]) -> None:
        async for piece in pieces:
            if self._records:
                await self._opened.append(piece)

    async def _toggle(self) -> None:
        """Begin to record, or send what was recorded."""
        self._records = not self._records
        if self._records:
            await self._interrupt(cancel=True)
            await self._opened.send("input_audio_buffer.clear")
            self._console.print("[dim]recording …[/dim]")
        else:
            await self._opened.send("input_audio_buffer.commit")
            await self._opened.send("response.create")

    async def _interrupt(self, *, cancel: bool) -> None:
        """Stop the reply, and say how much of it was heard."""
        self._player.stop()
        if cancel:
            await self._opened.send("response.cancel")
        if self._item and (heard := self._player.heard) is not None:
            await self._opened.send(
                "conversation.item.truncate", item_id=self._item, content_index=0, audio_end_ms=heard
            )
        self._item = ""
        self._end_line()

    async def _show(self) -> None:
        async for event in self._opened.events():
            await self._take(event)

    async def _take(self, event: dict[str, Any]) -> None:
        match event["type"]:
            case "input_audio_buffer.speech_started":
                if self._item:
                    await self._interrupt(cancel=False)
            case "conversation.item.input_audio_transcription.completed":
                self._end_line()
                self._console.print(f"[bold]>[/bold] {escape(event['transcript'])}")
            case "conversation.item.input_audio_transcription.failed":
                self._console.print(f"[yellow]{escape(event['error']['message'])}[/yellow]")
            case "error" if event["error"].get("code") not in HARMLESS:
                self._end_line()
                self._console.print(f"[yellow]{escape(event['error']['message'])}[/yellow]")
            case "response.created":
                self._player.begin()
            case "response.output_audio.delta":
                self._item = event["item_id"]
                self._player.play(base64.b64decode(event["delta"]))
            case "response.output_audio_transcript.delta" | "response.output_text.delta":
                self._line = True
                self._console.print(event["delta"], end="", markup=False, highlight=False, soft_wrap=True)
            case "response.done":
                self._end_line()
                self._report(event["response"])

    def _report(self, response: dict[str, Any]) -> None:
        error = (response.get("status_details") or {}).get("error")
        if error and error.get("code") != "no_speech":
            self._console.print(f"[red]{escape(str(error.get('message')))}[/red]")

    def _end_line(self) -> None:
        if self._line:
            self._console.print("\n")
        self._line = False


async def _on_enter(work: Callable[[], Any]) -> None:
    """Do ``work`` whenever Enter is pressed; ends with standard input."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        while await reader.readline():
            await work()
    finally:
        with suppress(OSError):
            transport.close()
