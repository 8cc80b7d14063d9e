"""Where a program left a session, as text that it can store."""

import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote

from loquent.errors import UsageError

FIELD = r"([A-Za-z0-9_.-]{0,300})"


@dataclass(frozen=True, slots=True)
class Bookmark:
    """A session, the last event that came of it, and the reply that was in progress."""

    token: str
    session: str  # how its events' ids begin, behind "event_"
    after: str
    response: str
    item: str  # of the latest spoken reply

    @classmethod
    def read(cls, text: str) -> Self:
        """Raises: UsageError when the text is no bookmark."""
        found = re.fullmatch("~".join([FIELD] * 5), text, re.ASCII)
        if found is None or not found[1]:
            raise UsageError("resume is what Session.bookmark was, or what Session.leave returned.", "invalid_bookmark")
        return cls(*found.groups())

    @property
    def query(self) -> str:
        """For the address of the websocket."""
        return f"session={quote(self.token)}" + (f"&after={quote(self.after)}" if self.after else "")

    def __str__(self) -> str:
        return "~".join((self.token, self.session, self.after, self.response, self.item))
