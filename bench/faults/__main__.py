"""``python -m bench.faults ROW``: one figure each."""

import argparse
import asyncio
import importlib
import json
import sys
import tempfile
from pathlib import Path

from bench import results


def _cuts(asked: argparse.Namespace) -> tuple[str, bool]:
    from bench.faults.cuts import cut
    from bench.faults.process import serving

    async def run() -> tuple[str, bool]:
        async with serving() as server:
            found = await cut(server.url, asked.count or 200, seed=asked.seed)
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(found.breaks.items()))
        text = f"{sum(found.breaks.values())} sockets broken ({kinds}) in {found.turns} turns: {len(found.wrong)} wrong"
        return "\n".join([text, *found.wrong]), not found.wrong

    return asyncio.run(run())


def _kills(asked: argparse.Namespace) -> tuple[str, bool]:
    from bench.faults.kills import kill
    from bench.faults.postgres import postgres

    kills = asked.count or 200
    with tempfile.TemporaryDirectory() as folder:
        store = asked.store or f"sqlite:///{Path(folder) / 'history.db'}"
        if store == "postgres":
            with postgres() as running:
                if running is None:
                    raise SystemExit("PostgreSQL is not installed (Debian: apt install postgresql).")
                found = asyncio.run(kill(running.new_database(), kills, seed=asked.seed))
        else:
            found = asyncio.run(kill(store, kills, seed=asked.seed))
    text = (
        f"{kills} kills, {found.turns} turns, {found.incomplete} of them ended as incomplete, {found.items} items "
        f"acknowledged: {len(found.wrong)} wrong"
    )
    return "\n".join([text, *found.wrong]), not found.wrong


def _idle(asked: argparse.Namespace) -> tuple[str, bool]:
    from bench.faults.idle import idle, raise_limit

    count = asked.count or 2000
    raise_limit(count)
    found = asyncio.run(idle(count))
    text = (
        f"{found.sockets} idle websockets: {found.kib:.1f} KiB each, {found.accepted:.0f} accepted a second, "
        f"{100 * found.share:.1f} % of a core; SIGTERM closed {found.codes} with 1001 in {found.closed:.1f} s, "
        f"exit code {found.exit_code}"
    )
    return text, found.kib <= 20 and found.codes == found.sockets and found.exit_code == 0


def _active(asked: argparse.Namespace) -> tuple[str, bool]:
    from bench.faults.active import active, told
    from bench.faults.idle import raise_limit

    raise_limit(4000)
    found = asyncio.run(active(asked.count or 200))
    return told(found), found.answered == found.asked


def _sigterm(asked: argparse.Namespace) -> tuple[str, bool]:
    from bench.faults.sigterm import sigterm, told

    found = asyncio.run(sigterm(asked.count or 50))
    return told(found), not found.wrong and found.exit_code == 0


def _tenants(asked: argparse.Namespace) -> tuple[str, bool]:
    from bench.faults.tenants import ALIKE, tenants, told

    found = asyncio.run(tenants(asked.count or 60, seed=asked.seed))
    return told(found), abs(found.guess - 0.5) <= ALIKE and max(found.cached["other's"]) <= max(found.cached["new"])


def _soak(asked: argparse.Namespace) -> tuple[str, bool]:
    from bench.faults import soak_report
    from bench.faults.soak import soak

    found = asyncio.run(soak(asked.minutes, seed=asked.seed))
    results.FOLDER.mkdir(parents=True, exist_ok=True)
    (results.FOLDER / "soak.json").write_text(json.dumps(soak_report.figures(found)))
    soak_report.plot(found, results.FOLDER / "soak.svg", results.head("faults"))
    return soak_report.summary(found), soak_report.good(found)


def _surroundings(asked: argparse.Namespace) -> tuple[str, bool]:
    from bench.faults import surroundings as rows

    async def run() -> list[rows.Outcome]:
        match asked.name:
            case "disk":
                return [await rows.disk(seconds) for seconds in (rows.SHORT, rows.LONG)]
            case "database":
                return [await rows.database()]
            case "clock":
                return [await rows.clock()]
            case _:
                return [await rows.cache()]

    outcomes = asyncio.run(run())
    return "\n".join(map(str, outcomes)), all(each.good for each in outcomes)


