"""A whole server whose voice and generator are replicas: what clients see is what a server by itself shows them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from pipelines.anomaly import part as anomaly_part
from pipelines.anomaly.settings import AnomalySettings
from pipelines.build import Pipeline
from pipelines.image import part as image_part
from pipelines.image.settings import ImageSettings
from pipelines.image.stage import ImageStage
from pipelines.image.weights import Drawer
from pipelines.part import Shared
from pipelines.speech import part as speech_part
from server.app import listen, serving, url
from server.cluster.members import Member, View
from server.cluster.parts.elsewhere import Elsewhere
from server.cluster.settings import PartKind
from server.config import Settings
from tests.server.cluster.parts.replicas import misbehaving, replica, with_voice
from tests.server.cluster.parts.test_image import with_generator
from tests.server.cluster.parts.test_speech import dies_within
from tests.support import (
    PATIENCE,
    Running,
    ScriptedModel,
    ScriptedVoice,
    eventually,
    running,
    scripted_pipeline,
    scripted_speech,
    sound_of,
    transcript_of,
)
from tests.support import drawing as drawing_here

WORDS = ["One ", "two ", "three. ", "Four ", "five."]
SPEAKERS = ("anna", "bert")
IMAGE = ImageSettings(deadline=PATIENCE)


@asynccontextmanager
async def gateway(
    *members: Member, kinds: tuple[PartKind, ...], more: Callable[[Shared], list[Any]] = lambda shared: []
) -> AsyncIterator[tuple[Running, Elsewhere]]:
    """A server whose parts of these kinds are elsewhere."""
    settings = Settings(image=IMAGE)
    elsewhere = Elsewhere(settings, kinds)
    elsewhere.learn(View(members))
    shared = Shared(elsewhere.seams, elsewhere.why_not)
    parts = more(shared)
    if "speech" in kinds:
        parts.append(speech_part.part(settings.speech, shared))
    pipeline = Pipeline([*parts, *scripted_pipeline(ScriptedModel(WORDS)).parts, elsewhere.part], shared)
    async with running(pipeline, settings) as server:
        yield server, elsewhere


async def test_a_server_that_waits_for_replicas_says_of_which_part() -> None:
    settings = Settings(image=IMAGE, anomaly=AnomalySettings(mode="enforce"))
    elsewhere = Elsewhere(settings, ("embedding", "speech"))
    shared = Shared(elsewhere.seams, elsewhere.why_not)
    parts = [speech_part.part(settings.speech, shared), anomaly_part.part(settings.anomaly, shared)]
    pipeline = Pipeline([*parts, *scripted_pipeline(ScriptedModel(WORDS)).parts, elsewhere.part], shared)
    listener = listen("127.0.0.1", 0)
    async with serving(settings, pipeline, listener), aiohttp.ClientSession() as http:

        async def reasons() -> dict[str, str]:
            async with http.get(f"{url(listener, tls=settings.server.tls)}/readyz") as response:
                assert response.status == 503
                found: dict[str, str] = (await response.json())["reasons"]
                return found

        missing = "there is no replica of {!r}".format
        assert await reasons() == {"speech": missing("speech"), "anomaly": missing("embedding")}
        elsewhere.learn(View((Member("a", "speech", "http://127.0.0.1:9", "s"),)))
        assert await reasons() == {"speech": "none of 1 replicas answers", "anomaly": missing("embedding")}


async def spoken(server: Running) -> tuple[list[dict[str, Any]], Any]:
    """The events of a spoken turn, and the models that the server lists."""
    async with server.client() as client:
        await client.greet()
        events = await client.ask("Count")
    async with server.http.get(f"{server.url}/v1/models") as response:
        return events, (await response.json())["data"]


async def test_a_spoken_turn_and_what_a_server_says_of_itself_are_the_same() -> None:
    pipeline = scripted_pipeline(
        ScriptedModel(WORDS), speech=scripted_speech(ScriptedVoice(speakers=SPEAKERS), paced=True)
    )
    async with running(pipeline) as server:
        expected, models = await spoken(server)
    made = with_voice(ScriptedVoice(speakers=SPEAKERS))
    async with replica("speech", made) as other, gateway(other.member, kinds=("speech",)) as (server, _):
        found, listed = await spoken(server)
        async with server.http.get(f"{server.url}/metrics") as response:
            lines = (await response.text()).splitlines()
    assert sound_of(found) == sound_of(expected)
    assert transcript_of(found) == transcript_of(expected) == "".join(WORDS)
    assert [each for each in listed if "loquent" in each] == [each for each in models if "loquent" in each]
    assert 'loquent_part_replicas{part="speech"} 1.0' in lines
    assert 'loquent_part_requests{part="speech"} 0.0' in lines


async def test_while_no_voice_is_there_replies_come_as_text_with_a_notice() -> None:
    async with (
        replica("speech", with_voice(ScriptedVoice())) as other,
        gateway(other.member, kinds=("speech",)) as (server, elsewhere),
        server.client() as client,
    ):
        await client.greet()
        assert sound_of(await client.ask("Count"))
        elsewhere.learn(View())
        events = await client.ask("Count")
        assert not sound_of(events)
        assert transcript_of(events) == "".join(WORDS)
        done = events[-1]["response"]
        assert done["status"] == "completed"
        assert events[-1]["loquent"]["warnings"] == ["The voice can't be reached: this reply comes as text."]
        async with server.client() as late:
            await late.greet()
            events = await late.ask("Count")
            assert events[-1]["response"]["output_modalities"] == ["text"]
        async with server.http.post(f"{server.url}/v1/audio/speech", json={"input": "x", "voice": "alloy"}) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (503, "voice_not_ready")
        async with server.http.get(f"{server.url}/readyz") as response:
            assert response.status == 200, "turns go on"
        elsewhere.learn(View((other.member,)))
        await eventually(lambda: elsewhere.seams["speech"].voice is not None, "the voice is back")
        assert sound_of(await client.ask("Count"))


async def test_a_replica_that_dies_within_a_reply_takes_one_sentence_of_sound_with_it() -> None:
    voice = ScriptedVoice()
    async with (
        misbehaving(dies_within) as (wrong,),
        replica("speech", with_voice(voice)) as right,
        gateway(wrong, right.member, kinds=("speech",)) as (server, elsewhere),
        server.client() as client,
    ):
        replicas = elsewhere.seams["speech"]._replicas
        await eventually(lambda: replicas.balancer.available == 2, "both answer")
        await client.greet()
        events = await client.ask("Count")
        assert events[-1]["response"]["status"] == "completed"
        assert transcript_of(events) == "".join(WORDS)
        assert [text for text, *_ in voice.said] == ["Four five."], "the other one says the next sentence"
        assert sound_of(events)


async def test_a_picture_comes_from_a_replica(minilm: Path, drawer: Drawer) -> None:
    made, _ = with_generator(drawer)
    here = drawing_here(minilm, drawer)

    def more(shared: Shared) -> list[Any]:
        return [image_part.assemble(ImageStage(here.embedder, shared.elsewhere["image"], IMAGE))]

    async with replica("image", made) as other, gateway(other.member, kinds=("image",), more=more) as (server, away):
        body = {"prompt": "a happy cat", "response_format": "b64_json", "seed": 5}
        async with asyncio.timeout(PATIENCE):
            while not away.seams["image"].ready or not here.embedder.ready:
                await asyncio.sleep(0.01)
        async with server.http.post(f"{server.url}/v1/images/generations", json=body) as response:
            assert response.status == 200, await response.text()
            found = (await response.json())["data"]
        away.learn(View())
        async with server.http.post(f"{server.url}/v1/images/generations", json=body) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (503, "image_not_ready")
    pipeline = scripted_pipeline(ScriptedModel(WORDS), image=drawing_here(minilm, drawer))
    async with (
        running(pipeline) as server,
        server.http.post(f"{server.url}/v1/images/generations", json=body) as response,
    ):
        assert (await response.json())["data"] == found
    await here.embedder.close()
