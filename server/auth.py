"""Access control: keys, Origin and Host."""

import hmac
import secrets
from urllib.parse import urlsplit

from aiohttp import web

from server.access.caller import CALLER, OWNER, TENANT, Caller
from server.config import ServerSettings, hash_key
from server.errors import ApiError

__all__ = ["CALLER", "OWNER", "TENANT", "AccessControl", "Caller"]

KEY_PREFIX = "lq-"
KEY_ID_DIGITS = 12
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
SUBPROTOCOL = "realtime"
BETA_SUBPROTOCOL = "openai-beta.realtime-v1"
KEY_SUBPROTOCOL = "openai-insecure-api-key."  # the prefix of a key sent by a browser, which can't set headers

CORS_METHODS = "GET, POST, DELETE, OPTIONS"
CORS_MAX_AGE = 600  # seconds that a browser may cache the preflight response


class Refusal(Exception):  # noqa: N818 - a decision, not a fault
    """The server refuses to start with this configuration; the message says what to do."""


def new_key() -> str:
    """A new API key with 256 random bits."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def check_exposure(settings: ServerSettings) -> None:
    """Raises: Refusal when other machines could connect without a key."""
    if settings.loopback or settings.keys:
        return
    raise Refusal(
        f"{settings.host} can be reached from other machines, and no key is configured.\n"
        "Make one with `loquent keys new` and put its hash into config.toml, [server] keys,\n"
        "or listen on this machine only: --host 127.0.0.1."
    )


class AccessControl:
    """Decides which requests are admitted."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._hosts = frozenset((*LOOPBACK_NAMES, settings.host, *settings.allowed_hosts))

    def check(self, request: web.Request) -> None:
        """Raises: ApiError 421 for an unknown Host, 403 for a foreign Origin, 401 without a valid key."""
        self.check_host(request)
        self.check_origin(request)
        self.check_key(request)

    def check_host(self, request: web.Request) -> None:
        """Prevent DNS rebinding, where an attacker's host name resolves to this server. Raises: ApiError 421."""
        if not self._settings.loopback and not self._settings.allowed_hosts:
            return  # no names are listed, and a key is required there anyway
        if _host_name(request.headers.get("Host", "")) not in self._hosts:
            raise ApiError(
                421,
                "host_not_allowed",
                "The server does not answer to this Host; see [server] allowed_hosts.",
            )

    def check_origin(self, request: web.Request) -> None:
        """Allow no Origin, the server's own, or one on the allow-list. Raises: ApiError 403."""
        origin = request.headers.get("Origin")
        if origin is None or self.origin_allowed(request, origin):
            return
        raise ApiError(403, "origin_not_allowed", "This Origin may not connect; see [server] allowed_origins.")

    def origin_allowed(self, request: web.Request, origin: str) -> bool:
        """Whether a page of this origin may talk to the server."""
        if origin in self._settings.allowed_origins:
            return True
        scheme, _, host = origin.partition("://")
        return scheme in ("http", "https") and host == request.headers.get("Host")

    def check_key(self, request: web.Request) -> None:
        """Compare the key with every configured hash; without configured keys any key passes. Raises: ApiError 401."""
        identify(request, Caller(address=request.remote or ""))
        if not self._settings.keys:
            return
        given = hash_key(_given_key(request) or "")
        # Every hash is compared in constant time, so that the response time reveals nothing about any of them.
        if not sum(hmac.compare_digest(given, known) for known in self._settings.keys):
            raise ApiError(401, "invalid_api_key", "A valid key is required: Authorization: Bearer <key>.")
        tenant = given if len(self._settings.keys) > 1 else ""
        key_id = given.removeprefix("sha256:")[:KEY_ID_DIGITS]
        identify(request, Caller(owner=given, tenant=tenant, key_id=key_id, address=request.remote or ""))

    def cors(self, request: web.Request) -> dict[str, str]:
        """The headers that let an allowed page read a response."""
        origin = request.headers.get("Origin")
        vary = {
            "Vary": "Origin, Access-Control-Request-Headers"
        }  # also without an Origin, or a cache would serve this to an allowed page
        if origin is None or not self.origin_allowed(request, origin):
            return vary
        headers = vary | {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": "x-request-id",
        }
        if request.method != "OPTIONS":
            return headers
        return headers | {
            "Access-Control-Allow-Methods": CORS_METHODS,
            # Any header that a client library adds; each is validated where it is read.
            "Access-Control-Allow-Headers": request.headers.get("Access-Control-Request-Headers", ""),
            "Access-Control-Max-Age": str(CORS_MAX_AGE),
        }


def identify(request: web.Request, caller: Caller) -> None:
    """Record whose request it is."""
    request[CALLER], request[OWNER], request[TENANT] = caller, caller.owner, caller.tenant


def _host_name(host: str) -> str | None:
    """The name within a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _given_key(request: web.Request) -> str | None:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    if azure := request.headers.get("api-key"):
        return azure.strip()
    for protocol in offered(request):
        if protocol.startswith(KEY_SUBPROTOCOL):
            return protocol.removeprefix(KEY_SUBPROTOCOL)
    return None


def offered(request: web.Request) -> tuple[str, ...]:
    """The subprotocols that a websocket's handshake offers."""
    given = request.headers.get("Sec-WebSocket-Protocol", "").split(",")
    return tuple(name for protocol in given if (name := protocol.strip()))


def subprotocols(request: web.Request) -> tuple[str, ...]:
    """The subprotocol to select. A browser fails the handshake where none of those that it offers is selected."""
    given = offered(request)
    if SUBPROTOCOL in given or not given:
        return (SUBPROTOCOL,)
    return tuple(protocol for protocol in given if protocol.startswith(KEY_SUBPROTOCOL))[:1]
