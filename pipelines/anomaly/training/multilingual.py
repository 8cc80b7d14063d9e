"""Injections, hidden orders and harmless look-alikes in twelve languages, made of phrases that were written for it."""

import random
import tomllib
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

Phrases = dict[str, list[str]]

KEYS = ("leave", "what", "and", "do", "ask", "hidden", "orders", "roles", "harmless")
NAMES = ("Marta", "Sven", "Lee", "Nadia", "Omar", "Ana", "Jonas", "Yuki")
TRIES = 200  # for one more text that is not there yet


@cache
def phrases(language: str) -> Phrases:
    """The phrases of a language (ISO 639-1), by what they are for. Raises: KeyError."""
    if language not in languages():
        raise KeyError(f"there are no phrases in {language!r}, only in {', '.join(languages())}")
    found: Phrases = tomllib.loads(_folder().joinpath(f"{language}.toml").read_text(encoding="utf-8"))
    return found


@cache
def languages() -> tuple[str, ...]:
    """The languages that there are phrases of."""
    return tuple(sorted(each.name.removesuffix(".toml") for each in _folder().iterdir() if each.name.endswith(".toml")))


def _folder() -> Traversable:
    return files(__package__) / "phrases"


def injections(language: str, count: int, seed: int) -> list[str]:
    """So many different injections that a user says, in one language. Raises: KeyError, ValueError for too many."""
    known = phrases(language)
    return _different(lambda rng: _injection(known, rng), count, f"{language} {seed}")


def orders(language: str, count: int, seed: int) -> list[str]:
    """So many different instructions to the assistant that a document may hide. Raises: as ``injections``."""
    known = phrases(language)
    return _different(lambda rng: _order(known, rng), count, f"orders {language} {seed}")


def harmless(language: str, count: int | None = None, seed: int = 0) -> list[str]:
    """Harmless messages in the words of attacks, at most ``count``: there is a fixed number a language."""
    known = list(dict.fromkeys(phrases(language)["harmless"]))
    random.Random(f"harmless {language} {seed}").shuffle(known)
    return known[:count]


def _injection(known: Phrases, rng: random.Random) -> str:
    """One of six forms, the commonest of attacks most often."""
    override = rng.choice(known["leave"]).format(rng.choice(known["what"]))
    whole = override + rng.choice(known["and"]).format(rng.choice(known["do"]))
    order = _capital(rng.choice(known["orders"]).format(rng.choice(NAMES)))
    chance = rng.random()
    if chance < 0.25:
        return override
    if chance < 0.55:
        return whole
    if chance < 0.75:
        return rng.choice(known["ask"])
    if chance < 0.85:
        return rng.choice(known["hidden"]).format(rng.choice((override, order, whole)))
    return order if chance < 0.93 else rng.choice(known["roles"])


def _order(known: Phrases, rng: random.Random) -> str:
    order = rng.choice(known["orders"]).format(rng.choice(NAMES))
    override = rng.choice(known["leave"]).format(rng.choice(known["what"]))
    said = rng.choice((order, order, override, override + rng.choice(known["and"]).format(rng.choice(known["do"]))))
    return rng.choice(known["hidden"]).format(said)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _different(make: Callable[[random.Random], str], count: int, seed: str) -> list[str]:
    rng = random.Random(seed)
    made: dict[str, None] = {}
    missed = 0
    while len(made) < count:
        before = len(made)
        made[make(rng)] = None
        missed = 0 if len(made) > before else missed + 1
        if missed > TRIES:
            raise ValueError(f"the phrases give {len(made)} different texts, not {count}")
    return list(made)
