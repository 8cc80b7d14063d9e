"""What is answered before any handler runs, and at paths where nothing is."""

import asyncio
import json
from typing import Any

import pytest

from server.config import ServerSettings, Settings
from tests.support import PATIENCE, Running, ScriptedModel, running


async def exchange(server: Running, raw: bytes) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Send bytes and read the answer until the server closes the connection."""
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(raw.replace(b"HOST", f"{host}:{port}".encode()))
    async with asyncio.timeout(PATIENCE):
        answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return int(status.split()[1]), headers, json.loads(body)


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (b"no HTTP\r\n\r\n", 400, "invalid_http"),
        (b"GET /v1/models HTTP/9.x\r\nHost: HOST\r\n\r\n", 400, "invalid_http"),
        (b"GET /v1/models HTTP/1.1\r\nHost HOST\r\n\r\n", 400, "invalid_http"),
        (
            b"GET /v1/models HTTP/1.1\r\nHost: HOST\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
            431,
            "request_header_too_large",
        ),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: HOST\r\n\r\n", 431, "request_header_too_large"),
        (
            b"POST /v1/embeddings HTTP/1.1\r\nHost: HOST\r\nExpect: a miracle\r\nContent-Length: 2\r\n\r\n{}",
            417,
            "expectation_failed",
        ),
        (b"POST /v1/embeddings HTTP/1.1\r\nHost: HOST\r\nContent-Length: many\r\n\r\n{}", 400, "invalid_http"),
    ],
)
async def test_what_is_no_request_is_refused_in_openais_format(
    raw: bytes, status: int, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(ScriptedModel(["Hi"])) as server:
        answered, headers, body = await exchange(server, raw)
    assert (answered, body["error"]["code"]) == (status, code)
    assert set(body["error"]) == {"message", "type", "code", "param"}
    assert headers["x-request-id"].startswith("req_")
    assert headers["server"] == "loquent"
    assert not [record for record in caplog.records if record.levelname == "ERROR"], (
        "the client's fault is no error here"
    )


async def test_an_expected_continue_is_given() -> None:
    request = b"POST /v1/chat/completions HTTP/1.1\r\nHost: HOST\r\nExpect: 100-continue\r\nConnection: close\r\n"
    request += b"Content-Length: 2\r\n\r\n{}"
    async with running(ScriptedModel(["Hi"])) as server:
        host, port = server.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(request.replace(b"HOST", f"{host}:{port}".encode()))
        async with asyncio.timeout(PATIENCE):
            assert (await reader.readline()).startswith(b"HTTP/1.1 100")
            assert b"missing_required_parameter" in await reader.read()
        writer.close()


@pytest.mark.parametrize(
    ("path", "right"),
    [
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("/v1//chat/completions", "/v1/chat/completions"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/chat/completions", "/v1/chat/completions"),
        ("/models", "/v1/models"),
        ("//v1/models/", "/v1/models"),
        ("/embeddings", "/v1/embeddings"),
        ("/v1/realtime/", "/v1/realtime"),
    ],
)
async def test_a_path_that_is_nearly_right_is_a_404_that_names_the_right_one(path: str, right: str) -> None:
    async with running(ScriptedModel(["Hi"])) as server:
        for method in ("GET", "POST"):
            async with server.http.request(method, server.url + path) as answer:
                error = (await answer.json())["error"]
                assert (answer.status, error["code"]) == (404, "not_found")
                assert error["message"].endswith(f"did you mean {right}?")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/assistants",
        "/v1/files/file-1",
        "/v1/batches",
        "/v1/fine_tuning/jobs",
        "/v1/audio/voices",
        "/v1/realtime/sessions",
        "/v1/realtime/sessions/",
        "/v1/images/edits",
    ],
)
async def test_a_path_that_only_openai_has_is_a_404_that_says_so(path: str) -> None:
    async with running(ScriptedModel(["Hi"])) as server, server.http.post(server.url + path) as answer:
        message = (await answer.json())["error"]["message"]
        assert answer.status == 404
        assert message.startswith(f"OpenAI has {path.rstrip('/')}, and this server does not")


@pytest.mark.parametrize("path", ["/nowhere", "/v1", "/v1/", "/%2e%2e/x", "/v1/filesystem", "/" + "v1/" * 50])
async def test_any_other_path_is_a_plain_404(path: str) -> None:
    async with running(ScriptedModel(["Hi"])) as server, server.http.get(server.url + path) as answer:
        error = (await answer.json())["error"]
        assert (answer.status, error["code"]) == (404, "not_found")
        assert "OpenAI has" not in error["message"]


async def test_a_method_that_a_path_does_not_take_is_a_405_that_names_those_it_does() -> None:
    async with running(ScriptedModel(["Hi"])) as server, server.http.get(f"{server.url}/v1/embeddings") as answer:
        assert answer.status == 405
        assert "POST" in (await answer.json())["error"]["message"]


async def test_hints_are_for_who_has_a_key() -> None:
    settings = Settings(server=ServerSettings(keys=("sha256:" + "0" * 64,)))
    async with running(ScriptedModel(["Hi"]), settings) as server, server.http.get(f"{server.url}/models") as answer:
        assert answer.status == 401
