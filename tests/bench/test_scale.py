"""The simulation of a site: against queueing theory where that has an answer, and by what must hold."""

import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench.load.plan import Load, Turn, Visit, visits
from bench.scale import costs as costs_module
from bench.scale.costs import Costs, roofline
from bench.scale.model import Simulated, Site, Work, simulate
from tests.support import ROOT, run

LINE = ((0, 0.004), (32, 0.02))
COSTS = Costs(LINE, prompt=0.0001, accept=(0.0,), turn=0.0005, event=0.00005)
FLAT = ((0, 0.1), (1, 0.1))
ONE = Costs(FLAT, prompt=0.0, accept=(0.0,), turn=0.0, event=0.0, streams=1, chunk=10, cores=1.0)
LOAD = Load(sessions=150, seconds=60, turns=4, think=5, nominal=0.5, speech=0, audio=0, seed=1)


def arrivals(rate: float, count: int) -> list[Visit]:
    chance, at, plan = random.Random(1), 0.0, []
    for number in range(count):
        at += chance.expovariate(rate)
        plan.append(Visit(number, "text", (Turn(at, ""),)))
    return plan


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def p95(found: Simulated) -> float:
    return sorted(found.first)[int(0.95 * len(found.first))]


@pytest.mark.parametrize("busy", [0.3, 0.6, 0.8])
def test_one_place_and_one_token_wait_as_theory_says(busy: float) -> None:
    """M/D/1: the mean wait is ρ s / 2 (1 - ρ) (Pollaczek and Khinchine)."""
    found = simulate(arrivals(busy / 0.1, 20_000), Site(1, 1), ONE, Work(tokens=1, question=1))
    assert mean(found.first) == pytest.approx(0.1 + busy * 0.1 / (2 * (1 - busy)), rel=0.05)
    assert found.utilisation(1) == pytest.approx(busy, rel=0.03)


def test_streams_share_passes_and_every_token_comes() -> None:
    plan = [Visit(n, "text", (Turn(1.0, ""),)) for n in range(4)]
    found = simulate(
        plan, Site(1, 1), replace(ONE, passes=((0, 0.1), (4, 0.14)), streams=4), Work(tokens=5, question=1)
    )
    assert found.turns == 4
    assert len(found.gaps) == 4 * 4
    assert max(found.gaps) == pytest.approx(0.14), "a pass of four"
    assert found.seconds == pytest.approx(1.0 + 0.1 + 4 * 0.14 + 0.13, abs=0.03), "the first one begins a pass before"
    waits = simulate(plan, Site(1, 1), ONE, Work(tokens=5, question=1))
    assert sorted(waits.first) == pytest.approx([0.1, 0.6, 1.1, 1.6]), "one place: one after another"


def test_long_prompts_are_read_in_pieces_beside_those_who_decode() -> None:
    costs = replace(ONE, prompt=0.01, streams=2, chunk=10)
    found = simulate([Visit(0, "text", (Turn(0.0, ""),))], Site(1, 1), costs, Work(tokens=1, question=25))
    assert found.first == pytest.approx([3 * 0.1 + 25 * 0.01])


def test_more_engines_answer_sooner_and_shared_cores_later() -> None:
    plan, work = list(visits(LOAD)), Work(64, 40)
    one, two = (simulate(plan, Site(count, 1), COSTS, work) for count in (1, 2))
    shared = simulate(plan, Site(2, 1, cores=2.0), COSTS, work)
    assert one.turns == two.turns == 4 * len(plan)
    assert p95(two) < p95(one)
    assert p95(two) < p95(shared)
    assert one.utilisation(1) > two.utilisation(2)


def test_cores_that_are_wanted_twice_take_twice_as_long() -> None:
    plan = [Visit(n, "text", (Turn(1.0, ""),)) for n in range(2)]
    alone = simulate(plan, Site(2, 1), ONE, Work(tokens=1, question=1))
    shared = simulate(plan, Site(2, 1, cores=1.0), ONE, Work(tokens=1, question=1))
    assert alone.first == pytest.approx([0.1, 0.1])
    assert shared.first == pytest.approx([0.2, 0.2])
    later = [plan[0], Visit(1, "text", (Turn(1.05, ""),))]
    shared = simulate(later, Site(2, 1, cores=1.0), ONE, Work(tokens=1, question=1))
    assert shared.first == pytest.approx([0.15, 0.15]), "alone for a half, then each at half the speed"


