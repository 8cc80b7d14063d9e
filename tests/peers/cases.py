"""What each client's script does: run its cases one after the other and print what became of them as one line of JSON.

A script runs in an environment of its own, as: SCRIPT ADDRESS, the address being that of the server, such as
http://127.0.0.1:8700.
"""

import asyncio
import inspect
import json
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

SECONDS = 60.0  # that one case may take
QUESTION = "What is the weather in Paris?"
INSTRUCTIONS = "You are a helpful assistant. Answer in one short sentence."


class Weather:
    """The function that clients offer; it remembers the cities that it was called with."""

    name = "get_weather"
    description = "Get the current weather of a city."
    parameters: dict[str, Any] = {  # noqa: RUF012 - never changed
        "type": "object",
        "properties": {"city": {"type": "string", "description": "The name of the city."}},
        "required": ["city"],
        "additionalProperties": False,
    }

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(self, city: str) -> str:
        self.calls.append({"city": city})
        return f"It is sunny in {city}, 21 degrees."


def report(*cases: Callable[[str], Any]) -> None:
    """Run each case with the server's address; print ``{name: {"result" or "error", "seconds"}}``."""
    print(json.dumps(asyncio.run(_results(cases, sys.argv[1]))))


async def _results(cases: tuple[Callable[[str], Any], ...], address: str) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for case in cases:
        began = time.monotonic()
        try:
            async with asyncio.timeout(SECONDS):
                if inspect.iscoroutinefunction(case):
                    results[case.__name__] = {"result": await case(address)}
                else:  # in a thread, where a client may run an event loop of its own
                    results[case.__name__] = {"result": await asyncio.to_thread(case, address)}
        except Exception:
            results[case.__name__] = {"error": traceback.format_exc()}
        results[case.__name__]["seconds"] = round(time.monotonic() - began, 2)
    return results
