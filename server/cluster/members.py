"""Who is in the cluster: what each replica says of itself, and what the directory says of the others. Pure."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from server.cluster.routes import Target

Kind = Literal["gateway", "engine", "embedding", "image", "speech"]

REGISTER_SECONDS = 0.5  # between two registrations of a replica
FORGET_SECONDS = 5.0  # after its last one, a replica counts as gone


@dataclass(frozen=True, slots=True)
class Member:
    """A replica, as it registers."""

    id: str
    kind: Kind
    url: str  # of its server: "http://10.0.0.5:41234"
    secret: str = field(repr=False)  # without which that server answers nothing
    leaving: bool = False  # it takes nothing new

    @property
    def target(self) -> Target:
        """Where its requests go."""
        return Target(self.id, self.url, self.secret)


@dataclass(frozen=True, slots=True)
class View:
    """The members of a cluster, at one moment."""

    members: tuple[Member, ...] = ()

    def of(self, kind: Kind) -> tuple[Member, ...]:
        """Those of one kind."""
        return tuple(each for each in self.members if each.kind == kind)


class Directory:
    """The members that have registered lately. It holds nothing else: one that begins anew is soon complete."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._members: dict[str, tuple[Member, float]] = {}  # until when they are in; bounded by the replicas

    def register(self, member: Member) -> View:
        """Note that a replica is there, and say who is."""
        now = self._clock()
        self._members[member.id] = (member, now + FORGET_SECONDS)
        self._members = {id: each for id, each in self._members.items() if each[1] > now}
        return View(tuple(each for each, _ in self._members.values()))

    def leave(self, id: str) -> None:
        """A replica has ended."""
        self._members.pop(id, None)
