"""Pictures through the real server: the images API, links, replies over HTTP and Realtime, and who gets in."""

import asyncio
import base64
import io
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from PIL import Image

from pipelines.events import Picture
from pipelines.image.stage import ImageStage
from pipelines.image.weights import Drawer
from server.config import ConfigError, Settings, hash_key
from server.config import read as read_config
from server.errors import ApiError
from server.image_store import ImageStore
from server.links import IMAGES as PATH
from server.links import without_links
from tests.support import (
    PATIENCE,
    Running,
    ScriptedModel,
    ScriptedVoice,
    drawing,
    echo,
    eventually,
    painter_of,
    running,
    scripted_pipeline,
    scripted_speech,
    stage_of,
    text_of,
    transcript_of,
)

KEY = "sk-loquent-test"


@asynccontextmanager
async def drawn(
    minilm: Path,
    drawer: Drawer,
    *,
    model: ScriptedModel | None = None,
    voice: ScriptedVoice | None = None,
    server: dict[str, Any] | None = None,
    models: dict[str, Any] | None = None,
    **image: Any,
) -> AsyncIterator[Running]:
    """A server that draws, ready for it."""
    settings = Settings.model_validate({"image": image, "server": server or {}, "models": models or {}})
    stage = drawing(minilm, drawer, **settings.image.model_dump(exclude_unset=True))
    speech = scripted_speech(voice) if voice else None
    pipeline = scripted_pipeline(model or ScriptedModel(echo), image=stage, speech=speech)
    async with running(pipeline, settings) as running_:
        await eventually(lambda: stage.ready, "pictures can be drawn")
        yield running_


def sdk(server: Running, key: str = "none") -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)


async def post(server: Running, path: str = "/v1/images/generations", **fields: Any) -> tuple[int, dict[str, Any]]:
    async with server.http.post(f"{server.url}{path}", json=fields) as response:
        return response.status, await response.json()


async def opened(server: Running, url: str) -> tuple[int, bytes]:
    """What a browser gets that follows a link: no key."""
    async with server.http.get(url) as response:
        return response.status, await response.read()


