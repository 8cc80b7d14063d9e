"""Schemathesis reads ``/openapi.json``, asks every operation for what it allows and for what it does not, and compares
the answers with what it says."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pipelines.image.weights import Drawer
from server.config import Settings
from tests.pipelines.listening.fakes import ScriptedRecogniser, hearing_with
from tests.support import (
    Running,
    ScriptedModel,
    ScriptedVoice,
    drawing,
    running,
    screening,
    scripted_pipeline,
    scripted_speech,
)

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
    "use_after_free",
    "ensure_resource_availability",
)
EXAMPLES = 25  # of each operation
SECONDS = 60  # that an answer may take: none hangs


@asynccontextmanager
async def everything(minilm: Path, drawer: Drawer) -> AsyncIterator[Running]:
    """A server with every endpoint, around scripted models."""
    pipeline = scripted_pipeline(
        ScriptedModel(["One ", "two ", "three."]),
        speech=scripted_speech(ScriptedVoice()),
        anomaly=screening(minilm),
        image=drawing(minilm, drawer),
        hearing=hearing_with(ScriptedRecogniser()),
    )
    settings = Settings.model_validate({"anomaly": {"verdicts": True}})
    async with running(pipeline, settings) as server:
        await pipeline.wait_until(lambda: all(part.ready() for part in pipeline.parts))
        yield server


@pytest.mark.timeout(600)
async def test_every_operation_answers_what_the_document_says(minilm: Path, drawer: Drawer, tmp_path: Path) -> None:
    async with everything(minilm, drawer) as server:
        command = (
            *(str(Path(sys.executable).parent / "schemathesis"), "run", f"{server.url}/openapi.json"),
            *("--checks", ",".join(CHECKS), "--max-examples", str(EXAMPLES), "--continue-on-failure"),
            *("--request-timeout", str(SECONDS), "--suppress-health-check", "all", "--seed", "1", "--workers", "1"),
        )
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=tmp_path
        )
        said, _ = await process.communicate()
        async with server.http.get(f"{server.url}/readyz") as answer:
            assert answer.status == 200, "it is not ready any more"
        assert (server.backend.requests, server.engine.running) == (0, 0), "something is left"
    assert process.returncode == 0, said.decode()
