"""``loquent chat``: a conversation in the terminal."""

import asyncio
import signal
import sys
import termios
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, nullcontext, suppress
from pathlib import Path

import platformdirs
from prompt_toolkit import PromptSession
from prompt_toolkit.formatted_text import HTML
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.patch_stdout import patch_stdout
from rich.console import Console
from rich.markup import escape

from clients.target import Target, session
from clients.terminal.render import MarkdownStream
from clients.terminal.sound import Player
from loquent import ConnectionFailedError, Done, LoquentError, Session, Sound, Text
from loquent.texts import clean

HELP = "Enter sends, Alt-Enter starts a new line, Ctrl-C cancels a reply, Ctrl-D leaves."


async def chat(target: Target, *, spoken: bool = False) -> None:
    """Chat until the user leaves; ``spoken`` also plays the replies.

    Raises: ConnectionFailedError when the server is unreachable or the connection is lost, LoquentError without a sound
    card.
    """
    console = Console()
    prompt = _prompt(_history(console))
    with Player() if spoken else nullcontext() as player:
        async with session(target, waiting=console.print) as opened:
            console.print(f"[bold]{escape(opened.model)}[/bold] at {escape(target.url)}\n[dim]{HELP}[/dim]\n")
            for warning in opened.warnings:
                console.print(f"[yellow]{escape(warning)}[/yellow]\n")
            while (text := await _read(prompt, console)) is not None:
                if text:
                    await _answer(opened, text, console, player)
    console.print("[dim]Goodbye.[/dim]")


def _prompt(history: History) -> PromptSession[str]:
    keys = KeyBindings()

    @keys.add("enter")
    def _send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return PromptSession(history=history, key_bindings=keys, multiline=True, prompt_continuation="  ")


def _history(console: Console) -> History:
    """The input history, in a file; where it can't be written, in memory."""
    path = Path(platformdirs.user_state_dir("loquent", appauthor=False)) / "history"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        with path.open("r+b"):
            return _History(path)
    except OSError as error:
        console.print(f"[dim]What you type is not stored: {escape(str(path))}: {error.strerror}.[/dim]")
        return InMemoryHistory()


class _History(FileHistory):
    """A history file; a failed write does not end the conversation."""

    def store_string(self, string: str) -> None:
        with suppress(OSError):  # a full disk
            super().store_string(clean(string))


async def _read(prompt: PromptSession[str], console: Console) -> str | None:
    """The user's next message; ``None`` to leave. Ctrl-C clears the input; a second one on an empty input leaves."""
    warned = False
    while True:
        try:
            with patch_stdout():
                return clean(await prompt.prompt_async(HTML("<b>&gt;</b> "))).strip()
        except EOFError:
            return None
        except KeyboardInterrupt:
            if warned and not prompt.default_buffer.text:
                return None
            warned = True
            console.print("[dim]Ctrl-C again leaves.[/dim]")


async def _answer(opened: Session, text: str, console: Console, player: Player | None) -> None:
    console.print()
    if player is not None:
        player.begin()
    with _no_echo():
        try:
            async with _replying(opened, _show(opened, text, console, player), player) as reply:
                done = await reply
                if player is not None and (heard := player.heard) is not None:
                    await opened.heard(heard)
        except ConnectionFailedError:
            raise
        except LoquentError as error:
            console.print(f"[red]{escape(str(error))}[/red]\n")
            return
    if done.status == "cancelled":
        console.print("[dim]cancelled[/dim]")
    elif done.reason == "max_output_tokens":
        console.print("[dim]… the reply reached its limit of tokens[/dim]")
    console.print()


async def _show(opened: Session, text: str, console: Console, player: Player | None) -> Done:
    done: Done | None = None
    async with aclosing(opened.ask(text)) as reply:
        with MarkdownStream(console) as out:
            async for piece in reply:
                match piece:
                    case Done():
                        done = piece
                    case Sound(pcm):
                        if player is not None:
                            await asyncio.to_thread(player.play, pcm)
                    case Text(text):
                        out.write(text)
    if done is None:
        raise ConnectionFailedError("The server ended the reply without a status.")
    if player is not None:
        await asyncio.to_thread(player.drain)
    return done


@contextmanager
def _no_echo() -> Iterator[None]:
    """Turn echo off, so that input typed during a reply appears only at the next prompt."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    quiet = [*before]
    quiet[3] &= ~termios.ECHO  # the local modes
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


@asynccontextmanager
async def _replying(
    opened: Session, show: Coroutine[None, None, Done], player: Player | None
) -> AsyncIterator[asyncio.Task[Done]]:
    """The task that shows a reply; within the block the first Ctrl-C cancels the reply, and a second one leaves."""
    loop = asyncio.get_running_loop()
    reply = loop.create_task(show)
    cancelling: list[asyncio.Task[None]] = []

    def interrupted() -> None:
        if cancelling:
            reply.cancel()
        else:
            if player is not None:
                player.stop()
            cancelling.append(loop.create_task(_ask_to_cancel(opened)))

    loop.add_signal_handler(signal.SIGINT, interrupted)
    try:
        yield reply
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        for task in (reply, *cancelling):
            task.cancel()
        await asyncio.gather(reply, *cancelling, return_exceptions=True)


async def _ask_to_cancel(opened: Session) -> None:
    with suppress(ConnectionFailedError):  # the reply fails too, and reports it
        await opened.cancel()