def test_the_gateway_has_one_of_the_cores_as_soon_as_it_wants_it() -> None:
    costs = replace(ONE, turn=0.1)
    plan = [Visit(0, "text", (Turn(1.0, ""),)), Visit(1, "text", (Turn(1.1, ""),))]
    assert simulate(plan, Site(2, 1, cores=2.0), costs, Work(1, 1)).first == pytest.approx([0.2, 0.2])
    assert simulate(plan, Site(2, 1), costs, Work(1, 1)).first == pytest.approx([0.2, 0.2])
    # The first pass has a tenth of the core until the second turn is through the gateway, then a half of it.
    first, second = sorted(simulate(plan, Site(2, 1, cores=1.0), costs, Work(1, 1)).first)
    assert (first, second) == pytest.approx((0.29, 0.38))


def test_turns_wait_as_those_that_were_measured() -> None:
    costs = replace(ONE, accept=(0.01, 0.03))
    plan = [Visit(n, "text", (Turn(float(n), ""),)) for n in range(200)]
    first = simulate(plan, Site(1, 1), costs, Work(1, 1)).first
    assert {round(each, 3) for each in first} == {0.11, 0.13}
    assert mean(first) == pytest.approx(0.12, abs=0.002)


def test_what_an_engine_has_forgotten_is_read_again() -> None:
    turns = tuple(Turn(10.0 * number, "") for number in range(3))
    plan = [Visit(0, "text", turns), Visit(1, "text", tuple(replace(turn, due=turn.due + 5) for turn in turns))]
    costs = replace(ONE, prompt=0.001, chunk=1000, kept=2)
    assert simulate(plan, Site(1, 1), costs, Work(4, 10)).first == pytest.approx([0.11] * 6)
    forgotten = simulate(plan, Site(1, 1), replace(costs, kept=1), Work(4, 10))
    assert forgotten.first == pytest.approx([0.11, 0.11, 0.124, 0.124, 0.138, 0.138])


def test_a_pass_costs_what_lies_between_the_measured_ones() -> None:
    costs = replace(ONE, passes=((1, 0.1), (3, 0.2), (5, 0.6)), streams=6, prompt=0.01)
    assert [costs.pass_seconds(streams) for streams in range(7)] == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.4, 0.6, 0.8])
    assert costs.pass_seconds(3, 5) == pytest.approx(0.25)


def test_a_roofline_is_bound_by_the_memory_and_prompts_by_the_arithmetic() -> None:
    given = roofline(weights=16e9, parameters=8e9, cache=1e8, bandwidth=3.2e12, flops=8e14, streams=64, gateway=COSTS)
    assert given.pass_seconds(0) == pytest.approx(0.005)
    assert given.pass_seconds(64) - given.pass_seconds(63) == pytest.approx(1e8 / 3.2e12)
    assert given.prompt == pytest.approx(2e-5)
    assert given.tokens_per_second() == pytest.approx(64 / (0.005 + 64 * 3.125e-5))
    assert (given.turn, given.event, given.accept) == (COSTS.turn, COSTS.event, COSTS.accept)


def test_costs_are_kept_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "costs.json"
    costs_module.write(file, COSTS)
    assert costs_module.read(file) == COSTS
    file.write_text('{"speed": 3}')
    with pytest.raises(ValueError, match="holds no costs"):
        costs_module.read(file)


def test_it_predicts_from_the_command_line_and_says_what_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "costs.json"
    command = [sys.executable, "-m", "bench.scale", "predict", "--costs", str(file), "--sessions", "100", "2000"]
    missing = run(*command, cwd=ROOT)
    assert missing.returncode == 1
    assert "Measure first" in missing.stderr
    costs_module.write(file, COSTS)
    found = run(*command, cwd=ROOT)
    assert found.returncode == 0, found.stderr
    rows = [[int(cell.replace(",", "")) for cell in line.split("|")[1:4]] for line in found.stdout.splitlines()[2:]]
    assert [row[0] for row in rows] == [100, 2000]
    assert 1 <= rows[0][1] < rows[1][1], "more sessions take more engines"