def size_of(png: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        assert "trainedAlgorithmicMedia" in image.info["XML:com.adobe.xmp"]
        return image.size


async def test_the_sdk_draws_in_both_formats_and_the_link_opens(minilm: Path, drawer: Drawer) -> None:
    async with drawn(minilm, drawer) as server, sdk(server) as client:
        answer = await client.images.generate(prompt="a happy cat", model="dall-e-3", n=2, size="512x512")
        assert answer.data is not None
        assert answer.size is None or answer.model_dump()["size"] == "512x512"
        assert [each.revised_prompt for each in answer.data] == ["grinning cat"] * 2
        for each in answer.data:
            assert each.url is not None
            status, png = await opened(server, each.url)
            assert status == 200
            assert size_of(png) == (512, 512)
        whole = await client.images.generate(
            prompt="a green cat", model="gpt-image-1", response_format="b64_json", background="opaque", quality="low"
        )
        assert whole.data is not None
        assert whole.data[0].b64_json is not None
        assert whole.data[0].revised_prompt == "green grinning cat"
        png = base64.b64decode(whole.data[0].b64_json)
        assert size_of(png) == (256, 256)
        with Image.open(io.BytesIO(png)) as image:
            assert image.mode == "RGB"


async def test_a_seed_and_a_style_are_extensions_and_decide_the_picture(minilm: Path, drawer: Drawer) -> None:
    async with drawn(minilm, drawer) as server:
        _, least = await post(server, prompt="cat", n=2, seed=2**32 - 1)
        assert [each["loquent"]["seed"] for each in least["data"]] == [2**32 - 1, 0]
        asked: dict[str, Any] = {"prompt": "cat", "seed": 7, "loquent": {"style": "3d"}}
        asked |= {"response_format": "b64_json", "size": "64x64"}
        first = await post(server, **asked)
        again = await post(server, **asked)
        assert first[1]["data"] == again[1]["data"]
        assert first[1]["data"][0]["loquent"] == {"seed": 7, "style": "3d", "model": "tiny"}
        _, other = await post(server, **asked | {"seed": 8})
        assert other["data"][0]["b64_json"] != first[1]["data"][0]["b64_json"]


@pytest.mark.parametrize(
    ("fields", "as_file"),
    [
        ({"model": "gpt-image-1"}, True),
        ({"model": "gpt-image-1.5"}, True),
        ({"model": "gpt-image-1", "response_format": "url"}, False),
        ({"model": "dall-e-3"}, False),
        ({}, False),
    ],
)
async def test_gpt_image_models_answer_with_the_file(
    minilm: Path, drawer: Drawer, fields: dict[str, Any], as_file: bool
) -> None:
    habits = {"safety_identifier": "me", "input_fidelity": "high", "moderation": "low"}
    async with drawn(minilm, drawer) as server:
        status, body = await post(server, prompt="cat", **fields, **habits)
    assert status == 200
    assert ("b64_json" in body["data"][0], "url" in body["data"][0]) == (as_file, not as_file)


@pytest.mark.parametrize("size", [(1536, 1024), (1024, 1536), (1792, 1024)])
async def test_a_picture_stands_in_the_middle_of_the_size_asked_for(
    minilm: Path, drawer: Drawer, size: tuple[int, int]
) -> None:
    name = f"{size[0]}x{size[1]}"
    async with drawn(minilm, drawer) as server:
        _, body = await post(server, prompt="cat", model="gpt-image-1", size=name)
        _, opaque = await post(server, prompt="cat", model="gpt-image-1", size=name, background="opaque")
    assert body["size"] == name
    file = base64.b64decode(body["data"][0]["b64_json"])
    assert size_of(file) == size
    with Image.open(io.BytesIO(file)) as image:
        assert image.mode == "RGBA"
        left, top, right, bottom = image.getchannel("A").getbbox() or (0, 0, 0, 0)
    side = min(size)
    assert left >= (size[0] - side) // 2
    assert top >= (size[1] - side) // 2
    assert right <= (size[0] + side) // 2
    assert bottom <= (size[1] + side) // 2
    with Image.open(io.BytesIO(base64.b64decode(opaque["data"][0]["b64_json"]))) as image:
        assert (image.mode, image.size) == ("RGB", size)
        assert image.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("format", ["webp", "jpeg"])
async def test_a_picture_comes_in_the_format_asked_for(minilm: Path, drawer: Drawer, format: str) -> None:
    async with drawn(minilm, drawer) as server:
        asked: dict[str, Any] = {"prompt": "cat", "output_format": format, "seed": 1}
        _, small = await post(server, **asked, model="gpt-image-1", output_compression=10)
        _, large = await post(server, **asked, model="gpt-image-1")
        _, linked = await post(server, **asked)
        async with server.http.get(linked["data"][0]["url"]) as answer:
            assert answer.content_type == f"image/{format}"
    files = [base64.b64decode(each["data"][0]["b64_json"]) for each in (small, large)]
    assert len(files[0]) < len(files[1])
    assert small["output_format"] == format
    with Image.open(io.BytesIO(files[1])) as image:
        assert (image.format, image.size) == (format.upper(), (256, 256))
        assert b"trainedAlgorithmicMedia" in image.info["xmp"]


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({}, "missing_required_parameter", "prompt"),
        ({"prompt": ""}, "invalid_value", "prompt"),
        ({"prompt": "x" * 4001}, "invalid_value", "prompt"),
        ({"prompt": ["cat"]}, "invalid_value", "prompt"),
        ({"prompt": "cat", "n": 0}, "invalid_value", "n"),
        ({"prompt": "cat", "n": 11}, "invalid_value", "n"),
        ({"prompt": "cat", "n": 5, "size": "1024x1024"}, "invalid_value", "n"),
        ({"prompt": "cat", "size": "1792x1000"}, "unsupported_value", "size"),
        ({"prompt": "cat", "output_format": "jpeg", "background": "transparent"}, "unsupported_value", "background"),
        ({"prompt": "cat", "output_compression": 101}, "invalid_value", "output_compression"),
        ({"prompt": "cat", "size": "0x0"}, "unsupported_value", "size"),
        ({"prompt": "cat", "size": 256}, "invalid_value", "size"),
        ({"prompt": "cat", "seed": -1}, "invalid_value", "seed"),
        ({"prompt": "cat", "seed": 2**32}, "invalid_value", "seed"),
        ({"prompt": "cat", "output_format": "gif"}, "invalid_value", "output_format"),
        ({"prompt": "cat", "stream": True}, "unsupported_parameter", "stream"),
        ({"prompt": "cat", "response_format": "file"}, "invalid_value", "response_format"),
        ({"prompt": "cat", "loquent": {"style": "oil"}}, "invalid_value", "loquent.style"),
        ({"prompt": "cat", "loquent": {"stile": "3d"}}, "unknown_parameter", "loquent.stile"),
        ({"prompt": "cat", "sizes": "64x64"}, "unknown_parameter", "sizes"),
        ({"prompt": "the Eiffel tower at night"}, "nothing_like_it", "prompt"),
    ],
)
async def test_a_wrong_request_names_what_is_wrong(
    minilm: Path, drawer: Drawer, fields: dict[str, Any], code: str, param: str
) -> None:
    async with drawn(minilm, drawer) as server:
        status, body = await post(server, **fields)
        assert status == 400
        assert (body["error"]["code"], body["error"]["param"]) == (code, param)


