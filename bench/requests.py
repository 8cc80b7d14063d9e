"""Requests for functions that other people wrote: Home Assistant's sentences, and messages that ask for none.

The sentences are templates; their places are filled with things that fit, since random ones make nonsense.
"""

import json
import random
import threading
from typing import Any

from hassil.expression import Alternative, ListReference, Permutation, RuleReference, Sequence, TextChunk
from hassil.intents import Intents
from hassil.parse_expression import parse_sentence

from pipelines.anomaly.training.corpora import ARCHIVES
from pipelines.anomaly.training.readers import chatterbot
from pipelines.downloads.archives import Files, fetch
from pipelines.downloads.progress import finish
from pipelines.events import Tool

ROOMS = ("kitchen", "bedroom", "living room", "hall", "garage", "office")
DEVICES = ("lamp", "fan", "coffee machine", "heater", "TV")
PLAYERS = ("TV", "radio", "speaker")
DISHES = ("pizza", "tea", "laundry")


def _tool(function: str, description: str, required: tuple[str, ...] = (), **properties: dict[str, Any]) -> Tool:
    schema = {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}
    return Tool(function, description, schema)


TEXT, NUMBER = {"type": "string"}, {"type": "integer"}
# Each function, the intent whose sentences ask for it, and what its sentences speak of.
FUNCTIONS: tuple[tuple[Tool, str, tuple[str, ...]], ...] = (
    (_tool("turn_on", "Turn on a device, light or switch", ("name",), name=TEXT), "HassTurnOn", DEVICES),
    (_tool("turn_off", "Turn off a device, light or switch", ("name",), name=TEXT), "HassTurnOff", DEVICES),
    (
        _tool(
            "set_temperature",
            "Set the target temperature of the heating or air conditioning",
            ("temperature",),
            temperature=NUMBER,
            room=TEXT,
        ),
        "HassClimateSetTemperature",
        ("thermostat", "heating", "air conditioning"),
    ),
    (
        _tool("get_weather", "Get the current weather or the weather forecast", location=TEXT),
        "HassGetWeather",
        ("London", "Berlin", "Paris"),
    ),
    (
        _tool("start_timer", "Start a new timer or countdown", hours=NUMBER, minutes=NUMBER, seconds=NUMBER, name=TEXT),
        "HassStartTimer",
        DISHES,
    ),
    (_tool("cancel_timer", "Cancel or stop a running timer", name=TEXT), "HassCancelTimer", DISHES),
    (
        _tool("add_to_shopping_list", "Add an item to the shopping list", ("item",), item=TEXT),
        "HassShoppingListAddItem",
        ("milk", "bread", "two onions", "coffee"),
    ),
    (_tool("pause_media", "Pause the music or video that is playing"), "HassMediaPause", PLAYERS),
    (_tool("next_track", "Skip to the next song or track"), "HassMediaNext", PLAYERS),
    (
        _tool(
            "set_volume",
            "Set the volume of a media player",
            ("volume",),
            volume={"type": "integer", "minimum": 0, "maximum": 100},
        ),
        "HassSetVolume",
        PLAYERS,
    ),
    (
        _tool("start_vacuum", "Start the robot vacuum cleaner", name=TEXT),
        "HassVacuumStart",
        ("vacuum", "robot vacuum", "Rosie the vacuum"),
    ),
    (_tool("get_time", "Get the current time"), "HassGetCurrentTime", ("clock",)),
)
TOOLS = tuple(tool for tool, _, _ in FUNCTIONS)


def _files(archive: str) -> Files:
    return Files(finish(fetch(ARCHIVES[archive], threading.Event())))


def asking(each: int, seed: int = 7) -> list[tuple[str, str]]:
    """So many sentences for each function, and the function's name."""
    grammar = json.loads(_files("home-assistant-intents").text("home_assistant_intents/data/en.json"))
    intents = Intents.from_dict(grammar)
    found: list[tuple[str, str]] = []
    for tool, intent, things in FUNCTIONS:
        rng = random.Random(f"{seed}{tool.name}")
        templates = [text for data in grammar["intents"][intent]["data"] for text in data["sentences"]]
        said: set[str] = set()
        while len(said) < each:
            expression = parse_sentence(rng.choice(templates)).expression
            said.add(" ".join(_filled(expression, intents, rng, things).split()))
        found += [(text, tool.name) for text in sorted(said)]
    return found


def _filled(expression: Any, intents: Intents, rng: random.Random, things: tuple[str, ...]) -> str:
    """One of the texts that an expression stands for."""
    match expression:
        case TextChunk():
            return str(expression.original_text)
        case Alternative():
            return _filled(rng.choice(expression.items), intents, rng, things)
        case Permutation() | Sequence():
            items = list(expression.items)
            if isinstance(expression, Permutation):
                rng.shuffle(items)
            return "".join(_filled(item, intents, rng, things) for item in items)
        case RuleReference():
            return _filled(intents.expansion_rules[expression.rule_name].expression, intents, rng, things)
        case ListReference():
            values = getattr(intents.slot_lists.get(expression.list_name), "values", None)
            if values:
                return _filled(rng.choice(values).text_in, intents, rng, things)
            if hasattr(intents.slot_lists.get(expression.list_name), "start"):
                return str(rng.randrange(15, 27) if "thermostat" in things else rng.randrange(2, 60))
            name = expression.list_name
            return rng.choice(ROOMS if "area" in name or "floor" in name else things)
    return ""


def asking_for_none(count: int, seed: int = 3) -> list[str]:
    """Openings of talks of the ChatterBot corpus."""
    openings: dict[str, str] = {}
    for talk, text, _ in chatterbot(_files("chatterbot-corpus"), english=True):
        openings.setdefault(talk, text)
    texts = sorted(set(openings.values()))
    return random.Random(seed).sample(texts, count)
