"""Where a client's request goes: to the own server, or to the one that holds the session it comes back to."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qs

import aiohttp

from server.cluster.guard import BRIDGE, HELD
from server.realtime.sessions import session_id

log = logging.getLogger(__name__)

REALTIME = "/v1/realtime"
SEARCH_SECONDS = 1.0  # that the other gateways have to say whether they hold a session; one that does not is left out
HEADER = b"x-loquent-session"  # a session's token, where it is not in the query


@dataclass(frozen=True, slots=True)
class Target:
    """The server of one replica."""

    id: str
    url: str  # "http://10.0.0.5:41234"
    secret: str = field(repr=False)


class Routes:
    """The own server and those of the other gateways, as they are known now."""

    def __init__(self) -> None:
        self.own: Target | None = None  # None while it takes nothing new
        self.others: tuple[Target, ...] = ()
        self.holds: Callable[[str], bool] = _nothing  # whether the own server holds a session

    async def choose(self, session: aiohttp.ClientSession, scope: Mapping[str, object]) -> Target | None:
        """The server for a request; None where there is none.

        A session that none of them holds goes to the own one, which looks for it in the history.
        """
        token = token_of(scope)
        if token and (id := session_id(token)) and not self.holds(id):
            holder = await self._holder(session, id)
            if holder is not None:
                return holder
        if self.own is not None:
            return self.own
        return self.others[hash(token) % len(self.others)] if self.others else None

    async def _holder(self, session: aiohttp.ClientSession, id: str) -> Target | None:
        """The other gateway that holds a session: all are asked at once."""
        asked: dict[asyncio.Task[bool], Target] = {
            asyncio.create_task(_holds(session, target, id), name="session-search"): target for target in self.others
        }
        waiting = set(asked)
        try:
            async with asyncio.timeout(SEARCH_SECONDS):
                while waiting:
                    done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        if task.result():
                            return asked[task]
        except TimeoutError:
            silent = ", ".join(asked[task].id for task in waiting)
            log.warning("%s did not say within %.1f s whether it holds a session", silent, SEARCH_SECONDS)
        finally:
            for task in asked:
                task.cancel()
            if asked:
                await asyncio.wait(asked)
        return None


async def _holds(session: aiohttp.ClientSession, target: Target, id: str) -> bool:
    try:
        async with session.get(f"{target.url}{HELD}{id}", headers={BRIDGE: target.secret}) as response:
            return response.status == 204
    except (aiohttp.ClientError, OSError):  # it has gone
        return False


def token_of(scope: Mapping[str, object]) -> str:
    """The token of the session that a websocket comes back to; "" for any other request."""
    if scope["type"] != "websocket" or scope["path"] != REALTIME:
        return ""
    query = scope.get("query_string", b"")
    given = parse_qs(query.decode("latin-1") if isinstance(query, bytes) else "").get("session", [""])[0]
    headers = scope.get("headers", ())
    if not given and isinstance(headers, Sequence):
        given = next((value.decode("latin-1") for name, value in headers if name == HEADER), "")
    return given


def _nothing(id: str) -> bool:
    return False
