"""``POST /v1/realtime/client_secrets``: short-lived keys for browsers, with what they may do."""

import secrets
import time
from dataclasses import replace
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from aiohttp import web
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from server.access.leash import Leash
from server.api import requests
from server.auth import CALLER, OWNER
from server.backend import BACKEND, Backend
from server.errors import ApiError
from server.realtime import wire
from server.realtime.session import State
from server.realtime.session.leash import known_field
from server.realtime.session.settings import initial_config, session_of, update_session

SHORTEST, LONGEST, USUAL = 10, 7200, 600  # seconds that a secret is valid
DAY = 86_400

Count = Annotated[int, Field(ge=1, le=1_000_000)]


def _field(name: str) -> str:
    if not known_field(name):
        raise ValueError("is no setting of a session, such as instructions or audio.output.voice")
    return name


def _origin(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.netloc or text != f"{parts.scheme}://{parts.netloc}":
        raise ValueError("is no origin such as https://shop.example")
    return text.lower()


class ExpiresAfter(BaseModel):
    """For how long a secret opens connections."""

    anchor: Literal["created_at"] = "created_at"
    seconds: Annotated[int, Field(ge=SHORTEST, le=LONGEST)] = USUAL


class LeashRequest(BaseModel):
    """What a secret may do."""

    model_config = ConfigDict(extra="forbid")

    connections: Count | None = None
    seconds: Annotated[float, Field(ge=1, le=DAY)] | None = None
    turns: Count | None = None
    locked: Annotated[list[Annotated[str, Field(max_length=100), AfterValidator(_field)]], Field(max_length=64)] = []
    origin: Annotated[str, Field(max_length=300), AfterValidator(_origin)] | None = None


class SecretRequest(BaseModel):
    """The body."""

    expires_after: ExpiresAfter = ExpiresAfter()
    session: dict[str, Any] = {}
    loquent: LeashRequest = LeashRequest()


async def create(request: web.Request) -> web.Response:
    """Make a client secret.

    Raises: ApiError 400 that names what is wrong, 429 where there is no room for another; HistoryError where it can't
    be stored.
    """
    backend, caller = request.app[BACKEND], request[CALLER]
    raw = await requests.body(request)
    asked = requests.read(raw or b"{}", SecretRequest, ignored={})
    session, warnings = _session(backend, asked.session)
    own = asked.loquent
    now = time.time()
    leash = Leash(
        secret="",
        expires_at=int(now) + asked.expires_after.seconds,
        session={"type": "realtime"} | asked.session,
        locked=frozenset(own.locked),
        connections=own.connections,
        seconds=own.seconds,
        turns=own.turns,
        origin=own.origin,
    )
    value = await backend.access.secrets.issue(leash, request[OWNER], caller.key_id)
    said = own.model_dump(exclude_none=True) | ({"warnings": warnings} if warnings else {})
    body = {"value": value, "expires_at": leash.expires_at, "session": session, "loquent": said}
    return web.json_response(body, headers={"Cache-Control": "no-store"})


def _session(backend: Backend, asked: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The session that will begin, complete, and warnings. Raises: ApiError 400, as ``session.update`` would."""
    state = State(
        id=secrets.token_hex(8),
        names=backend.names,
        limits=backend.settings.limits,
        voices=backend.voices,
        verdicts=backend.reports_verdicts,
        draws=backend.draws,
        listens=backend.hearing is not None,
    )
    state = replace(state, config=initial_config(state))
    try:
        state, (updated,) = update_session(state, wire.SessionUpdate(session=asked))
    except wire.WireError as error:
        raise ApiError(400, error.code, error.message, error.param) from None
    notes = updated.loquent if isinstance(updated, wire.SessionUpdated) else None
    return session_of(state).model_dump(mode="json"), (notes.warnings if notes else None) or []
