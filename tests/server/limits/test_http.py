"""Limits over HTTP: what is refused, and what every answer says."""

import time
from pathlib import Path
from typing import Any

import pytest

from server.config import LimitSettings, ServerSettings, Settings
from tests.server.access.support import Guarded, bearer, guarded, new_key
from tests.support import ScriptedModel, running

Json = dict[str, Any]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


async def ask(given: Guarded, key: str, **body: Any) -> tuple[int, Json, dict[str, str]]:
    asked = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8, **body}
    url = f"{given.server.url}/v1/chat/completions"
    async with given.server.http.post(url, json=asked, headers=bearer(key)) as answer:
        text = await answer.text()
        return answer.status, {} if body.get("stream") else await answer.json(), dict(answer.headers) | {"body": text}


async def test_every_answer_says_what_is_left(file: Path) -> None:
    key = new_key(file)
    async with guarded(file, limits=LimitSettings(key_requests=100, key_tokens=1000)) as given:
        begun = time.monotonic()
        _, first, before = await ask(given, key)
        status, _, after = await ask(given, key, stream=True)
        minutes = (time.monotonic() - begun) / 60  # in which the buckets fill
    assert status == 200
    assert before["x-ratelimit-limit-requests"] == "100"
    for headers, left in ((before, 99), (after, 98)):
        assert left <= int(headers["x-ratelimit-remaining-requests"]) <= left + 100 * minutes
    left = 1000 - first["usage"]["total_tokens"] - 8
    assert left <= int(after["x-ratelimit-remaining-tokens"]) <= left + 1000 * minutes + 1, "and 8 are reserved"


async def test_a_request_too_many_is_a_429_that_says_when_to_come_again(file: Path) -> None:
    key = new_key(file)
    async with guarded(file, limits=LimitSettings(key_requests=2)) as given:
        assert [(await ask(given, key))[0] for _ in range(2)] == [200, 200]
        status, body, headers = await ask(given, key)
        assert (status, body["error"]["code"]) == (429, "rate_limit_exceeded")
        assert body["error"]["type"] == "rate_limit_error"
        assert 1 <= int(headers["Retry-After"]) <= 30
        assert headers["x-ratelimit-remaining-requests"] == "0"
        other = new_key(file, "other")
        given.look()
        assert (await ask(given, other))[0] == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_turn_beyond_the_tokens_is_refused_before_it_runs(file: Path, stream: bool) -> None:
    key = new_key(file)
    model = ScriptedModel("word " * 8)
    async with guarded(file, model, limits=LimitSettings(key_tokens=20)) as given:
        assert (await ask(given, key))[0] == 200
        steps = given.server.engine.steps
        status, _, headers = await ask(given, key, stream=stream)
        assert status == 429
        assert "rate_limit_exceeded" in headers["body"]
        assert given.server.engine.steps == steps


async def test_a_turn_that_was_cut_is_charged_for_what_it_took(file: Path) -> None:
    import threading

    from tests.support import eventually

    key, gate = new_key(file), threading.Semaphore(3)
    model = ScriptedModel("abcdefgh", gate=gate)
    async with guarded(file, model, limits=LimitSettings(key_tokens=1000)) as given:
        url = f"{given.server.url}/v1/chat/completions"
        asked = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 500, "stream": True}
        async with given.server.http.post(url, json=asked, headers=bearer(key)) as answer:
            assert int(answer.headers["x-ratelimit-remaining-tokens"]) == 500
            await answer.content.readuntil(b'"content":"a')
            answer.close()
        gate.release(100)
        await eventually(lambda: given.server.backend.requests == 0, "it is gone")
        _, _, headers = await ask(given, key)
    assert 900 < int(headers["x-ratelimit-remaining-tokens"]) < 1000 - 8


async def test_wrong_keys_are_refused_with_429_once_there_were_too_many_of_them(file: Path) -> None:
    key = new_key(file)
    async with guarded(file, limits=LimitSettings(address_requests=3)) as given:
        assert [(await ask(given, "lq-wrong"))[0] for _ in range(5)] == [401, 401, 401, 429, 429]
        assert (await ask(given, key))[0] == 200, "a right key from the same address is not their victim"


async def test_on_this_machine_without_keys_nothing_is_limited() -> None:
    settings = Settings(limits=LimitSettings(address_requests=1, key_requests=1))
    async with running(ScriptedModel(["Hi"]), settings) as server:
        for _ in range(5):
            async with server.http.get(f"{server.url}/v1/models") as answer:
                assert answer.status == 200
                assert not [name for name in answer.headers if name.lower().startswith("x-ratelimit")]


async def test_limits_hold_from_the_moment_that_the_server_wants_a_key(file: Path) -> None:
    async with guarded(file, limits=LimitSettings(key_requests=1)) as given:
        assert [(await ask(given, ""))[0] for _ in range(3)] == [200] * 3
        key = new_key(file)
        given.look()
        assert [(await ask(given, key))[0] for _ in range(2)] == [200, 429]


async def test_behind_a_trusted_proxy_each_visitor_has_a_bucket(file: Path) -> None:
    server = ServerSettings(trusted_proxies=("127.0.0.1",))
    new_key(file)
    async with guarded(file, server=server, limits=LimitSettings(address_requests=1)) as given:
        url = f"{given.server.url}/v1/models"

        async def status(chain: str) -> int:
            async with given.server.http.get(url, headers={"X-Forwarded-For": chain}) as answer:
                return int(answer.status)

        assert [await status("198.51.100.1"), await status("198.51.100.1")] == [401, 429]
        assert await status("198.51.100.2") == 401
        assert await status("203.0.113.5, 198.51.100.1") == 429, "what the client invents is no other address"


async def test_where_no_proxy_is_trusted_the_header_makes_no_other_visitor(file: Path) -> None:
    new_key(file)
    async with guarded(file, limits=LimitSettings(address_requests=1)) as given:
        for number, expected in enumerate((401, 429, 429)):
            forged = {"X-Forwarded-For": f"198.51.100.{number}"}
            async with given.server.http.get(f"{given.server.url}/v1/models", headers=forged) as answer:
                assert answer.status == expected


async def test_the_probes_and_pages_are_not_limited_and_say_nothing_of_limits(file: Path) -> None:
    new_key(file)
    async with guarded(file, limits=LimitSettings(address_requests=1)) as given:
        for path in ("/livez", "/", "/livez", "/"):
            async with given.server.http.get(given.server.url + path) as answer:
                assert answer.status == 200
                assert "x-ratelimit-limit-requests" not in answer.headers
