"""A circuit breaker: an upstream that fails again and again is left alone until it answers again.

Libraries have one too (docs/decisions/0029 says why none of them is used): they take a call for a success once it has
returned, and a streamed reply that was cancelled for a failure.
"""

from typing import Literal

State = Literal["closed", "half_open", "open"]
FAILURES = 3  # in a row, from which it opens


class Breaker:
    """The state of one upstream. It starts open: nothing is known of it yet."""

    def __init__(self) -> None:
        self.state: State = "open"
        self._failures = 0  # in a row
        self._replies_fail = False  # it was opened by failing replies: that it answers a probe proves little
        self.opened = 0  # times in a row by failing replies, with no complete one in between

    def probed(self) -> None:
        """The upstream has answered a probe: replies may be asked of it, or one to try."""
        if self.state == "open":
            self.state = "half_open" if self._replies_fail else "closed"
            self._failures = 0

    def began(self) -> None:
        """A reply has begun."""
        if self.state == "half_open":
            self.state, self._replies_fail = "closed", False

    def succeeded(self) -> None:
        """A reply is complete."""
        self._failures = self.opened = 0
        self._replies_fail = False

    def failed(self, *, gone: bool) -> None:
        """A reply has failed; ``gone``: as any other would, such as where nothing listens."""
        self._failures += 1
        if gone or self.state == "half_open" or self._failures >= FAILURES:
            self._replies_fail = self._replies_fail or not gone
            self.opened += not gone
            self.state = "open"
