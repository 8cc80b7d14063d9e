"""``/v1/embeddings`` with both models, through the real server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from openai import AsyncOpenAI

from pipelines.embedding.embedder import Embedder
from pipelines.embedding.names import E5, MINILM, MODELS
from server.config import ModelsSettings, Settings
from tests.support import Running, ScriptedModel, eventually, running, scripted_pipeline

TEXTS = ["Wo ist mein Paket?", "Where is my parcel?", "I like cheese."]


@asynccontextmanager
async def embedding(*embedders: Embedder, **models: Any) -> AsyncIterator[Running]:
    pipeline = scripted_pipeline(ScriptedModel(["Hi."]), embedders=embedders)
    async with running(pipeline, Settings(models=ModelsSettings(**models))) as server:
        await eventually(lambda: all(part.ready() for part in pipeline.parts), "every embedder is ready")
        yield server


def sdk(server: Running) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


async def listed(server: Running) -> list[str]:
    async with server.http.get(f"{server.url}/v1/models") as answer:
        return [entry["id"] for entry in (await answer.json())["data"]]


@pytest.mark.parametrize("unknown", ["default", "error"])
async def test_the_sdk_embeds_with_the_model_that_it_names(minilm: Path, e5: Path, unknown: str) -> None:
    async with embedding(Embedder(E5, e5), Embedder(MINILM, minilm), unknown=unknown) as server, sdk(server) as client:
        found = {}
        for name in (*MODELS, "text-embedding-3-small"):
            answer = await client.embeddings.create(model=name, input=TEXTS)  # as base64
            found[name] = np.array([each.embedding for each in answer.data])
            assert answer.model == (E5 if name == E5 else MINILM)
        english, many, alias = found.values()
        assert english.shape == many.shape == (3, 384)
        assert many[0] @ many[1] > many[0] @ many[2] + 0.1
        assert np.abs(english - many).max() > 0.1
        assert (english * alias).sum(1) == pytest.approx(1, abs=1e-2)
        plain = await client.embeddings.create(model=E5, input=TEXTS[0], encoding_format="float", dimensions=384)
        assert np.array(plain.data[0].embedding) @ many[0] == pytest.approx(1, abs=1e-2)
        assert plain.usage.prompt_tokens > 5
        long = await client.embeddings.create(model=E5, input=["hello", "слово " * 600])
        assert long.model_extra == {"loquent": {"truncated": [1]}}
        with pytest.raises(openai.BadRequestError, match="384"):
            await client.embeddings.create(model=E5, input="a", dimensions=256)


async def test_both_models_are_listed_and_can_be_retrieved(minilm: Path, e5: Path) -> None:
    async with embedding(Embedder(MINILM, minilm), Embedder(E5, e5)) as server, sdk(server) as client:
        names = await listed(server)
        assert set(MODELS) <= set(names[:3]), "own names come before aliases"
        assert len(set(names)) == len(names)
        for name in MODELS:
            assert (await client.models.retrieve(name)).id == name
        with pytest.raises(openai.NotFoundError, match=f"{MINILM}, {E5}"):
            await client.models.retrieve("another")


@pytest.mark.parametrize(("here", "other", "stage"), [(MINILM, E5, "anomaly"), (E5, MINILM, "image")])
async def test_a_model_that_no_stage_uses_is_a_404_that_names_the_stage(
    minilm: Path, e5: Path, here: str, other: str, stage: str
) -> None:
    path = minilm if here == MINILM else e5
    async with embedding(Embedder(here, path)) as server, sdk(server) as client:
        assert here in await listed(server)
        assert other not in await listed(server)
        with pytest.raises(openai.NotFoundError, match=f"{other} is not loaded.*'{stage}'.*there is {here}") as error:
            await client.embeddings.create(model=other, input="hello")
        assert (error.value.code, error.value.param) == ("model_not_found", "model")
        for alias in ("default", "text-embedding-3-large"):
            answer = await client.embeddings.create(model=alias, input="hello")
            assert answer.model == here, "aliases mean the model that is there"


async def test_a_strict_server_names_both_models(minilm: Path, e5: Path) -> None:
    embedders = Embedder(MINILM, minilm), Embedder(E5, e5)
    async with embedding(*embedders, unknown="error") as server, sdk(server) as client:
        with pytest.raises(openai.NotFoundError, match=f"taken here: {MINILM}, {E5}, "):
            await client.embeddings.create(model="another", input="hello")


async def test_a_server_without_embeddings_says_which_stages_bring_them() -> None:
    async with embedding() as server, sdk(server) as client:
        for name in (*MODELS, "default"):
            with pytest.raises(openai.NotFoundError, match="'anomaly' and 'image'"):
                await client.embeddings.create(model=name, input="hello")
        assert not set(MODELS) & set(await listed(server))


async def test_both_models_embed_many_texts_at_once_each_in_order(minilm: Path, e5: Path) -> None:
    texts = [f"Nummer {n}, bitte." for n in range(60)]
    async with embedding(Embedder(MINILM, minilm), Embedder(E5, e5)) as server, sdk(server) as client:
        for name in MODELS:
            many = await client.embeddings.create(model=name, input=texts, encoding_format="float")
            alone = await client.embeddings.create(model=name, input=texts[41], encoding_format="float")
            similar = np.array([each.embedding for each in many.data]) @ np.array(alone.data[0].embedding)
            assert int(similar.argmax()) == 41
