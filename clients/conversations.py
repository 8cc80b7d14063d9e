"""Conversations that go on: a realtime session each, by name, bounded in number and idle time."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from clients.target import Target, session
from loquent import LoquentError, Session

MOST = 32  # conversations at a time
IDLE_SECONDS = 300.0  # without a message, after which a conversation is forgotten
SWEEP_SECONDS = 15.0  # between two looks for those


class TooManyError(LoquentError):
    """Every conversation is in use."""


class _Conversation:
    """One conversation; the session is opened with its first message."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0  # that hold the lock or wait for it
        self.used = 0.0
        self._stack = AsyncExitStack()
        self._session: Session | None = None

    async def opened(self, target: Target) -> Session:
        """The session. Raises: LoquentError when it can't be opened."""
        if self._session is None:
            self._session = await self._stack.enter_async_context(session(target))
        return self._session

    async def close(self) -> None:
        """End the session; the next message opens another one."""
        stack, self._stack, self._session = self._stack, AsyncExitStack(), None
        with suppress(OSError):
            await stack.aclose()


class Conversations:
    """The conversations of one adapter."""

    def __init__(
        self,
        target: Target,
        *,
        most: int = MOST,
        idle: float = IDLE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._target = target
        self._most = most
        self._idle = idle
        self._clock = clock
        self._all: dict[str, _Conversation] = {}

    def __len__(self) -> int:
        return len(self._all)

    @asynccontextmanager
    async def use(self, name: str) -> AsyncIterator["Use"]:
        """The conversation of this name, for one message at a time.

        Raises: TooManyError when all are in use.
        """
        conversation = await self._find(name)
        conversation.users += 1
        try:
            async with conversation.lock:
                yield Use(conversation, self._target)
        finally:
            conversation.users -= 1
            conversation.used = self._clock()

    async def _find(self, name: str) -> _Conversation:
        found = self._all.get(name)
        if found is None:
            found = _Conversation()
            if len(self._all) >= self._most:
                await self._drop(self._oldest())
            self._all[name] = found
        found.used = self._clock()
        return found

    def _oldest(self) -> str:
        idle = [name for name, each in self._all.items() if not each.users]
        if not idle:
            raise TooManyError(f"There are {self._most} conversations in progress; try again.")
        return min(idle, key=lambda name: self._all[name].used)

    async def _drop(self, name: str) -> None:
        await self._all.pop(name).close()

    async def sweep(self) -> None:
        """Forget those that were idle for long."""
        until = self._clock() - self._idle
        for name in [name for name, each in self._all.items() if not each.users and each.used <= until]:
            await self._drop(name)

    async def watch(self) -> None:
        """Sweep again and again, until cancelled; then end them all."""
        try:
            while True:
                await asyncio.sleep(SWEEP_SECONDS)
                await self.sweep()
        finally:
            for name in list(self._all):
                await self._drop(name)


class Use:
    """A conversation for as long as one message takes."""

    def __init__(self, conversation: _Conversation, target: Target) -> None:
        self._conversation = conversation
        self._target = target

    async def session(self) -> Session:
        """Raises: LoquentError when the server can't be reached."""
        return await self._conversation.opened(self._target)

    async def close(self) -> None:
        """End the session, which is lost or in an unknown state; the conversation begins anew."""
        await self._conversation.close()
