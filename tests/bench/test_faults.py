"""The benches of faults, small: the same code against a server with a model that follows a script."""

import itertools
import random
from dataclasses import dataclass
from urllib.parse import urlsplit

import psutil
import pytest

from bench.faults import soak_report
from bench.faults.cuts import cut
from bench.faults.frames import Fuzzer, frames
from bench.faults.process import Process
from bench.faults.proxy import BREAKS, Proxy
from bench.faults.sigterm import sigterm
from bench.faults.soak import Found as Soaked
from bench.faults.soak import Sample, soak
from server.config import Settings
from server.realtime.settings import SessionsSettings
from tests.support import Running, ScriptedModel, ScriptedVoice, running, scripted_pipeline, scripted_speech


@dataclass
class Here(Process):
    """A server in this process."""

    @property
    def running(self) -> psutil.Process:
        return psutil.Process()


def here(server: Running) -> Here:
    return Here(port=urlsplit(server.url).port or 0)


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


@pytest.mark.timeout(120)
async def test_every_fuzzed_frame_is_answered_and_nothing_of_them_stays() -> None:
    settings = Settings(sessions=SessionsSettings(linger=0.2))
    async with running(scripted_pipeline(ScriptedModel(reply)), settings) as server:
        found = await frames(here(server), 3200, seed=3)
    assert found.sent == 3200
    assert found.wrong == []
    assert found.left == {}
    assert {1002, 1007, 1009} <= found.closes.keys(), "broken frames are refused by name"
    errors = {name for name in found.answers if name.startswith("error ")}
    assert len(errors) >= 5, errors
    assert found.answers["session.updated"], "some of them are well-formed"


def test_one_seed_gives_the_same_frames() -> None:
    assert [Fuzzer(5).frame() for _ in range(1)] == [Fuzzer(5).frame() for _ in range(1)]
    one, other = Fuzzer(5), Fuzzer(5)
    assert [one.frame() for _ in range(200)] == [other.frame() for _ in range(200)]


def test_a_soak_is_judged_by_its_slope_and_by_its_times() -> None:
    found = Soaked(3600.0, exit_code=0)
    found.samples = [Sample(seconds, 800 + seconds / 3600 * 0.5) for seconds in range(0, 3600, 10)]
    found.times.first = [(float(at), 0.05) for at in range(0, 3600, 5)]
    found.times.gaps = [(float(at), 0.01) for at in range(0, 3600, 5)]
    assert abs(soak_report.slope(found) - 0.5) < 1e-6
    assert soak_report.good(found)
    found.samples = [Sample(seconds, 800 + seconds / 3600 * 2) for seconds in range(0, 3600, 10)]
    assert not soak_report.good(found), "it leaks"
    found.samples = [Sample(seconds, 800) for seconds in range(0, 3600, 10)]
    found.times.gaps += [(at, 0.05) for at in range(3000, 3600, 5)]
    assert not soak_report.good(found), "it becomes slower"
    found.times.gaps = found.times.first
    found.wrong.append("something")
    assert not soak_report.good(found)


@pytest.mark.e2e
@pytest.mark.timeout(240)
async def test_all_streams_end_and_then_the_process_on_sigterm() -> None:
    found = await sigterm(10, drain=1.0)
    assert found.wrong == []
    assert found.ends.total() == 10
    assert any("cancelled" in end for end in found.ends), "some asked for more than there was time for"
    assert found.exit_code == 0


@pytest.mark.e2e
@pytest.mark.timeout(300)
async def test_a_short_soak_does_everything_and_finds_nothing_wrong() -> None:
    found = await soak(0.2, fill=False)
    assert found.wrong == []
    assert found.exit_code == 0
    did = {"measured", "cut_text", "cut_speech", "cancelled", "left", "sound", "picture", "turns over breaks"}
    assert did <= found.did.keys()
    assert found.samples[0].mib > 100
    assert len(found.times.gaps) > len(found.times.first) > 0
