"""The two documents that describe the interface: they are whole, valid, and true of what is sent."""

import copy
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from jsonschema import Draft202012Validator

from server.app import application
from server.config import Settings
from server.openapi.document import document
from server.openapi.operations import PATHS
from server.openapi.realtime import realtime_schema
from server.realtime import wire
from tests.server.access.support import guarded, new_key
from tests.server.test_wire import CLIENT_SAMPLES, SERVER_SAMPLES
from tests.support import ScriptedModel, described, running, scripted_pipeline

Json = dict[str, Any]


def routes(app: web.Application) -> set[tuple[str, str]]:
    found = {(route.method, route.resource.canonical) for route in app.router.routes() if route.resource is not None}
    return {(method, path) for method, path in found if method != "HEAD"}


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


def at(schema: Json, reference: str) -> Any:
    found: Any = schema
    for name in reference.removeprefix("#/").split("/"):
        found = found[name]
    return found


async def test_every_route_of_the_server_is_described_and_nothing_else() -> None:
    here = routes(application(Settings(), scripted_pipeline(ScriptedModel(["Hi"]))))
    described = {(method.upper(), path) for path, methods in document()["paths"].items() for method in methods}
    assert described == here


@pytest.mark.parametrize("whole", [document(), realtime_schema()], ids=["openapi", "realtime"])
def test_every_schema_is_valid_and_every_reference_leads_to_one(whole: Json) -> None:
    for schema in (whole.get("$defs") or whole["components"]["schemas"]).values():
        Draft202012Validator.check_schema(schema)
    assert all(at(whole, reference) for reference in references(whole))


def test_every_operation_has_a_name_of_its_own_and_says_whether_it_needs_a_key() -> None:
    operations = [each for methods in document()["paths"].values() for each in methods.values()]
    assert len({each["operationId"] for each in operations}) == len(operations)
    assert all("security" in each and each["summary"] for each in operations)


@pytest.mark.parametrize("path", PATHS)
async def test_the_documents_need_no_key_and_come_compressed_to_clients_that_accept_it(
    path: str, tmp_path: Path
) -> None:
    new_key(file := tmp_path / "keys.json")
    async with guarded(file) as given:
        address = given.server.url + path
        async with given.server.http.get(address, headers={"Accept-Encoding": "identity"}) as answer:
            plain = await answer.read()
            assert (answer.status, answer.headers.get("Content-Encoding")) == (200, None)
        accepts = {"Accept-Encoding": "br, gzip;q=0.8"}
        async with given.server.http.get(address, headers=accepts, auto_decompress=False) as answer:
            packed = await answer.read()
            assert (answer.status, answer.headers["Content-Encoding"]) == (200, "gzip")
        async with given.server.http.get(f"{given.server.url}/v1/models") as answer:
            assert answer.status == 401
    assert gzip.decompress(packed) == plain
    assert json.loads(plain) == (document() if path == PATHS[0] else realtime_schema())


async def test_the_documents_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(ScriptedModel(["Hi"])) as server:
        for path in PATHS:
            async with server.http.get(server.url + path) as answer:
                assert answer.status == 200
        monkeypatch.setattr("server.openapi.handler._MADE", {})
        for path in PATHS:
            async with server.http.get(server.url + path) as answer:
                assert answer.status == 200


def test_the_schema_names_every_event_of_the_protocol() -> None:
    defs = realtime_schema()["$defs"]

    def kinds(side: str) -> set[str]:
        events = [at({"$defs": defs}, each["$ref"]) for each in defs[side]["oneOf"]]
        return {event["properties"]["type"]["const"] for event in events}

    assert kinds("ClientEvent") == set(wire.CLIENT_EVENTS)
    assert kinds("ServerEvent") == set(wire.SERVER_EVENTS)


@pytest.mark.parametrize("event", SERVER_SAMPLES, ids=lambda event: str(event.type))
def test_what_is_sent_is_what_the_schema_says(event: wire.ServerEvent) -> None:
    described(json.loads(wire.dump(event, "event_1")))


def test_an_event_that_lacks_a_field_or_has_another_one_is_not_what_the_schema_says() -> None:
    event = json.loads(wire.dump(wire.TextDelta(response_id="r", item_id="i", delta="Hi"), "event_1"))
    described(event)
    for wrong in (event | {"delta": 1}, event | {"made_up": True}, {k: v for k, v in event.items() if k != "event_id"}):
        with pytest.raises(AssertionError):
            described(wrong)


@pytest.mark.parametrize("kind", CLIENT_SAMPLES)
def test_a_clients_events_are_valid_and_need_their_type(kind: str) -> None:
    schema = realtime_schema()
    validator = Draft202012Validator(schema | {"anyOf": [{"$ref": "#/$defs/ClientEvent"}]})
    assert validator.is_valid({"type": kind} | CLIENT_SAMPLES[kind])
    assert not validator.is_valid(CLIENT_SAMPLES[kind])
    assert not validator.is_valid({"type": "no.such.event"} | CLIENT_SAMPLES[kind])


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "conversation.item.create", "item": {"type": "message", "role": "robot", "content": []}},
        {"type": "conversation.item.truncate", "item_id": "i", "content_index": -1, "audio_end_ms": 0},
        {"type": "response.create", "response": {"loquent": {"made_up": 1}}},
    ],
)
def test_what_the_server_refuses_the_schema_refuses(wrong: Json) -> None:
    with pytest.raises(wire.WireError):
        wire.parse(json.dumps(wrong), message_bytes=10_000)
    schema = realtime_schema()
    assert not Draft202012Validator(schema | {"anyOf": [{"$ref": "#/$defs/ClientEvent"}]}).is_valid(wrong)


def test_a_parameter_without_effect_is_accepted_and_an_unknown_one_is_not() -> None:
    whole = copy.deepcopy(document())
    reference = "#/components/schemas/ChatRequest"
    validator = Draft202012Validator({"$ref": reference, "components": whole["components"]})
    hi = {"messages": [{"role": "user", "content": "Hi"}]}
    assert validator.is_valid(hi | {"user": "me", "verbosity": "low", "audio": None, "model": None})
    assert not validator.is_valid(hi | {"made_up": 1})
    assert not validator.is_valid(hi | {"audio": {"voice": "alloy"}})
