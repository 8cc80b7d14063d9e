"""An hour of everything at once: text, speech, pictures, sockets that break, replies that are cancelled and left.

Run ``python -m bench.faults soak --minutes 60``. Its load leaves the machine room, so that the times of two clients
without faults show whether the server becomes slower, as its memory shows whether it leaks.
"""

import asyncio
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import psutil

from bench.faults.client import conversing
from bench.faults.cuts import WORDS, check, check_events
from bench.faults.cuts import Found as Heard
from bench.faults.process import Process
from bench.faults.proxy import proxy
from bench.faults.times import Times, ask, talk

WARM_SHARE = 1 / 6  # of the run, before memory and times count
EVERY_SECONDS = 10.0  # a look at the memory
THINK_SECONDS = (1.0, 4.0)
REST_SECONDS = (5.0, 15.0)  # between two sounds, and two pictures
BEHIND = 3.5, 6.0  # powers of ten: bytes behind which a socket breaks
ENDLESS = 1 << 60
TOKENS = 60
PICTURE = "happy cat"
TURNS = 5  # of a conversation
KEPT_BYTES = 8 * 1024 * 1024  # of pictures, the least there is, so that their room is soon full
FILL_AT_ONCE = 32  # as many as the model has slots
FILL_NUMBERS = 400  # of three digits: about 1,300 tokens, three times as long as a conversation becomes
FILL_SOUNDS = 8
LONG = (
    f"She told them {', and '.join(['that the house by the sea was old'] * 8)}."  # longer than the sentences of a reply
)
FILL_PICTURES = 640


@dataclass(frozen=True)
class Sample:
    """One look at the server."""

    seconds: float  # since the beginning
    mib: float  # resident, its children included


@dataclass
class Found:
    """What came of the run."""

    seconds: float
    samples: list[Sample] = field(default_factory=list)
    times: Times = field(default_factory=Times)
    did: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    exit_code: int = -1


@dataclass
class _Run:
    server: Process
    http: aiohttp.ClientSession
    chance: random.Random
    found: Found
    begun: float = field(default_factory=time.perf_counter)

    @property
    def over(self) -> bool:
        return time.perf_counter() - self.begun > self.found.seconds

    @property
    def subject(self) -> str:
        return self.chance.choice(WORDS)

    async def rest(self, least: float, most: float) -> None:
        await asyncio.sleep(self.chance.uniform(least, most))

    async def again(self, does: Callable[["_Run"], Awaitable[None]], pause: tuple[float, float]) -> None:
        """Do something again and again; what goes wrong is noted, and does not end the run."""
        name = does.__name__.strip("_")
        while not self.over:
            try:
                async with asyncio.timeout(180):
                    await does(self)
            except Exception as error:
                self.found.wrong.append(f"{time.perf_counter() - self.begun:.0f} s, {name}: {error!r:.300}")
            else:
                self.found.did[name] += 1
            await self.rest(*pause)


async def soak(minutes: float, *, seed: int = 1, fill: bool = True) -> Found:
    """Let everything happen for so long."""
    found = Found(60 * minutes)
    with tempfile.TemporaryDirectory() as folder:
        store = f"sqlite:///{Path(folder) / 'history.db'}"
        server = Process({"history.store": store, "image.kept_bytes": KEPT_BYTES})
        server.start()
        try:
            await server.ready()
            await everything(server, found, seed=seed, fill=fill)
            found.exit_code = await asyncio.to_thread(server.end)
        finally:
            if server.alive:
                server.kill()
    return found


async def everything(server: Process, found: Found, *, seed: int = 1, fill: bool = True) -> None:
    """The load, and the looks at the server's memory; at first more at once, which fills what has bounds."""
    chance = random.Random(seed)
    parts = urlsplit(server.url)
    async with (
        aiohttp.ClientSession(base_url=server.url, timeout=aiohttp.ClientTimeout(total=120)) as http,
        proxy(parts.hostname or "", parts.port or 80, ENDLESS, chance, BEHIND) as breaking,
    ):
        run = _Run(server, http, chance, found)

        async def _cut_text(run: _Run) -> None:
            await _cut(run, breaking.url, aloud=False)

        async def _cut_speech(run: _Run) -> None:
            await _cut(run, breaking.url, aloud=True)

        async with asyncio.TaskGroup() as group:
            group.create_task(_look(run))
            if fill:
                group.create_task(_fill(run))
            for does in (_measured, _measured, _cut_text, _cut_text, _cut_speech, _cancelled, _left):
                group.create_task(run.again(does, THINK_SECONDS))
            for does in (_sound, _picture):
                group.create_task(run.again(does, REST_SECONDS))
        found.did.update({f"broken by {kind}": count for kind, count in Counter(breaking.breaks).items()})