def _restarts(asked: argparse.Namespace) -> tuple[str, bool]:
    from bench.faults.restarts import restarts

    found = asyncio.run(restarts(asked.count or 20, seed=asked.seed))
    return str(found), found.good


def _frames(asked: argparse.Namespace) -> tuple[str, bool]:
    from bench.faults.frames import LINGER, frames, told
    from bench.faults.process import serving

    async def run() -> tuple[str, bool]:
        async with serving(sessions__linger=LINGER) as server:
            begun = server.log.stat().st_size
            found = await frames(server, asked.count or 100_000, seed=asked.seed)
            log = server.log.read_bytes()[begun:].decode(errors="replace")
        return told(found, log), not found.wrong and not found.left and "Traceback" not in log

    return asyncio.run(run())


def _others(asked: argparse.Namespace) -> tuple[str, bool]:
    """What other clients feel."""
    given = {"count": asked.count, "pairs": asked.pairs, "seconds": asked.seconds}
    run = importlib.import_module(f"bench.faults.{asked.name}").row
    found: tuple[str, bool] = asyncio.run(run(**{name: value for name, value in given.items() if value}))
    return found


ROWS = {
    "floods": (_others, "floods of connects, pings, frames and requests: what others feel (--count 20, --seconds 10)"),
    "slow": (_others, "sockets that send a byte a second: what others feel (--count 200, --seconds 10)"),
    "readers": (_others, "clients that stop reading: what others feel (--count 20, --seconds 30)"),
    "cuts": (_cuts, "sockets that break during replies, with the stock openai client (--count 200)"),
    "active": (_active, "many that ask at once, beside 2,000 idle websockets (--count 200)"),
    "idle": (_idle, "idle websockets: memory, accepts, SIGTERM (--count 2000)"),
    "disk": (_surroundings, "the history's disk is full for a while (needs root)"),
    "database": (_surroundings, "PostgreSQL is gone for half a minute"),
    "clock": (_surroundings, "the clock jumps by days (needs libfaketime)"),
    "cache": (_surroundings, "the cache can't be written (needs root)"),
    "frames": (_frames, "fuzzed websocket frames (--count 100000)"),
    "kills": (_kills, "kill -9 of the server amid conversations (--count 200, --store URL)"),
    "restarts": (_restarts, "PostgreSQL, then Redis, restarted hard under load (--count 20 sockets)"),
    "tenants": (_tenants, "whether the time of an answer betrays what another tenant asked (--count 60)"),
    "sigterm": (_sigterm, "SIGTERM under streams of all kinds (--count 50)"),
    "soak": (_soak, "everything at once: whether memory grows, or the server becomes slower (--minutes 60)"),
}


def main() -> int:
    """Run one row, and print its figure."""
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description=__doc__)
    rows = parser.add_subparsers(title="rows", metavar="ROW", required=True)
    for name, (run, help) in ROWS.items():
        row = rows.add_parser(name, help=help, description=help)
        row.add_argument("--count", type=int, default=0, help="how many")
        row.add_argument("--seconds", type=float, default=0.0, help="of a phase")
        row.add_argument("--pairs", type=int, default=0, help="of quiet and attacked phases; by default 3")
        row.add_argument("--seed", type=int, default=1, help="of the random choices")
        row.add_argument(
            "--store",
            default="",
            help="of kills: the history's database, as [history] store, or postgres for one of its own",
        )
        row.add_argument("--minutes", type=float, default=60, help="of a soak")
        row.set_defaults(run=run, name=name)
    asked = parser.parse_args()
    text, good = asked.run(asked)
    head = results.head("faults")
    results.FOLDER.mkdir(parents=True, exist_ok=True)
    (results.FOLDER / f"faults-{asked.name}.json").write_text(json.dumps({"head": head, "text": text, "good": good}))
    sys.stdout.write(f"{head}\n{text}\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
