"""Logs: one line a fact, with the request it belongs to, and never a message's text."""

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime

from aiohttp.http_exceptions import HttpProcessingError

request_id: ContextVar[str] = ContextVar("request_id", default="")


class JsonFormatter(logging.Formatter):
    """A JSON object a line, for machines."""

    def format(self, record: logging.LogRecord) -> str:
        """``{"time", "level", "logger", "message"}``, with ``request`` and ``error`` where there are any."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request := request_id.get():
            line["request"] = request
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class ClientFilter(logging.Filter):
    """What aiohttp may log of clients: nothing that they sent, and nothing of those that left.

    It logs requests that it can't parse with the bytes in question, which may be a key or another request's body.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Drop the one, and replace the other by the kind of error that it is."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            record.msg, record.args, record.exc_info = "a request could not be read: %s", (type(error).__name__,), None
        return not isinstance(error, ConnectionError)


def keep_secrets() -> None:
    """Stop aiohttp from logging what clients send, under whatever configuration."""
    # It warns of subprotocols that it does not know by printing them, and a browser's key is one.
    logging.getLogger("aiohttp.websocket").setLevel(logging.ERROR)
    server = logging.getLogger("aiohttp.server")
    if not any(isinstance(known, ClientFilter) for known in server.filters):
        server.addFilter(ClientFilter())


def configure(level: str) -> None:
    """Log to standard error: lines for people on a terminal, JSON elsewhere."""
    handler = logging.StreamHandler()
    if sys.stderr.isatty():
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S"))
    else:
        handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in ("httpx", "httpcore", "huggingface_hub", "filelock", "urllib3"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
