"""``GET /v1/models``: the model names that clients can use."""

from typing import Any

from aiohttp import web

from pipelines.anomaly.stage import AnomalyStage
from pipelines.image.stage import ImageStage
from pipelines.speech.stage import SpeechStage
from pipelines.speech.voices.interface import cast
from server.backend import BACKEND, Backend
from server.errors import ApiError
from server.names import ModelNames


def _entry(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "loquent"}


def _all(backend: Backend) -> list[ModelNames]:
    """The names of every model that is here, the language model's first."""
    found = [backend.names]
    if backend.pipeline.find(SpeechStage) is not None:
        found.append(backend.names_of("speech"))
    if backend.hearing is not None:
        found.append(backend.names_of("transcriptions"))
    if backend.pipeline.find(AnomalyStage) is not None:
        found.append(backend.names_of("moderations"))
    if backend.pipeline.find(ImageStage) is not None:
        found.append(backend.names_of("images"))
    if backend.embedding_models:
        found.append(backend.names_of("embeddings"))
    return found


def _details(backend: Backend) -> dict[str, dict[str, Any]]:
    """By a model's own name, what OpenAI's entries do not say: that ``loquent.gather`` is known, or that it listens or
    speaks, and its voices."""
    found: dict[str, dict[str, Any]] = {backend.names.here: {"gather": True}}
    if backend.hearing is not None:
        found[backend.names_of("transcriptions").here] = {"endpoint": "transcriptions"}
    speech = backend.pipeline.find(SpeechStage)
    if speech is not None:
        found[backend.names_of("speech").here] = {"endpoint": "speech", "voices": _voices(backend.voice, speech)}
    return found


def _voices(here: str, speech: SpeechStage) -> list[dict[str, str]]:
    """The voices that requests can name, with the language of each; none while no voice is loaded."""
    voice = speech.workers.voice
    if voice is None:
        return []
    if not voice.speakers:
        return [{"name": here, "language": voice.language}]
    return [{"name": name, "language": cast(voice, "", name).language} for name in voice.speakers]


async def list_models(request: web.Request) -> web.Response:
    """The models' own names, then the aliases that are no patterns."""
    backend = request.app[BACKEND]
    known, details = _all(backend), _details(backend)
    names = dict.fromkeys(
        [*(name for each in known for name in each.own), *(name for each in known for name in each.exact)]
    )
    entries = [_entry(name) | ({"loquent": details[name]} if name in details else {}) for name in names]
    return web.json_response({"object": "list", "data": entries})


async def retrieve_model(request: web.Request) -> web.Response:
    """One of them. Raises: ApiError 404."""
    name = request.match_info["name"]
    known = _all(request.app[BACKEND])
    if not any(names.known(name) for names in known):
        here = ", ".join(name for names in known for name in names.own)
        raise ApiError(404, "model_not_found", f"There is no model {name!r:.100}; there are {here}.", "model")
    return web.json_response(_entry(name))
