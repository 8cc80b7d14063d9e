"""What can come of a request to an upstream, and what clients see of each; docs/upstream.md has the table."""

import re
from typing import Literal

from pipelines.chat.upstream.chunks import Refusal, shown
from pipelines.chat.upstream.settings import KEY
from pipelines.events import StageError

Outcome = Literal[
    "done",
    "cancelled",  # the client left or stopped the reply
    "unreachable",  # no connection
    "timeout",  # nothing came in time
    "overloaded",  # 429 and 503
    "failed",  # other 5xx, an error in the stream, or an early end
    "invalid",  # what came can't be read
    "refused",  # 401 and 403: the configuration is wrong
    "rejected",  # other 4xx: the request is wrong
]
OUTCOMES: tuple[Outcome, ...] = (
    "done",
    "cancelled",
    "unreachable",
    "timeout",
    "overloaded",
    "failed",
    "invalid",
    "refused",
    "rejected",
)

LONGEST_WAIT = 10  # seconds that a request waits because of a Retry-After; a client may wait longer by itself
LATEST = 3600  # seconds of a Retry-After that are repeated at most
TOO_LONG = "context_length_exceeded"
_TOO_LONG = re.compile(r"context[ _](length|window|size)|maximum (context|model) length|too many tokens", re.IGNORECASE)
CODES = (  # of an upstream that mean the same here; its others may mean anything
    TOO_LONG,
    "invalid_grammar",
    "invalid_value",
    "missing_required_parameter",
    "model_not_found",
    "unknown_parameter",
    "unsupported_content",
    "unsupported_conversation",
    "unsupported_parameter",
)
_PARAM = re.compile(r"[\w.\[\]-]{1,128}")


class UpstreamError(Exception):
    """A request to an upstream has failed. The message is for the log: it holds no key and nothing of a conversation,
    and so nothing that an upstream says of a request."""

    def __init__(
        self, outcome: Outcome, message: str, *, refusal: Refusal | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.outcome = outcome
        self.message = message
        self.refusal = refusal or Refusal()  # the upstream's own words
        self.retry_after = retry_after  # seconds, if the upstream says so

    @property
    def too_long(self) -> bool:
        """Whether the prompt is longer than the upstream's context."""
        said = self.refusal
        return self.outcome == "rejected" and (said.code == TOO_LONG or bool(_TOO_LONG.search(said.message)))

    @property
    def lacks(self) -> str:
        """The parameter that this upstream does not take, of those that can do without; "" where that is not why."""
        said = f"{self.refusal.param} {self.refusal.message}".lower()
        if self.outcome != "rejected":
            return ""
        if self.refusal.param == "loquent.gather":
            return "loquent"
        if "stream_options" in said:
            return "stream_options"
        # Both are named where the value is too large, too.
        renamed = "max_completion_tokens" in said and ("unsupported" in said or "not supported" in said)
        return "max_tokens" if renamed else ""

    def for_clients(self) -> StageError:
        """What ends the turn. Addresses and details stay in the log."""
        match self.outcome:
            case "rejected":
                return _rejected(self.refusal, too_long=self.too_long)
            case "refused":
                text = f"The language model's server refuses this one's key; its operator has to set {KEY}."
                return StageError("internal", "upstream_refused", text)
            case "overloaded":
                wait = None if self.retry_after is None else min(max(round(self.retry_after), 1), LATEST)
                text = "The language model's server has no capacity; try again in a moment."
                return StageError("overloaded", "server_overloaded", text, retry_after=wait)
            case "unreachable":
                return unavailable()
            case "timeout":
                return StageError(
                    "unavailable", "upstream_timeout", "The language model's server did not answer in time."
                )
            case "invalid":
                text = "The language model's server sent what is no reply."
                return StageError("unavailable", "upstream_invalid", text)
            case _:
                return StageError("unavailable", "upstream_failed", "The language model's server failed on this reply.")


def unavailable() -> StageError:
    """That no upstream can be reached."""
    text = "The language model's server can't be reached; try again in a moment."
    return StageError("unavailable", "upstream_unavailable", text)


def _rejected(said: Refusal, *, too_long: bool) -> StageError:
    code = said.code if isinstance(said.code, str) and said.code in CODES else "upstream_rejected"
    param = said.param if said.param and _PARAM.fullmatch(said.param) else None
    text = shown(said.message) or "It does not say why."
    text = f"The language model's server rejects the request: {text}"
    return StageError("invalid_request", TOO_LONG if too_long else code, text, param=param)


def outcome_of(status: int) -> Outcome:
    """What an answer's status means, where it is not 200."""
    if status in (401, 403):
        return "refused"
    if status in (429, 503):
        return "overloaded"
    if status in (408, 504):
        return "timeout"
    if 400 <= status < 500:
        return "rejected"
    return "failed" if status >= 500 else "invalid"
