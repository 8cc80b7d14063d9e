"""What ASGI calls things, and the answer where no server takes a request."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from server.errors import RETRY_AFTER, ApiError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def unavailable() -> ApiError:
    """No server of the cluster takes the request now."""
    return ApiError(503, "gateway_unavailable", "No gateway takes this now; try again.", retry_after=RETRY_AFTER)
