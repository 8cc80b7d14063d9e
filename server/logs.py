"""Logs: one line per fact, with the id of its request, never with a message's text."""

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime

from aiohttp.http_exceptions import HttpProcessingError

request_id: ContextVar[str] = ContextVar("request_id", default="")


class JsonFormatter(logging.Formatter):
    """One JSON object per line, for machines."""

    def format(self, record: logging.LogRecord) -> str:
        """``{"time", "level", "logger", "message"}``, with optionally ``request`` and ``error``."""
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
    """Redacts aiohttp's log: no bytes that clients sent, and no record for a client that disconnected.

    aiohttp logs the raw bytes of a request that it can't parse; they may hold a key or another request's body.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Drop records of disconnects; replace a parse error by its type."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            record.msg, record.args, record.exc_info = "a request could not be read: %s", (type(error).__name__,), None
        return not isinstance(error, ConnectionError)


def redact() -> None:
    """Stop aiohttp from logging what clients send, whatever the log level."""
    # aiohttp warns of unknown subprotocols and prints them; a browser's key is one.
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
