"""Access control: keys, client secrets, Origin and Host."""

from collections.abc import Callable
from dataclasses import replace
from time import time
from urllib.parse import urlsplit

from aiohttp import web

from server.access import secrets
from server.access.caller import CALLER, FOR_TENANT, OWNER, TENANT, Caller
from server.access.key_file import KeyFileError
from server.access.keyring import Keyring
from server.access.keys import SCOPES, new_key
from server.access.leash import Leash
from server.access.peer import PEER, Proxies
from server.access.secrets import MemorySecrets, Secret, SecretStore, whole_leash
from server.config import ServerSettings, hash_key
from server.errors import ApiError
from server.limits.limiter import Limiter

__all__ = ["CALLER", "OWNER", "TENANT", "AccessControl", "Caller", "Refusal", "check_exposure", "new_key"]

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
SUBPROTOCOL = "realtime"
BETA_SUBPROTOCOL = "openai-beta.realtime-v1"
KEY_SUBPROTOCOL = "openai-insecure-api-key."  # the prefix of a key sent by a browser, which can't set headers

CORS_METHODS = "GET, POST, DELETE, OPTIONS"
CORS_MAX_AGE = 600  # seconds that a browser may cache the preflight response
EXPOSED = (
    "x-request-id, Retry-After, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, "
    "x-ratelimit-reset-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens"
)

# The scope that each path needs, besides "http". The metrics count what every key does.
SCOPE_OF = {"/v1/realtime": "realtime", "/v1/realtime/client_secrets": "secrets", "/metrics": "admin"}


class Refusal(Exception):  # noqa: N818 - a decision, not a fault
    """The server refuses to start with this configuration; the message says what to do."""


def check_exposure(settings: ServerSettings) -> None:
    """Raises: Refusal when other machines could connect without a key, or the keys file can't be used."""
    try:
        keyring = Keyring(settings)
    except KeyFileError as error:
        raise Refusal(str(error)) from None
    if settings.loopback or keyring.usable:
        return
    raise Refusal(
        f"{settings.host} can be reached from other machines, and there is no valid key.\n"
        "Make one with `loquent keys new NAME`, or listen on this machine only: --host 127.0.0.1."
    )


class AccessControl:
    """Decides which requests are admitted."""

    def __init__(
        self, settings: ServerSettings, *, secrets: SecretStore | None = None, wall: Callable[[], float] = time
    ) -> None:
        """Raises: KeyFileError where the keys file can't be used."""
        self._settings = settings
        self._hosts = frozenset((*LOOPBACK_NAMES, settings.host, *settings.allowed_hosts))
        self.keyring = Keyring(settings, wall=wall)
        self.secrets: SecretStore = MemorySecrets(wall=wall) if secrets is None else secrets
        self.proxies = Proxies(settings.trusted_proxies)

    def meet(self, request: web.Request) -> None:
        """Record where the request comes from; whose it is shows only in ``check``."""
        peer = request[PEER] = self.proxies.peer(request)
        identify(request, Caller(address=peer.address))

    async def look_up(self, request: web.Request, limiter: Limiter) -> None:
        """Look for the client secret of the request where another server may have made it, which ``check`` has then.

        An address that may make no further request causes no look-up.

        Raises: ApiError as ``check``, 503 while too many are looked up; RateLimitedError; HistoryError.
        """
        given = _given_key(request)
        if given is not None and self.secrets.lacks(given):
            self.check_host(request)
            limiter.check(request[CALLER])
            await self.secrets.seek(given)

    def check(self, request: web.Request) -> None:
        """Record whose request it is.

        Raises: ApiError 421 for an unknown Host, 403 for a foreign Origin, 401 without a valid key or client secret,
        403 where it may not do this.
        """
        self.check_host(request)
        given = _given_key(request) or ""
        secret = self._secret(given)
        self.check_origin(request, secret.leash if secret else None)
        address = request[PEER].address
        caller = self._with_secret(secret, address) if secret else self._with_key(given, address)
        tenant = request.get(FOR_TENANT)
        identify(request, caller if tenant is None else replace(caller, tenant=tenant))
        check_scope(request, request[CALLER])

    def check_host(self, request: web.Request) -> None:
        """Prevent DNS rebinding, where an attacker's host name resolves to this server. Raises: ApiError 421."""
        if not self._settings.loopback and not self._settings.allowed_hosts:
            return  # no names are listed, and a key is required there anyway
        if _host_name(request[PEER].host) not in self._hosts:
            raise ApiError(
                421,
                "host_not_allowed",
                "The server does not answer to this Host; see [server] allowed_hosts.",
            )

    def check_origin(self, request: web.Request, leash: Leash | None = None) -> None:
        """Allow no Origin, the server's own, or one on the allow-list; of a client secret that names one, only that.

        Raises: ApiError 403.
        """
        origin = request.headers.get("Origin")
        if leash is not None and leash.origin is not None:
            if origin == leash.origin:
                return
            raise ApiError(403, "origin_not_allowed", "This client secret is for pages of another Origin.")
        if origin is None or self.origin_allowed(request, origin):
            return
        raise ApiError(403, "origin_not_allowed", "This Origin may not connect; see [server] allowed_origins.")

    def origin_allowed(self, request: web.Request, origin: str) -> bool:
        """Whether a page of this origin may talk to the server."""
        if origin in self._settings.allowed_origins:
            return True
        scheme, _, host = origin.partition("://")
        return scheme in ("http", "https") and host != "" and host == request[PEER].host

    def _secret(self, given: str) -> Secret | None:
        """The client secret that was given. Raises: ApiError 401 where it has expired, or its key is not valid."""
        if not given.startswith(secrets.PREFIX):
            return None
        secret = self.secrets.find(given)
        if secret is None or not self.keyring.alive(secret.key_id):
            text = "This client secret is unknown or has expired; ask the page's server for a new one."
            raise ApiError(401, "invalid_api_key", text)
        return secret

    def _with_secret(self, secret: Secret, address: str) -> Caller:
        owner = f"{secret.owner}/{secret.leash.secret}"
        tenant = owner if self.keyring.several else f"/{secret.leash.secret}"
        scopes = frozenset(("realtime",))
        return Caller(owner, tenant, secret.key_id, scopes, address, whole_leash(secret))

    def _with_key(self, given: str, address: str) -> Caller:
        """Without keys, any key passes. Raises: ApiError 401."""
        if not self.keyring.required:
            return Caller(scopes=frozenset(SCOPES), address=address)
        key = self.keyring.find(hash_key(given))
        if key is None:
            raise ApiError(401, "invalid_api_key", "A valid key is required: Authorization: Bearer <key>.")
        return Caller(key.name, key.name if self.keyring.several else "", key.id, key.scopes, address)

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
            "Access-Control-Expose-Headers": EXPOSED,
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


def needed_scope(request: web.Request) -> str:
    """The scope that the request needs, by the route that answers it."""
    resource = request.match_info.route.resource
    return SCOPE_OF.get(resource.canonical if resource is not None else "", "http")


def check_scope(request: web.Request, caller: Caller) -> None:
    """Raises: ApiError 403 that names the scope which is missing."""
    scope = needed_scope(request)
    if scope in caller.scopes:
        return
    if caller.leash is not None:
        text = f"A client secret opens /v1/realtime and nothing else; this needs a key with the scope {scope!r}."
    else:
        text = f"This key lacks the scope {scope!r}; make one that has it: loquent keys new NAME --scope {scope}."
    raise ApiError(403, "insufficient_scope", text)


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
