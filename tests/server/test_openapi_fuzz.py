"""Schemathesis reads ``/openapi.json``, asks every operation for what it allows and for what it does not, and compares
the answers with what it says."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.faults.postgres import postgres
from pipelines.image.weights import Drawer
from server.config import Settings, hash_key
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
EXAMPLES = 8  # of each operation; its own checks of borders and stateful walks come besides
SECONDS = 60  # that an answer may take: none hangs


KEY = "lq-fuzz"


@asynccontextmanager
async def everything(minilm: Path, drawer: Drawer, **sections: Any) -> AsyncIterator[Running]:
    """A server with every endpoint, around scripted models."""
    pipeline = scripted_pipeline(
        ScriptedModel(["One ", "two ", "three."]),
        speech=scripted_speech(ScriptedVoice()),
        anomaly=screening(),
        image=drawing(minilm, drawer),
        hearing=hearing_with(ScriptedRecogniser()),
    )
    settings = Settings.model_validate({"anomaly": {"verdicts": True}} | sections)
    async with running(pipeline, settings) as server:
        await pipeline.wait_until(lambda: all(part.ready() for part in pipeline.parts))
        yield server


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where conversations are stored; "" for memory."""
    if request.param != "postgresql":
        yield f"sqlite:///{tmp_path / 'history.db'}" if request.param == "sqlite" else ""
        return
    with postgres() as server:
        if server is None:
            pytest.skip("PostgreSQL is not installed")
        yield server.new_database()


@pytest.mark.timeout(600)
async def test_every_operation_answers_what_the_document_says(
    store: str, minilm: Path, drawer: Drawer, tmp_path: Path
) -> None:
    sections: dict[str, Any] = {}
    more: tuple[str, ...] = ("--checks", ",".join(CHECKS))
    if store:  # then with keys, too
        access = {"keys": (hash_key(KEY),)}
        sections = {"history": {"store": store}, "server": access, "limits": {"rates": "off"}}
        more = ("--checks", ",".join((*CHECKS, "ignored_auth")), "-H", f"Authorization: Bearer {KEY}")
    async with everything(minilm, drawer, **sections) as server:
        said, status = await _schemathesis(f"{server.url}/openapi.json", *more, cwd=tmp_path)
        async with server.http.get(f"{server.url}/readyz") as answer:
            assert answer.status == 200, "it is not ready any more"
        assert (server.backend.requests, server.engine.running) == (0, 0), "something is left"
    assert status == 0, said


async def _schemathesis(address: str, *more: str, cwd: Path) -> tuple[str, int | None]:
    command = (
        *(str(Path(sys.executable).parent / "schemathesis"), "run", address, *more),
        *("--max-examples", str(EXAMPLES), "--continue-on-failure", "--seed", "1", "--workers", "1"),
        *("--request-timeout", str(SECONDS), "--suppress-health-check", "all"),
    )
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=cwd
    )
    said, _ = await process.communicate()
    return said.decode(), process.returncode
