"""How long the JSON of a schema is, about, where it says no more than it began: so much is left for a reply's end."""

from collections.abc import Mapping
from typing import Any

CHARACTERS_A_TOKEN = 3  # of names and values, as JSON
MARKS = 2  # tokens of quotes, colons and commas beside a name or a value
VALUE = 6  # tokens of a number, or of a string of a pattern or format


def least_tokens(schema: Any) -> int:
    """Tokens, about, of a value with each property once, no more items than must be, and the shortest strings.

    Each definition is looked at once, so that the time is that of the schema's length, whatever refers to what.
    """
    if not isinstance(schema, dict):
        return MARKS
    return _Estimate({**schema.get("definitions", {}), **schema.get("$defs", {})}).of(schema)


class _Estimate:
    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self._definitions = definitions
        self._known: dict[str, int] = {}  # of definitions; of one that refers to itself the least, until it is known

    def of(self, schema: Any) -> int:
        if not isinstance(schema, dict):
            return MARKS
        if isinstance(reference := schema.get("$ref"), str):
            return self._of_definition(reference.rpartition("/")[2])
        for key in ("anyOf", "oneOf", "enum"):
            if isinstance(options := schema.get(key), list) and options:
                # The model may have begun the longest one.
                return max(_text(each) if key == "enum" else self.of(each) for each in options)
        if "const" in schema:
            return _text(schema["const"])
        if isinstance(properties := schema.get("properties"), dict):
            # Also those that are not required: between two values the model may have begun any of them.
            return MARKS + sum(_text(name) + self.of(each) for name, each in properties.items())
        if "items" in schema:
            return MARKS + int(schema.get("minItems", 0)) * (1 + self.of(schema["items"]))
        return MARKS + max(VALUE, int(schema.get("minLength", 0)) // CHARACTERS_A_TOKEN)

    def _of_definition(self, name: str) -> int:
        if name not in self._known:
            self._known[name] = MARKS
            self._known[name] = self.of(self._definitions.get(name))
        return self._known[name]


def _text(value: Any) -> int:
    return MARKS + len(str(value)) // CHARACTERS_A_TOKEN
