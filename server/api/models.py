"""``GET /v1/models``: the model names that clients can use."""

from typing import Any

from aiohttp import web

from server.backend import BACKEND, Backend
from server.errors import ApiError


def _entry(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "loquent"}


def _names(backend: Backend) -> list[str]:
    return [backend.names.here, *backend.settings.models.aliases]


async def list_models(request: web.Request) -> web.Response:
    """The configured model, then its aliases."""
    return web.json_response({"object": "list", "data": [_entry(name) for name in _names(request.app[BACKEND])]})


async def retrieve_model(request: web.Request) -> web.Response:
    """One of them. Raises: ApiError 404."""
    name = request.match_info["name"]
    if name not in _names(request.app[BACKEND]):
        raise ApiError(404, "model_not_found", f"There is no model {name!r:.100}.", "model")
    return web.json_response(_entry(name))