async def test_what_can_not_be_drawn_says_what_is_nearest(minilm: Path, drawer: Drawer) -> None:
    async with drawn(minilm, drawer) as server:
        _, body = await post(server, prompt="a heartbreaking film about an accident")
        assert "The nearest are:" in body["error"]["message"]
        assert "heart" in body["error"]["message"]


async def test_sixteen_requests_at_once_are_drawn_together(minilm: Path, drawer: Drawer) -> None:
    async with drawn(minilm, drawer) as server:
        stage = stage_of(server.backend.pipeline, ImageStage)
        found = (await stage.understand("cat")).found
        painter_of(stage).batches.clear()
        await asyncio.gather(*(stage.draw(found) for _ in range(16)))
        assert max(painter_of(stage).batches) >= 8, "the first may be drawn before the others have asked"
        answers = await asyncio.gather(*(post(server, prompt="a happy cat", size="64x64") for _ in range(16)))
        assert [status for status, _ in answers] == [200] * 16
        assert sum(painter_of(stage).batches) == 32


@contextmanager
def held(server: Running) -> Iterator[tuple[ImageStage, threading.Event]]:
    """Nothing is drawn before the block ends; the event says that something would be."""
    stage = stage_of(server.backend.pipeline, ImageStage)
    begun, go, draw = threading.Event(), threading.Event(), painter_of(stage)._draw

    def wait(*given: Any) -> Any:
        begun.set()
        go.wait(PATIENCE)
        return draw(*given)

    painter_of(stage)._draw = wait  # type: ignore[method-assign, assignment]
    try:
        yield stage, begun
    finally:
        go.set()
        painter_of(stage)._draw = draw  # type: ignore[method-assign]


async def test_too_many_get_503_and_are_told_when_to_come_back(minilm: Path, drawer: Drawer) -> None:
    async with drawn(minilm, drawer, waiting=16) as server:
        with held(server) as (stage, begun):
            found = (await stage.understand("cat")).found
            first = asyncio.create_task(stage.draw(found))
            await eventually(lambda: begun.is_set() and not painter_of(stage).waiting, "it is being drawn")
            rest = asyncio.create_task(stage.draw(found, count=10))
            await eventually(lambda: painter_of(stage).waiting >= 10, "ten wait")
            async with server.http.post(
                f"{server.url}/v1/images/generations", json={"prompt": "cat", "n": 9}
            ) as answer:
                assert answer.status == 503
                assert answer.headers["Retry-After"]
                assert (await answer.json())["error"]["code"] == "server_overloaded"
        await asyncio.gather(first, rest)
        assert (await post(server, prompt="cat", n=9))[0] == 200


