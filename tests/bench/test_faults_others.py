"""The benches of what others feel, small: who is attacked has no error, and what became of the attackers is said."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest

from bench.faults.attack import launch
from bench.faults.bystanders import Felt, Sample, bystanding
from bench.faults.fates import Fates, ending
from bench.faults.floods import FLOODS, floods
from bench.faults.raw import masked
from bench.faults.readers import readers
from bench.faults.slow import SLOW, slow
from server.config import Settings
from tests.support import Running, ScriptedModel, ScriptedVoice, running, scripted_pipeline, scripted_speech

LIMITS = {"send_seconds": 0.5, "keep_alive": 0.5, "heartbeat": 1.5}
SETTINGS = Settings.model_validate({"limits": LIMITS, "sessions": {"linger": 1.0}})


def reply(prompt: str) -> Iterable[str]:
    """A short answer to a bystander, and a long one to who asks for a story."""
    return ["word " * 60] * 2000 if "story" in prompt else [f"{number} " for number in range(10)]


@asynccontextmanager
async def server() -> AsyncIterator[Running]:
    speech = scripted_speech(ScriptedVoice(word=0.02))
    async with running(scripted_pipeline(ScriptedModel(reply), speech=speech, max_tokens=2000), SETTINGS) as started:
        yield started


def counts(felt: Felt) -> None:
    """Others went on through the quiet and the attack, without an error."""
    assert felt.errors == []
    assert felt.quiet.first
    assert felt.attacked.first


@pytest.mark.parametrize("kind", FLOODS)
async def test_others_have_no_error_in_a_flood(kind: str) -> None:
    async with server() as attacked:
        (felt,) = await floods(attacked.url, 1, pairs=1, seconds=0.7, kinds=(kind,))
    counts(felt)
    assert felt.fates != [""]


@pytest.mark.parametrize(
    ("kind", "fate"), [("above", "close 1009"), ("claims", "close"), ("connects", "HTTP 101"), ("pings", "still there")]
)
async def test_what_became_of_flooders_is_said(kind: str, fate: str) -> None:
    async with server() as attacked:
        fates = await launch(kind, attacked.url, 2, 1.0, begun=lambda: None)
    assert any(how.startswith(fate) for how in fates.found), fates


async def test_every_slow_client_is_cut() -> None:
    async with server() as attacked:
        found = await slow(attacked.url, 3, pairs=1, seconds=0.7, patience=30.0)
    for felt in found:
        counts(felt)
        assert felt.left == 0, felt.fates
        assert felt.fates[0].startswith("3 × "), felt.fates
    assert len(found) == len(SLOW)


async def test_every_reader_that_stalls_is_cut_and_leaves_nothing() -> None:
    async with server() as attacked:
        found = await readers(attacked.url, 2, pairs=1, seconds=2.5)
    for each in found:
        counts(each.felt)
        assert len(each.watch.cut) == 2, str(each)
        assert each.felt.left == 0
        assert each.watch.left == []


async def test_a_bystander_counts_what_breaks() -> None:
    async with server() as attacked, bystanding(attacked.url, 1) as bystanders:
        errors: list[str] = []
        sample = Sample()
        bystanders.note(errors, sample)
        while not sample.first:
            await asyncio.sleep(0.01)
        for connection in list(attacked.backend.connections):
            connection._cut()  # type: ignore[attr-defined]
        while not errors:
            await asyncio.sleep(0.01)
    assert len(errors) == 1


def test_a_ratio_is_of_the_99th_percentiles() -> None:
    felt = Felt("x", Sample([0.01] * 99, [0.01]), Sample([0.01] * 90 + [0.03] * 9, [0.01]))
    assert felt.ratio("first") == pytest.approx(3)
    assert not felt.good


@pytest.mark.parametrize(
    ("tail", "how"),
    [
        (masked(8, (1009).to_bytes(2))[:1] + b"\x02\x03\xf1", "close 1009"),
        (b"\x81\x05hello\x88\x08\x03\xe9reason", "close 1001"),
        (b"HTTP/1.1 408 Request Timeout\r\n\r\n{}", "HTTP 408, closed"),
        (b"", "closed"),
    ],
)
def test_how_a_server_ended_a_connection_shows_in_what_it_sent_last(tail: bytes, how: str) -> None:
    assert ending(tail) == how


def test_fates_are_added_up() -> None:
    fates = Fates()
    fates.add("closed", 1.0)
    fates.merge(Fates({"closed": (2, 3.0)}))
    assert str(fates) == "3 × closed (≤ 3.0 s)"
