"""``POST /v1/chat/completions``: one reply over HTTP, streamed or whole, in OpenAI's format."""

from server.api.chat.handler import create

__all__ = ["create"]
