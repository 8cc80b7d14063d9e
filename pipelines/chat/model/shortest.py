"""How long the JSON of a schema is, about, where it says no more than it began: so much is left for a reply's end."""

from collections.abc import Mapping
from typing import Any

DEEPEST = 12  # references and parts that are followed; a schema may refer to itself
CHARACTERS_A_TOKEN = 3  # of names and values, as JSON
MARKS = 2  # tokens of quotes, colons and commas beside a name or a value
VALUE = 6  # tokens of a number, or of a string of a pattern or format


def least_tokens(schema: Any, definitions: Mapping[str, Any] | None = None, depth: int = 0) -> int:
    """Tokens, about, of a value with each property once, no more items than must be, and the shortest strings."""
    if not isinstance(schema, dict) or depth > DEEPEST:
        return MARKS
    found = {**schema.get("definitions", {}), **schema.get("$defs", {})} if not depth else definitions or {}
    if isinstance(reference := schema.get("$ref"), str):
        return least_tokens(found.get(reference.rpartition("/")[2]), found, depth + 1)
    for key in ("anyOf", "oneOf", "enum"):
        if isinstance(options := schema.get(key), list) and options:
            sizes = (_text(each) if key == "enum" else least_tokens(each, found, depth + 1) for each in options)
            return max(sizes)  # the model may have begun the longest one
    if "const" in schema:
        return _text(schema["const"])
    if isinstance(properties := schema.get("properties"), dict):
        # Also those that are not required: between two values the model may have begun any of them.
        return MARKS + sum(_text(name) + least_tokens(each, found, depth + 1) for name, each in properties.items())
    if "items" in schema:
        return MARKS + int(schema.get("minItems", 0)) * (1 + least_tokens(schema["items"], found, depth + 1))
    return MARKS + max(VALUE, int(schema.get("minLength", 0)) // CHARACTERS_A_TOKEN)


def _text(value: Any) -> int:
    return MARKS + len(str(value)) // CHARACTERS_A_TOKEN
