"""Real gateways and engines on Ray Serve, which die and are replaced, with PostgreSQL behind them."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from bench.cluster import Cluster, cluster, faults, left, overhead
from bench.faults.postgres import postgres
from bench.faults.process import Process
from bench.faults.stories import Telling
from tests.support import Client, realtime, sound_of, text_of

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(900),  # with a start of every process; an idle machine takes a minute and a half
]
pytest.importorskip("ray", reason="Ray Serve is not installed: pip install 'loquent[ray]'")

STORY = "Tell me a long story about a lighthouse."
DRAW = "Please draw a happy cat, and say hello."
SCALING: dict[str, Any] = {
    "ray.gateways": [1, 1],
    "ray.engines": [1, 2],
    "ray.remove_after": 2.0,
    "chat.streams": 4,
}
PARTS: dict[str, Any] = {
    "pipeline.stages": ["speech", "anomaly", "image", "chat"],
    "ray.speech": [1, 1],
    "ray.embedding": [1, 1],
    "ray.image": [1, 1],
    "anomaly.verdicts": True,
    "anomaly.deadline": 30.0,
    "image.deadline": 30.0,
}


@asynccontextmanager
async def served(log: Path, **settings: Any) -> AsyncIterator[tuple[Cluster, str]]:
    """A cluster, and the database behind it."""
    with postgres() as database, tempfile.TemporaryDirectory(prefix="ray-") as folder:
        if database is None:
            pytest.skip("PostgreSQL is not installed")
        store = database.new_database()
        async with cluster(store, folder, log, **settings) as server:
            yield server, store
        assert await left(server) == []


async def test_gateways_and_engines_on_ray(tmp_path: Path) -> None:
    """One test, because a cluster takes most of its time to start."""
    async with served(tmp_path / "log", **PARTS) as (server, store):
        assert all(len(server.replicas(kind)) == 2 for kind in ("gateway", "engine"))
        assert all(len(server.replicas(kind)) == 1 for kind in ("speech", "embedding", "image"))
        await _everything_passes(server)
        await _a_turn_is_spoken_drawn_and_screened_by_replicas(server)
        await _clients_come_back_to_their_own_gateway(server)
        await _a_client_that_leaves_ends_its_reply(server)
        await _print_overhead(server, store, tmp_path / "direct")
        telling = Telling(20, turns=1000, tokens=12, pause=3.0, patient=True, may_fail=True)
        found = await faults(server, telling, 3, redeploy=True)
        print(f"{found.turns} turns, {found.incomplete} incomplete, {found.failed} failed, {found.items} items")
        assert found.wrong == []
        assert found.items > 40


async def test_engines_come_and_go_with_the_load_and_no_reply_is_cut(tmp_path: Path) -> None:
    settings = SCALING | {"environment": {"RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1"}}
    async with served(tmp_path / "log", **settings) as (server, _), aiohttp.ClientSession() as http:
        assert len(server.replicas("engine")) == 1
        few, many = asyncio.Event(), asyncio.Event()  # set when those who ask are to stop
        asking = [asyncio.create_task(_ask_on(http, server, few)) for _ in range(2)]
        asking += [asyncio.create_task(_ask_on(http, server, many)) for _ in range(4)]
        async with asyncio.timeout(180):
            while len(server.replicas("engine")) < 2:
                await asyncio.sleep(0.5)
            many.set()
            while len(server.replicas("engine")) > 1:
                await asyncio.sleep(0.5)
        few.set()
        replies = await asyncio.gather(*asking)
        print(f"{sum(replies)} replies while an engine was added and removed")


async def _ask_on(http: aiohttp.ClientSession, server: Cluster, stop: asyncio.Event) -> int:
    """Ask for one reply after the other, each of which must end as it would have; how many there were."""
    body = {"model": "default", "max_tokens": 150, "messages": [{"role": "user", "content": STORY}]}
    count = 0
    while not stop.is_set():
        async with http.post(f"{server.url}/v1/chat/completions", json=body) as response:
            found = await response.json()
            assert response.status == 200, found
            assert found["choices"][0]["finish_reason"] in ("stop", "length")
        count += 1
    return count


async def _everything_passes(server: Cluster) -> None:
    async with aiohttp.ClientSession() as http:
        body = {"model": "default", "max_tokens": 8, "messages": [{"role": "user", "content": "Hello"}]}
        async with http.post(f"{server.url}/v1/chat/completions", json=body) as response:
            assert (await response.json())["choices"][0]["message"]["content"]
        async with http.get(f"{server.url}/v1/nothing") as response:
            assert (response.status, (await response.json())["error"]["code"]) == (404, "not_found")
    with pytest.raises(InvalidStatus) as refused:
        async with connect(realtime(server.url), origin="https://evil.example"):  # type: ignore[arg-type]
            pass
    assert refused.value.response.status_code == 403
    assert b"origin_not_allowed" in (refused.value.response.body or b"")


async def _a_turn_is_spoken_drawn_and_screened_by_replicas(server: Cluster) -> None:
    async with aiohttp.ClientSession() as http, asyncio.timeout(120):
        body = {"prompt": "a happy cat", "response_format": "b64_json", "n": 1}
        while True:  # parts that turns need not wait for are there a moment later
            async with http.post(f"{server.url}/v1/images/generations", json=body) as response:
                if response.status == 200:
                    break
            await asyncio.sleep(0.5)
    async with connect(realtime(server.url), compression=None, max_size=None) as socket:
        client = Client(socket)
        await client.expect("session.created", "conversation.created")
        wanted = {"type": "realtime", "max_output_tokens": 20, "loquent": {"verdicts": True, "image": True}}
        await client.send("session.update", session=wanted)
        await client.expect("session.updated")
        for _ in range(5):  # a busy machine may take too long to understand what is to be drawn
            events = await client.ask(DRAW)
            done = events[-1]["response"]
            assert done["status"] in ("completed", "incomplete")
            assert len(sound_of(events)) > 24_000, "half a second and more"
            assert events[-1]["loquent"]["screening"]["verdicts"]
            if events[-1]["loquent"].get("images"):
                return
    raise AssertionError("no turn had a picture")


async def _clients_come_back_to_their_own_gateway(server: Cluster) -> None:
    """A reply in progress goes on, on whichever gateway its client comes back to."""
    async with connect(realtime(server.url), compression=None) as socket:
        client = Client(socket)
        created = (await client.expect("session.created", "conversation.created"))[0]
        token = created["loquent"]["resume_token"]
        text = {"type": "realtime", "output_modalities": ["text"], "max_output_tokens": 120}
        await client.send("session.update", session=text)
        await client.expect("session.updated")
        await client.say(STORY)
        await client.send("response.create")
        await client.until("response.output_text.delta")
        socket.transport.abort()
    seen = client.seen
    for _ in range(6):  # the chance that all go to the right gateway by themselves is small
        url = f"{realtime(server.url)}?session={token}&after={seen[-1]['event_id']}"
        async with connect(url, compression=None) as socket:
            again = Client(socket)
            seen.append(await again.receive())
            socket.transport.abort()
    async with connect(f"{realtime(server.url)}?session={token}&after={seen[-1]['event_id']}") as socket:
        again = Client(socket)
        if not any(event["type"] == "response.done" for event in seen):
            seen += await again.until("response.done")
    done = next(event for event in seen if event["type"] == "response.done")["response"]
    assert done["status"] in ("completed", "incomplete")
    assert (done.get("status_details") or {}).get("error") is None, "it was not restored from the database"
    prefix = f"event_{created['session']['id'].removeprefix('sess_')}"
    numbers = [int(event["event_id"].removeprefix(prefix)) for event in seen]
    assert numbers == list(range(1, len(numbers) + 1)), "nothing is missing, and nothing comes twice"
    assert text_of(seen) == "".join(part["text"] for part in done["output"][0]["content"])


async def _a_client_that_leaves_ends_its_reply(server: Cluster) -> None:
    body = {"model": "default", "max_tokens": 500, "messages": [{"role": "user", "content": STORY}], "stream": True}
    async with aiohttp.ClientSession() as http:
        async with http.post(f"{server.url}/v1/chat/completions", json=body) as response:
            await response.content.readline()
        async with asyncio.timeout(30):
            while not await _aborted(http, server):
                await asyncio.sleep(0.1)


async def _aborted(http: aiohttp.ClientSession, server: Cluster) -> bool:
    """Whether the gateway that answers has counted a request whose reader left; there are two."""
    async with http.get(f"{server.url}/metrics", headers={"Connection": "close"}) as response:
        lines = (await response.text()).splitlines()
    return any(float(line.split()[-1]) > 0 for line in lines if line.startswith("loquent_aborted_total"))


async def _print_overhead(server: Cluster, store: str, log: Path) -> None:
    direct = Process({"pipeline.stages": ["chat"], "listening.model": "", "history.store": store}, log=log)
    direct.start()
    try:
        await direct.ready()
        figures = await overhead(server.url, direct.url, 200)
    finally:
        direct.end()
    print({name: round(value, 2) for name, value in figures.items()}, f"load {psutil.getloadavg()[0]:.1f}")
    assert figures["added"] < 25, "milliseconds; an idle machine takes less than 3"
