"""Random JSON schemas: objects, arrays, enums, numbers, patterns, references and unions."""

import random
from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]

PATTERNS = (r"^[A-Z]{2}\d{3}$", r"^\d{4}-\d{2}$", r"^(foo|bar)+$", r"^[a-z]+@[a-z]+\.com$", r"^#[0-9a-f]{6}$")
FORMATS = ("date-time", "uuid", "email", "ipv4")
NAMES = ("name", "age", "city", "tags", "größe", "a b", "items", "x", "note", "unit")
DEEPEST = 3


def random_schema(seed: int) -> Schema:
    """A schema of an object or a list, with definitions it may refer to."""
    rng = random.Random(seed)
    schema: Schema = {}
    while schema.get("type") not in ("object", "array"):
        schema = _schema(rng, 0, refs=True)
    return schema | {"$defs": {name: _schema(rng, 1, refs=False) for name in ("one", "two")}}


def _schema(rng: random.Random, depth: int, *, refs: bool) -> Schema:
    makers: list[Callable[[random.Random], Schema]] = [_string, _integer, _number, _literal, _enum, _pattern, _format]
    if depth >= DEEPEST or rng.random() < 0.4:
        return rng.choice(makers)(rng)

    def inner() -> Schema:
        return _schema(rng, depth + 1, refs=refs)

    match rng.choice(("object", "object", "array", "union", "ref" if refs else "object")):
        case "object":
            return _object(rng, inner)
        case "array":
            return _array(rng, inner)
        case "union":
            return {"anyOf": [inner() for _ in range(rng.randint(2, 3))]}
        case _:
            return {"$ref": f"#/$defs/{rng.choice(('one', 'two'))}"}


def _object(rng: random.Random, inner: Callable[[], Schema]) -> Schema:
    names = rng.sample(NAMES, rng.randint(0, 5))
    others: Schema | bool = False if rng.random() < 0.7 else _integer(rng)
    required = [name for name in names if rng.random() < 0.7]
    properties = {name: inner() for name in names}
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": others}


def _array(rng: random.Random, inner: Callable[[], Schema]) -> Schema:
    schema: Schema = {"type": "array", "items": inner()}
    if rng.random() < 0.6:
        schema["maxItems"] = rng.randint(0, 5)
    if rng.random() < 0.4:
        schema["minItems"] = rng.randint(0, schema.get("maxItems", 3))
    return schema


def _string(rng: random.Random) -> Schema:
    schema: Schema = {"type": "string"}
    if rng.random() < 0.5:
        schema["maxLength"] = rng.randint(1, 30)
        schema["minLength"] = rng.randint(0, schema["maxLength"])
    return schema


def _integer(rng: random.Random) -> Schema:
    low = rng.randint(-100, 100)
    return {"type": "integer"} | ({"minimum": low, "maximum": low + rng.randint(0, 1000)} if rng.random() < 0.5 else {})


def _number(rng: random.Random) -> Schema:
    low = rng.uniform(-10, 10)
    return {"type": "number"} | ({"minimum": low, "maximum": low + rng.uniform(1, 99)} if rng.random() < 0.4 else {})


def _literal(rng: random.Random) -> Schema:
    return rng.choice([{"type": "boolean"}, {"type": "null"}, {"const": rng.choice(["x", 3, None, False, "ü"])}])


def _enum(rng: random.Random) -> Schema:
    return {"enum": rng.sample(["red", "grün", 'blue "x"', 1, 2.5, None, True, "ключ", "a\nb"], rng.randint(1, 5))}


def _pattern(rng: random.Random) -> Schema:
    return {"type": "string", "pattern": rng.choice(PATTERNS)}


def _format(rng: random.Random) -> Schema:
    return {"type": "string", "format": rng.choice(FORMATS)}
