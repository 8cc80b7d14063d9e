"""``POST /v1/moderations``: the anomaly detector's verdicts, in OpenAI's shape.

OpenAI's categories are about offensive content. This detector does not detect that, so they are always false. Its own
categories stand beside them, and the whole verdict is under ``loquent``.
"""

import secrets
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from pipelines.anomaly.calibrate import EVERY
from pipelines.anomaly.explain import explain
from pipelines.anomaly.stage import AnomalyStage
from pipelines.anomaly.verdict import Cause, Verdict
from server.api import requests
from server.api.embeddings import check_lengths
from server.backend import BACKEND, DETECTOR, Backend
from server.errors import ApiError

INPUTS = 32  # of one request
OPENAI = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)
OURS: tuple[Cause, ...] = (*EVERY, "checks")


class TextPart(BaseModel):
    """A text among several inputs."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    type: Literal["text"]
    text: Annotated[str, Field(min_length=1)]


Text = Annotated[str, Field(min_length=1)]


class ModerationExtension(BaseModel):
    """What OpenAI's endpoint does not have."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    documents: bool = False  # the inputs are documents or tools' results, not what a user says
    explain: bool = False  # each verdict in sentences, too


class ModerationRequest(BaseModel):
    """The supported parameters."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    input: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=INPUTS, fail_fast=True)]
        | Annotated[list[TextPart], Field(min_length=1, max_length=INPUTS, fail_fast=True)]
    )
    model: str | None = None
    loquent: ModerationExtension = ModerationExtension()

    def texts(self) -> list[str]:
        """The inputs as a list."""
        given = [self.input] if isinstance(self.input, str) else self.input
        return [each if isinstance(each, str) else each.text for each in given]


async def create(request: web.Request) -> web.Response:
    """Screen texts; nothing is recorded or counted."""
    backend = request.app[BACKEND]
    asked = requests.read(await requests.body(request), ModerationRequest, ignored={})
    check_lengths(asked.texts(), backend.settings.limits.message_bytes)
    backend.names_of("moderations").resolve(asked.model)
    stage = await screening(backend)
    verdicts = [await stage.ask(text, document=asked.loquent.documents) for text in asked.texts()]
    return web.json_response(
        {
            "id": f"modr-{secrets.token_hex(12)}",
            "model": DETECTOR,
            "results": [_result(verdict, stage, asked.loquent) for verdict in verdicts],
        }
    )


async def screening(backend: Backend) -> AnomalyStage:
    """The anomaly stage, once it is loaded. Raises: ApiError 404 where none is configured."""
    stage = await backend.pipeline.find_loaded(AnomalyStage)
    if stage is None:
        raise ApiError(404, "screening_not_found", "This server does not screen: [pipeline] stages lacks 'anomaly'.")
    return stage


def _result(verdict: Verdict, stage: AnomalyStage, asked: ModerationExtension) -> dict[str, Any]:
    ours = {f"anomaly/{cause}": cause in verdict.causes for cause in OURS}
    scores = {f"anomaly/{head}": 1 - verdict.p(head) for head in EVERY}
    scores["anomaly/checks"] = float("checks" in verdict.causes)
    return {
        "flagged": verdict.anomalous,
        "categories": dict.fromkeys(OPENAI, False) | ours,
        "category_scores": dict.fromkeys(OPENAI, 0.0) | scores,
        "category_applied_input_types": {name: ["text"] for name in (*OPENAI, *ours)},
        "loquent": verdict.to_json()
        | {"action": stage.action(verdict)}
        | ({"explanation": explain(verdict)} if asked.explain else {}),
    }
