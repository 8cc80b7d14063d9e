"""The OpenAPI document."""

import re
from importlib.metadata import version
from typing import Any

from server.openapi.generator import DIALECT, body, definitions
from server.openapi.operations import OPERATIONS, Body, Operation
from server.openapi.shapes.common import Error, NotReady

Json = dict[str, Any]
PREFIX = "#/components/schemas/"
ALWAYS = (421, 500)
KEYED = (400, 401, 403, 408, 413, 415, 429, 503)  # of every request that needs a key, besides
READ_IN_PLACE = "/readyz"  # whose 503 is no error's
DESCRIPTION = (
    "A streaming assistant: OpenAI's HTTP interfaces, and its Realtime protocol on a websocket. Fields that only this "
    "server has stand under `loquent`. Where no key is configured, none is needed."
)
REASONS = {
    400: "The request is invalid; the message names the parameter.",
    401: "There is no valid key.",
    403: "The Origin, or the key, may not do this.",
    404: "There is no such thing.",
    408: "The body did not arrive in time.",
    409: "A realtime session holds this conversation.",
    410: "It has expired, or is no longer stored.",
    413: "The body is too large, or too complex.",
    415: "The body's Content-Encoding is not supported.",
    421: "The server does not answer to this Host.",
    429: "A limit is used up; Retry-After says when to try again.",
    500: "The server failed; its log says why.",
    503: "The server is overloaded, loading or shutting down; Retry-After says when to try again.",
}


def document() -> Json:
    """The whole document, as JSON has it."""
    bodies = {f"{each.id}.body": (each.body.model, "validation") for each in OPERATIONS if each.body}
    answers = {f"{each.id}.answer": (each.answer, "serialization") for each in OPERATIONS if each.answer}
    events = {f"{each.id}.event": (each.event, "serialization") for each in OPERATIONS if each.event}
    errors = {"error": (Error, "serialization"), "not ready": (NotReady, "serialization")}
    schemas, components = definitions(bodies | answers | events | errors, PREFIX)
    read = {schemas[f"{each.id}.body"]["$ref"].removeprefix(PREFIX): each.body for each in OPERATIONS if each.body}
    components = {name: _component(schema, read.get(name)) for name, schema in components.items()}
    paths: Json = {}
    for each in OPERATIONS:
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each, schemas)
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": DIALECT,
        "info": {"title": "Loquent", "version": version("loquent"), "description": DESCRIPTION},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": {str(status): _refusal(status, schemas["error"]) for status in REASONS},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "api-key"},
            },
        },
    }


def _component(schema: Json, asked: Body | None) -> Json:
    return body(schema, asked.ignored, asked.refused) if asked else schema


def _operation(each: Operation, schemas: dict[str, Json]) -> Json:
    found: Json = {"operationId": each.id, "summary": each.summary}
    if parameters := [*_in_path(each.path), *({"in": "query", "name": n, "schema": s} for n, s in each.query.items())]:
        found["parameters"] = parameters
    if each.body:
        content = {"application/json": {"schema": schemas[f"{each.id}.body"]}}
        found["requestBody"] = {"required": each.body.required, "content": content}
    if each.form:
        found["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": each.form}}}
    found["security"] = [{"bearer": []}, {"apiKey": []}] if each.keyed else []
    return found | {"responses": _responses(each, schemas)}


def _in_path(path: str) -> list[Json]:
    schema = {"type": "string", "minLength": 1}
    return [{"in": "path", "name": name, "required": True, "schema": schema} for name in re.findall(r"{(\w+)}", path)]


def _responses(each: Operation, schemas: dict[str, Json]) -> Json:
    content = {"application/json": {"schema": schemas[f"{each.id}.answer"]}} if each.answer else {}
    content |= {kind: {"schema": schema} for kind, schema in each.others.items()}
    if each.event:
        data = {"anyOf": [schemas[f"{each.id}.event"], schemas["error"]]}
        content["text/event-stream"] = {"schema": _events(each.others["text/event-stream"], data)}
    success: Json = {"description": each.summary, "headers": _HEADERS} | ({"content": content} if content else {})
    statuses = sorted({*ALWAYS, *(KEYED if each.keyed else ()), *each.errors})
    refused: Json = {str(status): {"$ref": f"#/components/responses/{status}"} for status in statuses}
    if each.path == READ_IN_PLACE:
        refused["503"] = {
            "description": REASONS[503],
            "content": {"application/json": {"schema": schemas["not ready"]}},
        }
    return {str(each.status): success} | refused


def _events(schema: Json, data: Json) -> Json:
    """The schema of a server-sent event, with that of its data."""
    properties = schema["properties"]
    either = {"anyOf": [{"const": "[DONE]"}, properties["data"] | {"contentSchema": data}]}
    return schema | {"properties": properties | {"data": either}}


def _refusal(status: int, schema: Json) -> Json:
    headers = _HEADERS | ({"Retry-After": {"schema": {"type": "integer"}}} if status in (429, 503) else {})
    return {"description": REASONS[status], "headers": headers, "content": {"application/json": {"schema": schema}}}


_HEADERS: Json = {"x-request-id": {"schema": {"type": "string"}}}
