"""What ``/metrics`` exposes: what docs/metrics.md lists, and numbers of what happened."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipelines.build import build
from pipelines.part import Shared
from server.app import listen, serving, url
from server.cluster.parts.elsewhere import Elsewhere
from server.cluster.settings import PartKind
from server.config import Settings, stage_settings
from server.metrics import Metrics
from tests.server.access.support import bearer, guarded, new_key
from tests.support import ROOT, Running, ScriptedModel, eventually, realtime, running

Row = tuple[str, str, tuple[str, ...]]  # name, type, labels
HI = {"messages": [{"role": "user", "content": "Hi"}]}


def documented() -> set[Row]:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    assert len(rows) == len({name for name, _, _ in rows}), "a metric is listed twice"
    return {(name, type, tuple(re.findall(r"`(\w+)`", labels))) for name, type, labels in rows}


def labels_of(metrics: Metrics) -> dict[str, tuple[str, ...]]:
    """The labels of each metric, of those too that have no sample yet."""
    found: dict[str, tuple[str, ...]] = {}
    for collector in metrics._registry._collector_to_names:
        labels: Any = getattr(collector, "_labelnames", None) or getattr(collector, "_label", ())
        for family in collector.collect():
            found[family.name] = (labels,) if isinstance(labels, str) else tuple(labels)
    return found


ELSEWHERE = {"engine": "openai", "upstream": {"urls": ["http://127.0.0.1:9/v1"]}}


async def exposed(tmp_path: Path, chat: dict[str, Any], kinds: tuple[PartKind, ...] = ()) -> set[Row]:
    """The metrics of a server with every part, of which those of these kinds have replicas of their own."""
    history, limits = f"sqlite:///{tmp_path / 'history.db'}", "redis://127.0.0.1:9/0"
    settings = Settings.model_validate({"history": {"store": history}, "limits": {"store": limits}, "chat": chat})
    parts = stage_settings(settings) | {"listening": settings.listening}
    away = Elsewhere(settings, kinds)
    pipeline = build(parts, Shared(away.seams), *([away.part] if kinds else []))
    listener = listen("127.0.0.1", 0)
    async with serving(settings, pipeline, listener) as backend, aiohttp.ClientSession() as http:
        async with http.get(f"{url(listener)}/metrics") as answer:
            families = list(text_string_to_metric_families(await answer.text()))
        labels = labels_of(backend.metrics)
    suffix = {"counter": "_total"}
    return {(each.name + suffix.get(each.type, ""), each.type, labels[each.name]) for each in families}


async def test_the_table_lists_exactly_the_metrics_of_servers_with_every_part(tmp_path: Path) -> None:
    builtin = await exposed(tmp_path, {})
    elsewhere = await exposed(tmp_path, ELSEWHERE, ("embedding", "image", "speech"))
    assert builtin | elsewhere == documented()
    assert {name for name, _, _ in elsewhere - builtin} == {
        "loquent_part_replicas",
        "loquent_part_requests",
        "loquent_upstream_requests_total",
        "loquent_upstream_retries_total",
        "loquent_upstream_running",
        "loquent_upstream_state",
    }


def test_metrics_follow_the_conventions_of_prometheus() -> None:
    for name, type, _ in documented():
        assert re.fullmatch(r"(loquent|process)(_[a-z]+)+", name), name
        assert name.endswith("_total") == (type == "counter"), name
        assert not re.search(r"_(ms|milliseconds|minutes|kib|mb|percent)(_|$)", name), name


async def told(server: Running, **headers: str) -> dict[str, float]:
    async with server.http.get(f"{server.url}/metrics", headers=headers) as answer:
        assert answer.status == 200
        lines = (await answer.text()).splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


async def test_requests_count_by_route_and_status_and_never_by_what_a_client_chose() -> None:
    async with running(ScriptedModel(["Hel", "lo."])) as server:
        for path in ("/v1/models/secret-name", "/v1/models/other", "/v1/responses/resp_1", "/no/such/path"):
            async with server.http.get(server.url + path) as answer:
                assert answer.status == 404
        async with server.http.request("PROPFIND", f"{server.url}/v1/models"):
            pass
        async with server.client() as client:
            await client.greet()
        await eventually(lambda: not server.backend.connections, "the websocket is closed")
        found = await told(server)
    counts = {name: value for name, value in found.items() if name.startswith("loquent_http_requests_total")}
    assert counts == {
        _requests("GET", "/v1/models/{name}", 404): 2,
        _requests("GET", "/v1/responses/{id}", 404): 1,
        _requests("GET", "unmatched", 404): 1,
        _requests("other", "unmatched", 405): 1,
        _requests("GET", "/v1/realtime", 101): 1,
    }
    seconds = [name for name in found if name.startswith("loquent_http_request_duration_seconds_count")]
    assert 'loquent_http_request_duration_seconds_count{method="GET",route="/v1/models/{name}"}' in seconds
    assert not [name for name in seconds if "/v1/realtime" in name]
    assert found["loquent_http_requests_in_progress"] == 1  # the one that asks


def _requests(method: str, route: str, status: int) -> str:
    return f'loquent_http_requests_total{{method="{method}",route="{route}",status="{status}"}}'


async def test_a_turn_has_a_duration_and_a_token_rate() -> None:
    async with running(ScriptedModel(["One ", "two ", "three."])) as server:
        async with server.http.post(f"{server.url}/v1/chat/completions", json=HI) as answer:
            assert answer.status == 200
        found = await told(server)
    assert found["loquent_turn_duration_seconds_count"] == 1
    assert found["loquent_turn_tokens_per_second_count"] == 1
    assert found["loquent_turn_tokens_per_second_sum"] > 0


async def test_lingering_resumed_and_replaced_websockets_are_counted() -> None:
    async with running(ScriptedModel(["Hi"]), Settings.model_validate({"sessions": {"linger": 60}})) as server:
        address = realtime(server.url).replace("ws", "http", 1)
        first = await server.http.ws_connect(address)
        created = await first.receive_json()
        token, seen = created["loquent"]["resume_token"], created["event_id"]
        query = {"session": token, "after": seen}
        second = await server.http.ws_connect(address, params=query)
        await _closed(first)
        _cut(second)
        await eventually(lambda: server.backend.live.lingering == 1, "the session lingers")
        assert (await told(server))["loquent_sessions_lingering"] == 1
        third = await server.http.ws_connect(address, params=query)
        found = await told(server)
        await third.close()
    assert found["loquent_sessions_lingering"] == 0
    assert found["loquent_sessions_resumed_total"] == 2
    assert found["loquent_sessions_taken_over_total"] == 1


async def _closed(socket: aiohttp.ClientWebSocketResponse) -> None:
    while (await asyncio.wait_for(socket.receive(), 10)).type not in (
        aiohttp.WSMsgType.CLOSE,
        aiohttp.WSMsgType.CLOSED,
    ):
        pass


def _cut(socket: aiohttp.ClientWebSocketResponse) -> None:
    transport: Any = socket._response.connection
    transport.transport.abort()


@pytest.mark.parametrize(
    ("limits", "limit"),
    [({"key_requests": 1}, "requests"), ({"key_tokens": 1}, "tokens"), ({"key_daily_tokens": 1}, "daily_tokens")],
)
async def test_what_is_over_a_limit_counts_by_the_limit_and_by_whose_it_is(
    tmp_path: Path, limits: dict[str, int], limit: str
) -> None:
    file = tmp_path / "keys.json"
    shop, admin = new_key(file, "shop"), new_key(file, "watch", ["admin"])
    async with guarded(file, limits={"rates": "on"} | limits) as given:
        for _ in range(2):
            address = f"{given.server.url}/v1/chat/completions"
            async with given.server.http.post(address, data=json.dumps(HI), headers=bearer(shop)) as answer:
                last = answer.status
        found = await told(given.server, **bearer(admin))
    assert last == 429
    assert found[f'loquent_rate_limited_total{{limit="{limit}",subject="key"}}'] == 1
