"""Meters a turn: refused where a limit is used up, and charged with the tokens that it has taken."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from pipelines.events import Event, Finished, Started, Turn
from pipelines.flow import Next
from server.access.caller import Caller
from server.access.secrets import SecretStore
from server.limits.limiter import Limiter


@dataclass(frozen=True, slots=True)
class Meter:
    """A stage around one turn of a caller."""

    limiter: Limiter
    secrets: SecretStore
    caller: Caller
    counts: bool  # whether the turn is a request of its own, as in a realtime session
    reserves: int  # tokens that a turn reserves whose client names no limit
    most: int  # tokens that a turn can have

    async def __call__(self, turn: Turn, next: Next) -> AsyncGenerator[Event]:
        """Run the turn. Raises: RateLimitedError, or StageError ``turn_limit_reached``, before it begins."""
        reserved = min(turn.sampling.max_tokens or self.reserves, self.most)
        if self.counts:
            self.limiter.admit(self.caller)
        self.limiter.reserve(self.caller, reserved)
        used = 0
        try:
            if self.caller.leash is not None:
                self.secrets.take_turn(self.caller.leash)
            async with aclosing(next(turn)) as events:
                async for event in events:
                    used = _used(event, used)
                    yield event
        finally:
            self.limiter.settle(self.caller, reserved, used)


def _used(event: Event, used: int) -> int:
    """The tokens after this event; an interrupted turn has no ``Finished``."""
    match event:
        case Finished(_, usage):
            return max(usage.input_tokens + usage.output_tokens, used)
        case Started(input_tokens):
            return used + input_tokens
        case _:
            return used + int(getattr(event, "tokens", 0))
