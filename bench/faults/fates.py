"""What became of attackers' sockets."""

import re
from dataclasses import dataclass, field

STILL_THERE = "still there"


@dataclass
class Fates:
    """What became of sockets: how many, and the longest time in seconds until it was so."""

    found: dict[str, tuple[int, float]] = field(default_factory=dict)

    def add(self, how: str, seconds: float, count: int = 1) -> None:
        """So many sockets ended so."""
        before, longest = self.found.get(how, (0, 0.0))
        self.found[how] = before + count, max(longest, seconds)

    def merge(self, other: "Fates") -> None:
        """Add those of another attack."""
        for how, (count, seconds) in other.found.items():
            self.add(how, seconds, count)

    def __str__(self) -> str:
        return ", ".join(f"{count} × {how} (≤ {seconds:.1f} s)" for how, (count, seconds) in self.found.items())


def ending(tail: bytes) -> str:
    """How a server ended a connection, by the last that it sent."""
    status = re.findall(rb"HTTP/1\.1 (\d+)", tail)
    close = re.search(rb"\x88[\x02-\x7d]([\x03-\x0f].)[^\x88]*$", tail, re.DOTALL)
    if close is not None:
        return f"close {int.from_bytes(close[1])}"
    return f"HTTP {status[-1].decode()}, closed" if status else "closed"
