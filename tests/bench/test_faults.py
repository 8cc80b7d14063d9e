"""The benches of faults, small: the same code against a server with a model that follows a script."""

import itertools
import random

from bench.faults.cuts import cut
from bench.faults.proxy import BREAKS, Proxy
from tests.support import ScriptedModel, ScriptedVoice, running, scripted_pipeline, scripted_speech


def reply(prompt: str) -> list[str]:
    return [f"{len(prompt)}.{number} " for number in range(120)]


async def test_every_reply_is_whole_and_comes_once_however_its_socket_breaks() -> None:
    model = ScriptedModel(reply)
    speech = scripted_speech(ScriptedVoice(word=0.02))
    async with running(scripted_pipeline(model, speech=speech)) as server:
        found = await cut(server.url, 24, tokens=200)
    assert found.wrong == []
    assert sum(found.breaks.values()) >= 24
    assert found.returns >= 15
    assert len(model.prompts) == found.turns, "the model ran each turn once"


def test_every_kind_of_break_is_tried() -> None:
    breaking = Proxy("", 0, 200, random.Random(0))
    kinds = {kind for _, kind in filter(None, (breaking.plan() for _ in itertools.repeat(None, 200)))}
    assert kinds == set(BREAKS)
