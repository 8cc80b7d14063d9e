"""The JSON Schema of the websocket's events."""

from typing import Any

from pydantic.json_schema import JsonSchemaMode

from server.openapi.generator import DIALECT, definitions
from server.realtime.wire import CLIENT_EVENTS, SERVER_EVENTS

Json = dict[str, Any]
PREFIX = "#/$defs/"
SESSION = "Merged into the session's settings, object by object; null stands for the default. Session has the fields."


def realtime_schema() -> Json:
    """The schema of any event: ``$defs`` has ``ClientEvent``, ``ServerEvent``, and each event by its class's name."""
    types: dict[str, tuple[Any, JsonSchemaMode]] = {
        **{kind: (event, "validation") for kind, event in CLIENT_EVENTS.items()},
        **{f"sent {kind}": (event, "serialization") for kind, event in SERVER_EVENTS.items()},
    }
    schemas, defs = definitions(types, PREFIX)
    for kind in CLIENT_EVENTS:
        event = defs[_name(schemas[kind])]
        event["required"] = ["type", *event.get("required", [])]  # which the model has a default for
    defs["SessionUpdate"]["properties"]["session"]["description"] = SESSION
    for kind in SERVER_EVENTS:
        event = defs[_name(schemas[f"sent {kind}"])]
        event["properties"] = {"event_id": {"type": "string"}} | event["properties"]
        event["required"] = ["event_id", *event["required"]]
    defs["ClientEvent"] = {"oneOf": [schemas[kind] for kind in CLIENT_EVENTS]}
    defs["ServerEvent"] = {"oneOf": [schemas[f"sent {kind}"] for kind in SERVER_EVENTS]}
    either = [{"$ref": PREFIX + "ClientEvent"}, {"$ref": PREFIX + "ServerEvent"}]
    return {"$schema": DIALECT, "title": "Events of /v1/realtime", "anyOf": either, "$defs": defs}


def _name(schema: Json) -> str:
    return str(schema["$ref"]).removeprefix(PREFIX)