async def _fill(run: _Run) -> None:
    """Use every KV cache slot further than any later conversation does, every voice, and the room for pictures."""

    async def converse() -> None:
        for _ in range(3):
            numbers = " ".join(
                str(run.chance.randrange(1000)) for _ in range(FILL_NUMBERS)
            )  # no beginning is another's
            body = {"messages": [{"role": "user", "content": numbers}], "max_tokens": TOKENS}
            async with run.http.post("/v1/chat/completions", json=body) as response:
                response.raise_for_status()

    async def draw() -> None:
        for _ in range(FILL_PICTURES // FILL_AT_ONCE):
            await _picture(run)

    async def speak() -> None:
        for _ in range(FILL_SOUNDS):
            await _speak(run, LONG)

    async with asyncio.TaskGroup() as group:
        for _ in range(FILL_AT_ONCE):
            for does in (converse, draw, speak):
                group.create_task(does())
    run.found.did["filled"] = 1


async def _look(run: _Run) -> None:
    while not run.over:
        process = run.server.running
        with suppress(psutil.NoSuchProcess):  # a child that has just ended
            of = [process, *process.children(recursive=True)]
            held = sum(each.memory_info().rss for each in of)
            run.found.samples.append(Sample(time.perf_counter() - run.begun, held / 2**20))
        await asyncio.sleep(EVERY_SECONDS)


async def _measured(run: _Run) -> None:
    """A conversation without faults, whose times count."""
    async with run.http.ws_connect("/v1/realtime", compress=0, heartbeat=30) as socket:
        for _ in range(TURNS):
            await talk(socket, f"Write a short story about {run.subject}.", TOKENS, run.found.times, since=run.begun)
            if run.over:
                break
            await run.rest(*THINK_SECONDS)


async def _cut(run: _Run, url: str, *, aloud: bool) -> None:
    """A conversation whose sockets break; at its end it is deleted, or left to the history."""
    heard = Heard()
    async with conversing(url) as (mine, coming):
        modality = "audio" if aloud else "text"
        await mine.begin(coming, {"output_modalities": [modality], "max_output_tokens": TOKENS})
        for _ in range(TURNS):
            check(await mine.ask(coming, f"Write a short story about {run.subject}."), heard, aloud=aloud)
            if run.over:
                break
            await run.rest(*THINK_SECONDS)
        check_events(mine, heard)
    run.found.did["turns over breaks"] += heard.turns
    run.found.wrong += heard.wrong
    if run.chance.random() < 0.5:
        async with run.http.delete(f"/v1/conversations/conv_{mine.token[5:21]}") as response:
            if response.status != 200:
                run.found.wrong.append(f"deletion: {response.status}")
        run.found.did["deleted"] += 1


async def _cancelled(run: _Run) -> None:
    """A reply that its client cancels."""
    async with run.http.ws_connect("/v1/realtime", compress=0) as socket:
        await ask(socket, f"Write a long story about {run.subject}.", output_modalities=["text"])
        left = run.chance.randint(1, 60)
        async for message in socket:
            event = json.loads(message.data)
            left -= event["type"] == "response.output_text.delta"
            if left == 0:
                left = -1
                await socket.send_json({"type": "response.cancel"})
            if event["type"] == "response.done":
                status = event["response"]["status"]
                if status not in ("cancelled", "completed"):
                    raise AssertionError(f"a cancelled reply is {status}")
                return
        raise AssertionError("the socket closed before the reply was done")


async def _left(run: _Run) -> None:
    """A reply over HTTP whose client leaves amid it, or hears it out."""
    messages = [{"role": "user", "content": f"Write a story about {run.subject}."}]
    body = {"messages": messages, "max_tokens": TOKENS, "stream": True}
    left = run.chance.randint(1, 2 * TOKENS)
    async with run.http.post("/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.content:
            left -= line.startswith(b"data:")
            if left <= 0:
                response.close()
                return


async def _sound(run: _Run) -> None:
    """Speech of a text, heard out or left."""
    await _speak(run, f"This is what I know about {run.subject}. It is not much.")


async def _speak(run: _Run, text: str) -> None:
    body = {"model": "default", "voice": "default", "input": text}
    async with run.http.post("/v1/audio/speech", json=body) as response:
        response.raise_for_status()
        if run.chance.random() < 0.5:
            await response.read()


async def _picture(run: _Run) -> None:
    """A picture, and a look at it."""
    async with run.http.post("/v1/images/generations", json={"prompt": PICTURE, "response_format": "url"}) as made:
        made.raise_for_status()
        url = (await made.json())["data"][0]["url"]
    async with run.http.get(url) as response:
        response.raise_for_status()
        if not (await response.read()).startswith(b"\x89PNG"):
            raise AssertionError("a picture is no PNG")
