"""The limits of one server: what a caller may use, and how much of it is left."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipelines.capacity import site_of
from server.access.caller import Caller
from server.access.peer import visitor
from server.config import LimitSettings
from server.errors import RateLimitedError
from server.limits.buckets import MINUTE, Buckets, Daily, Standing
from server.realtime import wire


@dataclass(frozen=True, slots=True)
class _Kind:
    """The buckets of one kind of subject; None where it has no limit."""

    what: str
    requests: Buckets | None
    tokens: Buckets | None


class Limiter:
    """Counts requests and tokens.

    With a key, the key's buckets count: a site's server asks for many visitors from one address. With a client secret,
    those of the secret and of the address count, and of the key only the day's budget: so no visitor uses up what the
    site, or the next visitor, needs. Otherwise only the address is known.
    """

    def __init__(
        self,
        settings: LimitSettings,
        *,
        on: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._on = on
        self._settings = settings

        def buckets(size: int) -> Buckets | None:
            return Buckets(size, clock=clock) if size else None

        self._key = _Kind("key", buckets(settings.key_requests), buckets(settings.key_tokens))
        self._secret = _Kind("client secret", buckets(settings.secret_requests), buckets(settings.secret_tokens))
        self._address = _Kind("address", buckets(settings.address_requests), buckets(settings.address_tokens))
        self.daily = Daily(settings.key_daily_tokens, wall=wall) if settings.key_daily_tokens else None
        self.on_limited: Callable[[str, str], None] = lambda limit, subject: None  # the limit, and whose it is

    @property
    def on(self) -> bool:
        """Whether the limits hold."""
        return self._on()

    @property
    def buckets(self) -> dict[str, Buckets]:
        """The buckets of each limit, by its name."""
        kinds = {"key": self._key, "secret": self._secret, "address": self._address}
        found = {(name, what): getattr(kind, what) for name, kind in kinds.items() for what in ("requests", "tokens")}
        return {f"{name}:{what}": each for (name, what), each in found.items() if each is not None}

    @property
    def address_connections(self) -> int | None:
        """Connections that one address may have with client secrets; None for any number."""
        return (self.on and self._settings.address_connections) or None

    def _subjects(self, caller: Caller) -> Iterator[tuple[_Kind, str]]:
        if not self.on:
            return
        if caller.leash is not None:
            yield self._secret, caller.leash.secret
            yield self._address, visitor(caller.address)
        elif caller.key_id:
            yield self._key, caller.owner  # keys of one name share it
        else:
            yield self._address, visitor(caller.address)

    def _requests(self, caller: Caller) -> list[tuple[str, Buckets, str]]:
        return [(kind.what, kind.requests, name) for kind, name in self._subjects(caller) if kind.requests is not None]

    def _tokens(self, caller: Caller) -> list[tuple[str, Buckets, str]]:
        return [(kind.what, kind.tokens, name) for kind, name in self._subjects(caller) if kind.tokens is not None]

    def _budget(self, caller: Caller) -> Daily | None:
        """The daily budget that the caller's turns are charged to, if any."""
        return self.daily if caller.key_id and self.on else None

    def check(self, caller: Caller) -> None:
        """Raises: RateLimitedError where there were too many requests."""
        for what, buckets, name in self._requests(caller):
            if wait := buckets.wait(name):
                self.on_limited("requests", what.replace(" ", "_"))
                raise _limited(f"This {what} may make {buckets.size} requests a minute", wait)

    def admit(self, caller: Caller) -> None:
        """Count a request. Raises: RateLimitedError where there were too many, and then it is not counted."""
        self.check(caller)
        for _, buckets, name in self._requests(caller):
            buckets.take(name, 1)

    def reserve(self, caller: Caller, tokens: int) -> None:
        """Take tokens for a turn before it runs; what it did not use is given back by ``settle``.

        Raises: RateLimitedError where they are not there.
        """
        held = self._tokens(caller)
        for what, buckets, name in held:
            if wait := buckets.wait(name, tokens):
                self.on_limited("tokens", what.replace(" ", "_"))
                raise _limited(f"This {what} may use {buckets.size} tokens a minute", wait)
        if (daily := self._budget(caller)) is not None:
            left = daily.standing(site_of(caller.owner))
            if not left.remaining:
                self.on_limited("daily_tokens", "key")
                raise _limited(f"This key may use {left.limit} tokens a day", left.reset_seconds)
        self._charge(caller, tokens)

    def settle(self, caller: Caller, reserved: int, used: int) -> None:
        """Charge what a turn has used in place of what was reserved; it may leave a debt."""
        self._charge(caller, used - reserved)

    def _charge(self, caller: Caller, tokens: int) -> None:
        for _, buckets, name in self._tokens(caller):
            buckets.take(name, tokens)
        if (daily := self._budget(caller)) is not None:
            daily.charge(site_of(caller.owner), tokens)

    def requests_left(self, caller: Caller) -> Standing | None:
        """What is left of the narrowest limit of requests; None where there is no limit."""
        return _narrowest([buckets.standing(name) for _, buckets, name in self._requests(caller)])

    def tokens_left(self, caller: Caller) -> Standing | None:
        """What is left of the narrowest limit of tokens; None where there is no limit."""
        standings = [buckets.standing(name) for _, buckets, name in self._tokens(caller)]
        if (daily := self._budget(caller)) is not None:
            standings.append(daily.standing(site_of(caller.owner)))
        return _narrowest(standings)

    def headers(self, caller: Caller) -> dict[str, str]:
        """OpenAI's ``x-ratelimit-*`` headers, for what has a limit."""
        found: dict[str, str] = {}
        for what, left in (("requests", self.requests_left(caller)), ("tokens", self.tokens_left(caller))):
            if left is not None:
                found[f"x-ratelimit-limit-{what}"] = str(left.limit)
                found[f"x-ratelimit-remaining-{what}"] = str(left.remaining)
                found[f"x-ratelimit-reset-{what}"] = _duration(left.reset_seconds)
        return found

    def rate_limits(self, caller: Caller) -> list[wire.RateLimit]:
        """The same for ``rate_limits.updated``."""
        found = (("requests", self.requests_left(caller)), ("tokens", self.tokens_left(caller)))
        return [
            wire.RateLimit(
                name="requests" if what == "requests" else "tokens",
                limit=left.limit,
                remaining=left.remaining,
                reset_seconds=round(left.reset_seconds, 3),
            )
            for what, left in found
            if left is not None
        ]

    def session_end(self, caller: Caller, now: float) -> int | None:
        """When a session that begins now ends, as Unix time; None where it may go on for ever."""
        own = caller.leash.seconds if caller.leash is not None else None
        most = self._settings.session_seconds if self.on and self._settings.session_seconds else None
        seconds = [each for each in (own, most) if each is not None]
        return math.ceil(now + min(seconds)) if seconds else None


def _limited(text: str, wait: float) -> RateLimitedError:
    seconds = max(math.ceil(wait), 1)
    return RateLimitedError(f"{text}; try again in {seconds} s.", seconds)


def _narrowest(standings: list[Standing]) -> Standing | None:
    return min(standings, key=lambda each: each.remaining, default=None)


def _duration(seconds: float) -> str:
    """As OpenAI writes it: 20ms, 1.5s, 6m0s, 1h2m3s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    if seconds < MINUTE:
        return f"{math.ceil(seconds * 10) / 10:g}s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"
