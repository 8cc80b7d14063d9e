"""Every route and every kind of credential: what may pass, and what may not."""

import re
import time
from pathlib import Path

import pytest
from aiohttp import web

from server.access.keys import SCOPES
from server.auth import SCOPE_OF
from server.openapi import operations
from server.web import page
from tests.server.access.support import Guarded, bearer, guarded, new_key, revoke

# Without a key, or with a signed link.
PUBLIC = (
    *("/livez", "/readyz", "/v1/images/files/{id}.png", "/widget.js", "/widget.{version}.js", "/recorder.js"),
    *page.FILES,
    *operations.PATHS,
)
CREDENTIALS = ("none", "wrong", "wrong secret", "expired", "revoked", "dead secret", "secret", *SCOPES, "configured")


def needed(path: str) -> str:
    """The scope that a route is to need; the table that the server has is not asked."""
    own = {"/v1/realtime": "realtime", "/v1/realtime/client_secrets": "secrets", "/metrics": "admin"}
    return own.get(path, "http")


def expected(credential: str, path: str) -> set[int] | None:
    """The statuses that a refusal may have; None where the request passes."""
    if credential in ("none", "wrong", "wrong secret", "expired", "revoked", "dead secret"):
        return {401}
    held = {"secret": {"realtime"}, "configured": set(SCOPES)}.get(credential, {credential})
    return None if needed(path) in held else {403}


async def credentials(given: Guarded) -> dict[str, str | None]:
    file = given.file
    made: dict[str, str | None] = {scope: new_key(file, scope, [scope]) for scope in SCOPES}
    made |= {"none": None, "wrong": "lq-wrong", "wrong secret": "ek_wrong"}
    made["expired"] = new_key(file, "old", SCOPES, expires_at=int(time.time()) - 1)
    made["revoked"] = new_key(file, "gone", SCOPES)
    given.look()
    made["dead secret"] = (await given.secret(made["revoked"]))["value"]
    made["secret"] = (await given.secret(made["secrets"]))["value"]
    revoke(file, "gone")
    given.look()
    return made


def routes(app: web.Application) -> list[tuple[str, str]]:
    found = {(route.method, route.resource.canonical) for route in app.router.routes() if route.resource is not None}
    return sorted((method, path) for method, path in found if method != "HEAD")


async def test_every_route_admits_every_kind_of_credential_or_refuses_it_as_the_table_says(tmp_path: Path) -> None:
    from server.app import application
    from server.config import Settings, hash_key
    from tests.support import ScriptedModel, scripted_pipeline

    table = routes(application(Settings(), scripted_pipeline(ScriptedModel(["Hi"]))))
    assert {path for _, path in table} >= {*SCOPE_OF, *PUBLIC}
    file = tmp_path / "keys.json"
    configured = "lq-configured"
    server = {"keys": (hash_key(configured),)}
    async with guarded(file, server=server, limits={"rates": "off"}) as given:
        keys = await credentials(given) | {"configured": configured}
        assert set(keys) == set(CREDENTIALS)
        wrong = []
        for method, path in table:
            url = given.server.url + re.sub(r"{\w+}", "x", path)
            for kind, key in keys.items():
                async with given.server.http.request(method, url, headers=bearer(key)) as answer:
                    status = answer.status
                    code = (await answer.json())["error"]["code"] if status >= 400 and path not in PUBLIC else ""
                refused = None if path in PUBLIC else expected(kind, path)
                passes = refused is None and (code not in ("invalid_api_key", "insufficient_scope"))
                if not passes and (refused is None or status not in refused):
                    wrong.append((method, path, kind, status, code))
                if refused == {403} and code != "insufficient_scope":
                    wrong.append((method, path, kind, status, code))
        assert wrong == []


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/models"), ("GET", "/metrics"), ("POST", "/v1/realtime/client_secrets"), ("GET", "/nowhere")],
)
async def test_a_missing_scope_is_named(tmp_path: Path, method: str, path: str) -> None:
    file = tmp_path / "keys.json"
    key = new_key(file, "ears", ["realtime"])
    async with guarded(file) as given:
        async with given.server.http.request(method, given.server.url + path, headers=bearer(key)) as answer:
            error = (await answer.json())["error"]
        assert (answer.status, error["code"], error["type"]) == (403, "insufficient_scope", "permission_error")
        assert repr(needed(path)) in error["message"]


async def test_paths_written_in_another_way_need_the_same_scope(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    key = new_key(file, "web", ["http"])
    async with guarded(file) as given:
        for path in ("/%6detrics", "//metrics", "/metrics/", "/v1/../metrics", "/v1/realtime/./client_secrets"):
            async with given.server.http.get(given.server.url + path, headers=bearer(key)) as answer:
                assert answer.status in (403, 404, 405), path


async def test_keys_of_one_name_share_their_data_and_another_name_finds_nothing(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    old, new, other = (new_key(file, name) for name in ("shop", "shop", "other"))
    async with guarded(file) as given:
        url = f"{given.server.url}/v1/conversations"
        async with given.server.http.post(url, json={}, headers=bearer(old)) as answer:
            id = (await answer.json())["id"]
        for key, status in ((new, 200), (other, 404)):
            async with given.server.http.get(f"{url}/{id}", headers=bearer(key)) as answer:
                assert answer.status == status


async def test_data_is_found_again_once_a_second_key_exists(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    key = new_key(file)
    async with guarded(file) as given:
        url = f"{given.server.url}/v1/conversations"
        async with given.server.http.post(url, json={}, headers=bearer(key)) as answer:
            id = (await answer.json())["id"]
        new_key(file, "other")
        given.look()
        async with given.server.http.get(f"{url}/{id}", headers=bearer(key)) as answer:
            assert answer.status == 200


async def test_a_key_that_is_revoked_while_the_server_runs_gets_401(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    key = new_key(file)
    async with guarded(file) as given:
        for status in (200, 401):
            async with given.server.http.get(f"{given.server.url}/v1/models", headers=bearer(key)) as answer:
                assert answer.status == status
            revoke(file, "shop")
            given.look()
