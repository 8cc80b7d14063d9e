"""A user's words, everywhere that a server writes: they are in its history alone, and gone once they are deleted."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from openai import AsyncOpenAI

from bench.faults.process import Process
from pipelines.downloads.cache import cache_folder
from tests.support import START_SECONDS

MARKER = "Zwetschgenkuchen4711"


def holding(folder: Path, since: float = 0.0) -> Iterator[Path]:
    """The files written since then that have the marker, as text or as JSON has it."""
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_mtime >= since and MARKER.lower().encode() in path.read_bytes().lower():
            yield path


async def converse(client: AsyncOpenAI) -> None:
    """A realtime session that writes, speaks, and makes a mistake."""
    async with client.realtime.connect(model="default") as connection:
        for modality in ("text", "audio"):
            content = [{"type": "input_text", "text": f"My cake is called {MARKER}. Say {MARKER}."}]
            item = {"type": "message", "role": "user", "content": content}
            await connection.conversation.item.create(item=item)  # type: ignore[arg-type]
            await connection.response.create(response={"output_modalities": [modality], "max_output_tokens": 30})
            async for event in connection:
                if event.type == "response.done":
                    break
        await connection.conversation.item.retrieve(item_id=MARKER)
        async for event in connection:
            if event.type == "error":
                break


async def everywhere(url: str) -> str:
    """Bring the marker to every route that takes a text; returns the id of a response without a conversation."""
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        await converse(client)
        text = f"My cake is called {MARKER}."
        alone = await client.responses.create(model="default", input=text, max_output_tokens=20)
        conversation = await client.conversations.create(metadata={"cake": MARKER})
        await client.responses.create(
            model="default", input=text, conversation=conversation.id, instructions=text, max_output_tokens=20
        )
        await client.chat.completions.create(
            model="default", messages=[{"role": "user", "content": text}], max_tokens=20, user=MARKER
        )
        await client.completions.create(model="default", prompt=text, max_tokens=5)
        await client.images.generate(prompt="happy cat", user=MARKER)
        await client.moderations.create(input=text)
        await client.embeddings.create(model="default", input=text)
        await client.audio.speech.create(model="default", voice="default", input=text)
    async with aiohttp.ClientSession(base_url=url) as http:
        for path in ("/v1/chat/completions", "/v1/responses", "/v1/images/generations"):
            async with http.post(path, data=f'{{"messages": "{MARKER}", "{MARKER}": 1') as response:
                assert response.status >= 400
        async with http.get(f"/v1/conversations?after={MARKER}") as response:
            assert response.status < 500
    return alone.id


async def delete_all(url: str) -> int:
    """Delete what can be listed, by the public API; returns how many."""
    async with aiohttp.ClientSession(base_url=url) as http:
        async with http.get("/v1/conversations?limit=100") as response:
            ids = [each["id"] for each in (await response.json())["data"]]
        for id in ids:
            async with http.delete(f"/v1/conversations/{id}") as response:
                assert response.status == 200
    return len(ids)


@pytest.mark.e2e
@pytest.mark.timeout(2 * START_SECONDS)
def test_what_a_user_said_is_in_the_history_alone_and_gone_once_deleted(tmp_path: Path) -> None:
    begun = time.time()
    written, log = tmp_path / "written", tmp_path / "log"
    folders = {"XDG_DATA_HOME": "data", "XDG_STATE_HOME": "state", "XDG_CONFIG_HOME": "config", "TMPDIR": "tmp"}
    for name in folders.values():
        (written / name).mkdir(parents=True)
    environment = {key: str(written / name) for key, name in folders.items()}
    server = Process({"history.store": "sqlite"}, log=log, log_level="debug", environment=environment)

    async def run() -> None:
        await server.ready()
        response = await everywhere(server.url)
        assert list(holding(written)), "it was stored"
        assert await delete_all(server.url) == 2
        assert list(holding(written)), "a response without a conversation is stored, too"
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            await client.responses.delete(response)

    server.start()
    try:
        asyncio.run(run())
        assert [path.name for path in holding(written)] == [], "while the server runs"
        assert server.end() == 0
    finally:
        if server.alive:
            server.kill()
    assert [path.name for path in holding(written)] == []
    assert [path.name for path in holding(cache_folder(), since=begun)] == []
    assert log.stat().st_size > 1000, "it was logged in detail"
    assert list(holding(tmp_path)) == [], "and no log has it"
