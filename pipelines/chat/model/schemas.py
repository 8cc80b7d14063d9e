"""What is done with JSON schemas before they are compiled. It needs no tokenizer and no compiler."""

from typing import Any

REFUSED = "invalid_grammar"

# JSON as models write it: one space behind a comma and a colon, and none elsewhere.
COMPACT: dict[str, Any] = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
LENIENT: dict[str, Any] = COMPACT | {"lenient": True, "coerce_one_of": True}  # what can't be enforced is left out

BY_NAME = ("properties", "$defs", "definitions", "patternProperties")  # keywords that hold schemas by name


def closed(schema: Any) -> Any:
    """The schema, less properties that its objects don't name: a small model would invent some."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _closed_within(key, value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "allOf" not in schema:
        made.setdefault("additionalProperties", False)
    return made


def _closed_within(key: str, value: Any) -> Any:
    """What a keyword of a schema holds: values, schemas by name, or schemas."""
    if key in ("enum", "const", "default", "examples"):
        return value
    if key in BY_NAME and isinstance(value, dict):
        return {name: closed(each) for name, each in value.items()}
    return closed(value)
