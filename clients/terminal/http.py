"""HTTP requests to a server, for the commands that need no session."""

import http.client
import json
import time
import urllib.error
import urllib.request
from typing import Any

from clients.target import Target, no_key, unreachable
from loquent import ConnectionFailedError, LoquentError, RefusedError
from loquent.opening import LOADING_SECONDS, RETRY_SECONDS
from loquent.session import SILENCE_SECONDS
from loquent.texts import clean

TRY_AGAIN = (
    "model_not_ready",
    "voice_not_ready",
    "screening_not_ready",
    "embeddings_not_ready",
    "image_not_ready",
    "listening_not_ready",
    "server_overloaded",
)


def post(target: Target, path: str, body: dict[str, Any]) -> http.client.HTTPResponse:
    """Send ``body`` as JSON, and wait while the server loads its models; the caller closes the response.

    Raises: RefusedError when the server rejects the request, otherwise LoquentError.
    """
    return send(target, path, clean(json.dumps(body, ensure_ascii=False)).encode(), "application/json")


def send(target: Target, path: str, body: bytes, content_type: str) -> http.client.HTTPResponse:
    """Likewise, a body of any type. Raises: as ``post``."""
    headers = {"Content-Type": content_type}
    if target.key:
        headers["Authorization"] = f"Bearer {target.key}"
    request = urllib.request.Request(f"{target.http}{path}", body, headers)  # noqa: S310 - checked to be http or https
    secure = [urllib.request.HTTPSHandler(context=target.tls)] if target.tls else []
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), *secure)
    deadline = time.monotonic() + LOADING_SECONDS
    while True:
        try:
            response: http.client.HTTPResponse = opener.open(request, timeout=SILENCE_SECONDS)
            return response
        except urllib.error.HTTPError as error:
            with error:
                problem = _error(error.read())
            if problem.get("code") not in TRY_AGAIN or time.monotonic() > deadline:
                raise _refused(target, error.code, problem) from None
            time.sleep(RETRY_SECONDS)
        except (OSError, http.client.HTTPException) as error:
            raise _failed(target, error) from None


def _refused(target: Target, status: int, problem: dict[str, Any]) -> LoquentError:
    if status == 401:
        return no_key(target)
    if status in (403, 421):
        return ConnectionFailedError(f"{target.url} refused access: {problem.get('message') or status}")
    message = str(problem.get("message") or f"The server answered with HTTP status {status}.")
    return RefusedError(message, str(problem.get("code") or ""), status)


def _failed(target: Target, error: Exception) -> ConnectionFailedError:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return ConnectionFailedError("The server does not answer.")
    if isinstance(cause, BrokenPipeError | ConnectionResetError):  # also http.client.RemoteDisconnected
        return ConnectionFailedError("The server is gone.")
    return unreachable(target, cause)


def _error(body: bytes) -> dict[str, Any]:
    try:
        return dict(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return {}
