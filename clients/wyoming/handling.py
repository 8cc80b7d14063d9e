"""``transcript`` as a message: what a user said, answered in the conversation of their satellite."""

from contextlib import aclosing
from typing import Any

from wyoming.event import Event
from wyoming.handle import Handled, HandledChunk, HandledStart, HandledStop, NotHandled

from clients.conversations import Conversations, Use
from clients.wyoming.frames import object_of, text_of
from clients.wyoming.speaking import Send
from loquent import ConnectionFailedError, Done, LoquentError, Text

TEXT_BYTES = 64 * 1024  # of a message; the server's own limit
NAMES = ("conversation_id", "device_id", "satellite_id")  # of which the first one that is there names a conversation
NAME_BYTES = 200
QUESTION = ("?", "？", "؟", "\N{GREEK QUESTION MARK}")
ATTEMPTS = 2  # a session may have been lost between two messages


async def handle(conversations: Conversations, event: Event, send: Send) -> None:
    """Answer a message. Raises: FrameError when it is malformed, OSError when the peer is gone."""
    text = text_of(event, most=TEXT_BYTES)
    given = object_of(event, "context")
    ids = {name: text_of(Event(event.type, given), name, most=NAME_BYTES) for name in NAMES}
    context: dict[str, Any] = {name: value for name, value in ids.items() if value}
    try:
        if not text.strip():
            raise LoquentError("There is nothing to answer.")
        async with conversations.use(next(iter(context.values()), "")) as use:
            reply = await _Answer(use, text, context, send).run()
        await send(Handled(reply, context | {"continue_conversation": asks(reply)}).event())
        await send(HandledStop().event())
    except LoquentError as error:
        await send(NotHandled(str(error), context).event())


def asks(reply: str) -> bool:
    """Whether a reply ends with a question, so that the user may answer without the wake word."""
    return reply.rstrip(" \n\t\"'*_)»”’").endswith(QUESTION)


class _Answer:
    """One answer, sent while it is written."""

    def __init__(self, use: Use, text: str, context: dict[str, Any], send: Send) -> None:
        self._use = use
        self._text = text
        self._context = context
        self._send = send
        self._begun = False

    async def run(self) -> str:
        """The whole reply. Raises: LoquentError when there is none, OSError when the peer is gone."""
        for attempt in range(ATTEMPTS):
            try:
                return await self._ask()
            except ConnectionFailedError:
                await self._use.close()
                if self._begun or attempt + 1 == ATTEMPTS:
                    raise
            except LoquentError:
                raise
            except BaseException:  # the peer is gone, and the reply would be in the next one's way
                await self._use.close()
                raise
        raise AssertionError("unreachable")

    async def _ask(self) -> str:
        opened = await self._use.session()
        async with aclosing(opened.ask(self._text)) as reply:
            async for piece in reply:
                if isinstance(piece, Text):
                    await self._pass_on(piece.text)
                elif isinstance(piece, Done):
                    return self._whole(piece)
        raise ConnectionFailedError("The server is gone.")

    async def _pass_on(self, piece: str) -> None:
        if not self._begun:
            self._begun = True
            await self._send(HandledStart(self._context).event())
        await self._send(HandledChunk(piece).event())

    def _whole(self, done: Done) -> str:
        if not done.text.strip():
            reason = f" ({done.reason})" if done.reason else ""
            raise LoquentError(f"There is no answer{reason}.")
        return done.text
