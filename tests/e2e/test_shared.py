"""Servers that share limits and pictures, each started as a user starts it: in a process of its own."""

import json
import urllib.error
import urllib.request
from typing import Any

import pytest

from bench.faults.redis import redis
from tests.support import START_SECONDS, started

ASKED = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8}


def post(address: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    request = urllib.request.Request(  # noqa: S310 - our own server
        address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as refused:
        return refused.code, json.loads(refused.read())


@pytest.mark.e2e
@pytest.mark.timeout(3 * START_SECONDS)
def test_two_processes_share_limits_and_pictures(loquent: str) -> None:
    with redis() as store:
        if store is None:
            pytest.skip("neither redis-server nor valkey-server is installed")
        environment = {
            "LOQUENT__LIMITS__STORE": store.url,
            "LOQUENT__IMAGE__STORE": store.url,
            "LOQUENT__LIMITS__RATES": "on",
            "LOQUENT__LIMITS__ADDRESS_REQUESTS": "30",
            "LOQUENT__PIPELINE__STAGES": '["image", "chat"]',
            "LOQUENT__LISTENING__MODEL": "",
        }
        with started([loquent], environment) as one, started([loquent], environment) as other:
            code, drawn = post(one, "/v1/images/generations", {"prompt": "happy cat"})
            assert code == 200, drawn
            link = drawn["data"][0]["url"].replace(one, other)
            with urllib.request.urlopen(link, timeout=60) as answer:  # noqa: S310
                assert answer.read().startswith(b"\x89PNG")
            assert post(other, "/v1/chat/completions", ASKED)[0] == 200
            statuses = [post(server, "/v1/models/none", {})[0] for server in [one, other] * 40]
            assert statuses.count(429) > 15, "what one admits counts at the other"
            assert store.keys("loquent:limits:address:requests:*")
            assert len(store.keys("loquent:pictures:*")) == 2
