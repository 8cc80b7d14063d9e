"""Put a server under the load of many Realtime users, and measure what they notice of it.

    python -m bench.load http://127.0.0.1:8700 --sessions 200 --seconds 60
    python -m bench.load http://127.0.0.1:8700 --sessions 20 --speech 0.5 --audio 0.2

Users come by chance, stay for some turns, think between them, and leave. When everything happens is drawn before the
run (``bench.load.plan``), and times count from when a turn was due, so that a server that stalls is measured where it
stalls. It prints a Markdown table; ``bench/results/load.json`` has its figures. LOQUENT_API_KEY is the key, if one is
needed.
"""

import argparse
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence

from bench import results
from bench.load.figures import figures, quantile, report
from bench.load.plan import Load
from bench.load.processes import run
from bench.load.user import Target

SAID = "What is the weather like by the sea today?"
LATE = 0.01  # seconds: a generator that is later than this at its 99th percentile measures itself


def options(arguments: Sequence[str]) -> argparse.Namespace:
    """What the command line asks for. Raises: SystemExit for what makes no sense."""
    parser = argparse.ArgumentParser(
        "python -m bench.load", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("url", help="the server's address, as http://127.0.0.1:8700")
    parser.add_argument("--sessions", type=int, default=100, help="sessions at a time (100)")
    parser.add_argument("--seconds", type=float, default=30.0, help="in which users come (30)")
    parser.add_argument("--turns", type=int, default=4, help="of a session (4)")
    parser.add_argument("--think", type=float, default=5.0, help="seconds to think between turns, the median (5)")
    parser.add_argument("--nominal", type=float, default=1.0, help="seconds that a reply should take (1)")
    parser.add_argument("--tokens", type=int, default=32, help="of a reply, at most (32)")
    parser.add_argument("--speech", type=float, default=0.0, help="share of users who hear their replies (0)")
    parser.add_argument("--audio", type=float, default=0.0, help="share of users who speak and hear (0)")
    parser.add_argument("--processes", type=int, default=max((os.cpu_count() or 2) // 2, 1), help="of the generator")
    parser.add_argument("--model", default="default", help="asked for (default)")
    parser.add_argument("--seed", type=int, default=0, help="of chance (0)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON instead of tables")
    asked = parser.parse_args(arguments)
    if (
        min(asked.sessions, asked.turns, asked.processes, asked.tokens) < 1
        or min(asked.seconds, asked.think, asked.nominal) <= 0
    ):
        parser.error("sessions, turns, tokens and processes are at least 1, and times are above 0")
    if min(asked.speech, asked.audio) < 0 or asked.speech + asked.audio > 1:
        parser.error("--speech and --audio are shares, together 1 at most")
    return asked


def recorded(url: str, key: str) -> bytes:
    """What users who speak say, in the server's own voice: PCM, 24 kHz, 16 bit. Raises: OSError."""
    body = json.dumps({"model": "tts-1", "voice": "alloy", "input": SAID, "response_format": "pcm"}).encode()
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/audio/speech", body, headers), timeout=60) as answer:  # noqa: S310
        said: bytes = answer.read()
    return said


def main() -> int:
    """Run it; 1 where the server can't be reached, or no turn was completed."""
    asked = options(sys.argv[1:])
    url, key = asked.url.rstrip("/"), os.environ.get("LOQUENT_API_KEY", "")
    load = Load(
        asked.sessions, asked.seconds, asked.turns, asked.think, asked.nominal, asked.speech, asked.audio, asked.seed
    )
    try:
        urllib.request.urlopen(f"{url}/readyz", timeout=10).close()  # noqa: S310 - the server that was named
        said = recorded(url, key) if asked.audio else b""
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{url} can't be put under load: {error}\n")
        return 1
    sys.stderr.write(
        f"{load.rate:.1f} users come in a second, for {load.seconds:g} s; each stays about {load.stay:.0f} s.\n"
    )
    measured = run(load, Target(url, key, asked.model, asked.tokens, said, 0.0), asked.processes)
    found = figures(measured)
    if measured.times["late"] and quantile(sorted(measured.times["late"]), 0.99) > LATE:
        sys.stderr.write("The generator itself is late: take more --processes, or another machine for it.\n")
    if asked.json:
        sys.stdout.write(json.dumps(found | {f"outcome/{name}": n for name, n in measured.outcomes.items()}) + "\n")
    else:
        results.show("load", f"{results.head('load')}\n\n{report(measured)}", found)
    return 0 if measured.outcomes["completed"] else 1


if __name__ == "__main__":
    sys.exit(main())
