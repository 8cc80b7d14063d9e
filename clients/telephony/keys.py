"""The keys that a caller presses: they become one message, once no more come."""

import asyncio
from collections.abc import Awaitable, Callable

from clients.telephony.wire import CallError

PAUSE_SECONDS = 1.5  # after a key, in which another one may follow
END = "#"  # ends a row of keys at once
MOST = 32  # keys of one row
KNOWN = frozenset("0123456789*#ABCDabcd")
MESSAGE = "The caller pressed {keys}."


class Keys:
    """Collects keys. ``press`` and ``run`` belong to one task group of a call."""

    def __init__(self, say: Callable[[str], Awaitable[None]], message: str = MESSAGE) -> None:
        self._say = say
        self._message = message
        self._row = ""
        self._pressed = asyncio.Event()

    def press(self, key: str) -> None:
        """A key was pressed. Raises: CallError when there is no such key."""
        if key not in KNOWN:
            raise CallError("a digit is one key of a telephone")
        if len(self._row) < MOST:
            self._row += key
        self._pressed.set()

    async def run(self) -> None:
        """Say each row of keys once it is complete, until cancelled."""
        while True:
            await self._pressed.wait()
            while self._pressed.is_set() and not self._row.endswith(END):
                self._pressed.clear()
                try:
                    async with asyncio.timeout(PAUSE_SECONDS):
                        await self._pressed.wait()
                except TimeoutError:
                    break
            self._pressed.clear()
            row, self._row = self._row.removesuffix(END), ""
            if row:
                await self._say(self._message.replace("{keys}", " ".join(row)))