async def test_what_is_still_being_loaded_is_waited_for_within_a_limit(
    minilm: Path, drawer: Drawer, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = drawing(minilm, drawer)
    hold = asyncio.Event()
    start = stage.start

    async def late() -> None:
        await hold.wait()
        await start()

    stage.start = late  # type: ignore[method-assign]
    async with running(scripted_pipeline(ScriptedModel(echo), image=stage)) as server:
        with monkeypatch.context() as patched:
            patched.setattr("pipelines.build.PATIENCE", 0.05)
            status, body = await post(server, prompt="cat")
            assert (status, body["error"]["code"]) == (503, "image_not_ready")
        waiting = asyncio.create_task(post(server, prompt="cat"))
        embedding = asyncio.create_task(post(server, "/v1/embeddings", input="cat"))
        await eventually(lambda: server.backend.requests == 2, "both wait")
        hold.set()
        assert (await waiting)[0] == 200
        assert (await embedding)[0] == 200


async def test_where_nothing_draws_it_is_said() -> None:
    async with running(ScriptedModel(echo)) as server:
        status, body = await post(server, prompt="cat")
        assert (status, body["error"]["code"]) == (404, "images_not_found")
        status, body = await post(
            server,
            "/v1/chat/completions",
            messages=[{"role": "user", "content": "hi"}],
            loquent={"image": True},
        )
        assert (status, body["error"]["param"]) == (400, "loquent.image")


async def test_the_model_name_is_resolved_as_everywhere(minilm: Path, drawer: Drawer) -> None:
    async with drawn(minilm, drawer, models={"unknown": "error"}) as server, sdk(server) as client:
        await client.images.generate(prompt="cat", model="dall-e-2")
        with pytest.raises(openai.NotFoundError):
            await client.images.generate(prompt="cat", model="midjourney")


# Links


async def test_a_link_opens_without_a_key_and_nothing_else_does(minilm: Path, drawer: Drawer) -> None:
    async with drawn(minilm, drawer, server={"keys": (hash_key(KEY),)}) as server, sdk(server, KEY) as client:
        answer = await client.images.generate(prompt="cat")
        assert answer.data is not None
        url = answer.data[0].url
        assert url is not None
        async with server.http.get(url) as response:
            assert response.status == 200
            assert response.content_type == "image/png"
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["Cache-Control"].startswith("private, max-age=3")
        assert (await post(server, prompt="cat"))[0] == 401
        head, _, signature = url.rpartition("signature=")
        flipped = ("0" if signature[0] != "0" else "1") + signature[1:]
        expires = url.partition("expires=")[2].partition("&")[0]
        for wrong in (
            head + "signature=" + flipped,
            head + "signature=",
            head + "signature=%C3%A9",
            url.replace(expires, str(int(expires) + 1000)),
            url.replace(expires, "never"),
            url.replace(expires, "9" * 400),
            url.partition("?")[0],
            url.replace(PATH, PATH + "a"),
            f"{server.url}{PATH}..%2F..%2Fconfig.toml.png?expires=1&signature=1",
        ):
            status, _ = await opened(server, wrong)
            assert status in (403, 404), wrong


async def test_a_link_is_good_only_for_a_while(minilm: Path, drawer: Drawer) -> None:
    async with drawn(minilm, drawer) as server:
        now = 1000.0
        server.backend.images = ImageStore(10**6, 60, clock=lambda: now)
        _, body = await post(server, prompt="cat")
        url = body["data"][0]["url"]
        assert body["data"][0]["loquent"]["expires_at"] == 1061
        assert (await opened(server, url))[0] == 200
        now = 1059.0
        assert (await opened(server, url))[0] == 200
        async with server.http.head(url) as response:
            assert (response.status, response.content_type) == (200, "image/png")
            assert int(response.headers["Content-Length"]) > 1000
        now = 1061.0
        status, text = await opened(server, url)
        assert (status, json.loads(text)["error"]["code"]) == (410, "image_expired")


def picture(n: int, size: int) -> Picture:
    return Picture(f"{n}", "cat", n, "flat", "tiny", 64, b"x" * size)


def test_a_full_store_evicts_its_oldest_pictures() -> None:
    now = 0.0
    store = ImageStore(100, 60, clock=lambda: now)
    links = [store.add(picture(n, 30), "http://here") for n in range(5)]
    assert (len(store), store.held) == (3, 90)
    assert all(not link.png for link in links)

    def signature(link: Picture) -> str:
        return link.url.rpartition("=")[2]

    with pytest.raises(ApiError) as caught:
        store.find("1", "61", signature(links[1]))
    assert caught.value.status == 410
    assert store.find("4", "61", signature(links[4]))[0] == b"x" * 30
    now = 100.0
    store.add(picture(9, 10), "http://here")
    assert (len(store), store.held) == (1, 10), "what is too old is gone"


def test_a_full_store_evicts_from_the_tenant_that_holds_most() -> None:
    store = ImageStore(100, 60, clock=lambda: 0.0)
    mine = store.add(picture(0, 20), "http://here", "mine")
    for n in range(1, 20):
        store.add(picture(n, 30), "http://here", "theirs")
    assert store.held <= 100
    assert store.find("0", "61", mine.url.rpartition("=")[2])[0] == b"x" * 20


def test_pictures_of_a_deleted_conversation_go_and_others_stay() -> None:
    store = ImageStore(1000, 60, clock=lambda: 0.0)
    links = [store.add(picture(n, 10), "http://here", "mine", f"conv_{n % 2}") for n in range(4)]
    store.forget(frozenset(["conv_1"]))
    assert (len(store), store.held) == (2, 20)
    assert store.find("2", "61", links[2].url.rpartition("=")[2])[0] == b"x" * 10
    with pytest.raises(ApiError):
        store.find("1", "61", links[1].url.rpartition("=")[2])
    store.forget(frozenset(["conv_0"]))
    assert (len(store), store.held) == (0, 0)


def test_two_servers_do_not_take_each_others_links() -> None:
    one, other = ImageStore(100, 60, clock=lambda: 0.0), ImageStore(100, 60, clock=lambda: 0.0)
    link = one.add(picture(1, 10), "http://here")
    other.add(picture(1, 10), "http://here")
    with pytest.raises(ApiError) as caught:
        other.find("1", "61", link.url.rpartition("=")[2])
    assert caught.value.status == 403


def test_links_are_taken_out_of_what_the_model_reads() -> None:
    link = ImageStore(100, 60).add(picture(1, 10), "https://bot.example/a").link
    assert without_links(f"Here it is.\n\n{link}") == "Here it is."
    assert without_links(f"{link} and\n{link}!") == " and!"
    for odd in (f"![a]({PATH}", f"[a]({PATH}b)", f"![a](b c{PATH}d)", f"![a]b]({PATH}", f"](){PATH})", PATH):
        assert without_links(odd) == odd
    other = "See ![a cat](https://elsewhere.example/cat.png)."
    assert without_links(other) == other


@pytest.mark.timeout(10)  # two megabytes of each; what grows with the square would take hours
@pytest.mark.parametrize("text", [" ", "![", "![](", "]( ", PATH, f"![{PATH}", f"]({PATH}"])
def test_hostile_texts_are_searched_for_links_in_no_time(text: str) -> None:
    hostile = text * (2_000_000 // len(text)) + PATH
    assert len(without_links(hostile)) <= len(hostile)


async def test_links_have_the_public_address_or_the_one_the_client_used(minilm: Path, drawer: Drawer) -> None:
    async with drawn(minilm, drawer, server={"public_url": "https://bot.example/loquent/"}) as server:
        _, body = await post(server, prompt="cat")
        assert body["data"][0]["url"].startswith("https://bot.example/loquent/v1/images/files/")
    async with drawn(minilm, drawer) as server:
        address = server.url.replace("127.0.0.1", "localhost")
        async with server.http.post(f"{address}/v1/images/generations", json={"prompt": "cat"}) as response:
            url = (await response.json())["data"][0]["url"]
        assert url.startswith(address)
        assert (await opened(server, url))[0] == 200


@pytest.mark.parametrize("url", ["bot.example", "ftp://bot.example", "https://", "https://bot.example/?a=1"])
def test_a_public_address_that_is_none_is_refused(url: str, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f'[server]\npublic_url = "{url}"\n')
    with pytest.raises(ConfigError, match="public_url"):
        read_config(str(file))


# Replies


async def test_a_reply_over_http_ends_with_a_link_whole_and_streamed(minilm: Path, drawer: Drawer) -> None:
    async with drawn(minilm, drawer) as server, sdk(server) as client:
        asked: Any = [{"role": "user", "content": "draw a happy cat"}]
        whole = await client.chat.completions.create(model="gpt-4o-mini", messages=asked)
        text = whole.choices[0].message.content or ""
        assert text.startswith("Here is a picture for you.\n\n![grinning cat](http://")
        (told,) = whole.model_dump()["loquent"]["images"]
        assert told["caption"] == "grinning cat"
        assert told["url"] in text
        assert size_of((await opened(server, told["url"]))[1]) == (256, 256)
        assert whole.choices[0].finish_reason == "stop"
        stream = await client.chat.completions.create(model="gpt-4o-mini", messages=asked, stream=True)
        chunks = [chunk async for chunk in stream]
        pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices[0].delta.content]
        assert pieces[0] == "Here is a picture for you."
        assert pieces[1].startswith("\n\n![grinning cat](")
        assert chunks[-1].model_dump()["loquent"]["images"][0]["url"] in pieces[1]


async def test_the_model_reads_no_links_of_earlier_replies(minilm: Path, drawer: Drawer) -> None:
    model = ScriptedModel(echo)
    async with drawn(minilm, drawer, model=model) as server:
        _, body = await post(server, "/v1/chat/completions", messages=[{"role": "user", "content": "draw a happy cat"}])
        said = body["choices"][0]["message"]["content"]
        history = [
            {"role": "user", "content": "draw a happy cat"},
            {"role": "assistant", "content": said},
            {"role": "user", "content": "thank you"},
        ]
        await post(server, "/v1/chat/completions", messages=history)
        assert PATH not in model.prompts[-1]
        async with server.client() as client:
            await client.greet()
            await client.ask("draw a happy cat")
            await client.ask("thank you")
        assert "assistant: Here is a picture for you." in model.prompts[-1]
        assert PATH not in model.prompts[-1]


async def test_a_realtime_turn_shows_text_then_a_link_that_opens_then_expires(minilm: Path, drawer: Drawer) -> None:
    async with drawn(minilm, drawer) as server, server.client() as client:
        now = 1000.0
        server.backend.images = ImageStore(10**6, 60, clock=lambda: now)
        await client.greet()
        events = await client.ask("draw a happy cat")
        deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
        assert deltas[0] == "Here is a picture for you."
        done = events[-1]
        (image,) = done["loquent"]["images"]
        assert deltas[1:] == [f"\n\n![grinning cat]({image['url']})"]
        assert done["response"]["output"][0]["content"][0]["text"] == "".join(deltas)
        assert done["response"]["status"] == "completed"
        assert {name: image[name] for name in ("caption", "model", "size", "expires_at")} == {
            "caption": "grinning cat",
            "model": "tiny",
            "size": 256,
            "expires_at": 1061,
        }
        await client.send("conversation.item.retrieve", item_id=done["response"]["output"][0]["id"])
        (kept,) = await client.expect("conversation.item.retrieved")
        assert image["id"] in json.dumps(kept)
        assert len(json.dumps(kept)) < 1000, "the history holds an id, not a picture"
        assert size_of((await opened(server, image["url"]))[1]) == (256, 256)
        now = 1061.0
        assert (await opened(server, image["url"]))[0] == 410


async def test_a_client_asks_for_pictures_of_moods_for_one_response_or_for_all(minilm: Path, drawer: Drawer) -> None:
    async with drawn(minilm, drawer) as server, server.client() as client:
        await client.greet()
        text = "I am so sorry for your loss."
        assert PATH not in text_of(await client.ask(text))
        await client.say(text)
        await client.send("response.create", response={"loquent": {"image": True}})
        events = await client.until("response.done")
        assert events[-1]["loquent"]["images"][0]["caption"] == "crying face"
        assert text_of(events).endswith(")")
        await client.send("session.update", session={"type": "realtime", "loquent": {"image": True}})
        (updated,) = await client.expect("session.updated")
        assert updated["session"]["loquent"] == {"image": True}
        assert PATH in text_of(await client.ask(text))
        await client.say("draw a happy cat")
        await client.send("response.create", response={"loquent": {"image": False}})
        assert PATH not in text_of(await client.until("response.done"))


async def test_a_client_is_told_where_nothing_draws() -> None:
    async with running(ScriptedModel(echo)) as server, server.client() as client:
        await client.greet()
        await client.send("session.update", session={"type": "realtime", "loquent": {"image": True}})
        (updated,) = await client.expect("session.updated")
        assert updated["loquent"]["warnings"] == ["This server does not draw."]
        await client.say("hello")
        await client.send("response.create")
        created, *_ = await client.until("response.done")
        assert created["loquent"]["warnings"] == ["This server does not draw."]


async def test_a_link_is_never_spoken(minilm: Path, drawer: Drawer) -> None:
    voice = ScriptedVoice()
    async with drawn(minilm, drawer, voice=voice) as server, server.client() as client:
        await client.greet()
        await client.say("draw a happy cat")
        await client.send("response.create", response={"output_modalities": ["audio"]})
        events = await client.until("response.done")
        assert transcript_of(events) == "Here is a picture for you."
        assert not any("http" in text for text, _, _ in voice.said)
        assert events[-1]["loquent"]["images"][0]["caption"] == "grinning cat"
        assert (await opened(server, events[-1]["loquent"]["images"][0]["url"]))[0] == 200


async def test_a_cancelled_reply_leaves_no_picture_and_the_session_goes_on(minilm: Path, drawer: Drawer) -> None:
    async with drawn(minilm, drawer) as server, server.client() as client:
        await client.greet()
        with held(server):
            await client.say("draw a happy cat")
            await client.send("response.create")
            await client.until("response.output_text.delta")
            await client.send("response.cancel")
            events = await client.until("response.done")
            assert events[-1]["response"]["status"] == "cancelled"
            assert "loquent" not in events[-1]
        assert text_of(await client.ask("hello there")).split()[-2:] == ["hello", "there"]
        assert not len(server.backend.images)


async def test_what_is_drawn_is_counted(minilm: Path, drawer: Drawer) -> None:
    async with drawn(minilm, drawer) as server:
        for text in ("draw a happy cat", "draw a medieval castle"):
            await post(server, "/v1/chat/completions", messages=[{"role": "user", "content": text}])
        _, raw = await opened(server, f"{server.url}/metrics")
        lines = raw.decode().splitlines()
        assert "loquent_images_total 1.0" in lines
        assert 'loquent_image_turns_total{outcome="drawn"} 1.0' in lines
        assert 'loquent_image_turns_total{outcome="abstained"} 1.0' in lines
        assert "loquent_image_seconds_count 1.0" in lines


async def test_no_log_holds_what_was_to_be_drawn(
    minilm: Path, drawer: Drawer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    async with drawn(minilm, drawer) as server:
        _, body = await post(server, prompt="a happy cat for Xanthippe")
        await post(server, "/v1/chat/completions", messages=[{"role": "user", "content": "draw a cat for Xanthippe"}])
        await opened(server, body["data"][0]["url"])
    assert "Xanthippe" not in caplog.text
    assert body["data"][0]["url"].rpartition("=")[2] not in caplog.text, "a signature is a key"
