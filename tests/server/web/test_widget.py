"""The widget's file: for pages of every origin, small, checked by its hash; and the tag that loads it."""

import base64
import gzip
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from server.config import ServerSettings, Settings, WebSettings, hash_key
from server.web.file import FILE, WidgetFile
from tests.server.access.support import guarded, new_key
from tests.support import Running, ScriptedModel, run, running

SHOP = {"Origin": "https://shop.example"}
PLAIN, PACKED = {"Accept-Encoding": "identity"}, {"Accept-Encoding": "br, gzip"}
WIDGET = WidgetFile.read()


async def got(server: Running, path: str, **given: Any) -> tuple[int, Mapping[str, str], bytes]:
    """Status, headers, and the body as it comes."""
    method = given.pop("method", "GET")
    async with server.http.request(method, server.url + path, auto_decompress=False, **given) as answer:
        return answer.status, answer.headers, await answer.read()


@pytest.mark.parametrize(
    ("path", "caching"),
    [("/widget.js", "no-cache"), (WIDGET.path, "public, max-age=31536000, immutable")],
)
async def test_a_page_of_any_origin_may_load_it(path: str, caching: str, tmp_path: Path) -> None:
    new_key(file := tmp_path / "keys.json")
    async with guarded(file) as given:
        for headers in (PLAIN | SHOP, PLAIN, PLAIN | {"Origin": "null"}):
            status, told, body = await got(given.server, path, headers=headers)
            assert (status, body) == (200, FILE.read_bytes())
            assert told["Content-Type"] == "text/javascript; charset=utf-8"
            assert told["Access-Control-Allow-Origin"] == "*"
            assert told["Cross-Origin-Resource-Policy"] == "cross-origin"
            assert told["X-Content-Type-Options"] == "nosniff"
            assert told["Cache-Control"] == caching
            assert told["Vary"] == "Accept-Encoding", "a cache between has one copy for every origin"
            assert int(told["Content-Length"]) == len(body)


async def test_it_comes_compressed_to_clients_that_read_it_so() -> None:
    async with running(ScriptedModel(["Hi"])) as server:
        for accepted in ("gzip", "br, gzip;q=0.5", "*", "GZIP"):
            status, told, body = await got(server, "/widget.js", headers={"Accept-Encoding": accepted})
            assert (status, told["Content-Encoding"]) == (200, "gzip"), accepted
            assert gzip.decompress(body) == WIDGET.content
        for refused in ("br", "gzip;q=0", "*;q=0", "identity, *;q=0.0", "gzip;q=much", ""):
            status, told, body = await got(server, "/widget.js", headers={"Accept-Encoding": refused})
            assert (status, told.get("Content-Encoding"), body) == (200, None, WIDGET.content), refused


@pytest.mark.parametrize("path", ["/widget.js", "/recorder.js", WIDGET.path])
async def test_who_has_it_gets_it_not_again(path: str) -> None:
    async with running(ScriptedModel(["Hi"])) as server:
        tags = []
        for accepts in (PLAIN, PACKED):
            _, told, _ = await got(server, path, headers=accepts)
            tags.append(tag := told["ETag"])
            assert re.fullmatch(r'"[0-9a-f]{16}(-gzip)?"', tag), "a strong one"
            for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
                status, again, body = await got(server, path, headers=accepts | {"If-None-Match": known})
                assert (status, body, again["ETag"]) == (304, b"", tag)
                assert again["Cache-Control"] == told["Cache-Control"]
                assert again["Access-Control-Allow-Origin"] == "*"
            assert (await got(server, path, headers=accepts | {"If-None-Match": '"other"'}))[0] == 200
        assert len(set(tags)) == 2, "each stands for the bytes that are sent"


async def test_head_has_the_headers_alone() -> None:
    async with running(ScriptedModel(["Hi"])) as server:
        for path in ("/widget.js", WIDGET.path):
            _, expected, body = await got(server, path, headers=PACKED)
            status, told, nothing = await got(server, path, method="HEAD", headers=PACKED)
            assert (status, nothing, int(told["Content-Length"])) == (200, b"", len(body))
            for name in {*map(str.lower, expected), *map(str.lower, told)} - {"date", "x-request-id"}:
                assert told.get(name) == expected.get(name), name


async def test_another_version_is_not_there_and_the_error_says_what_to_do() -> None:
    async with running(ScriptedModel(["Hi"])) as server:
        for version in ("0" * 16, WIDGET.version.upper() + "0", WIDGET.version[:8], "%00", "x" * 500):
            async with server.http.get(f"{server.url}/widget.{version}.js", headers=SHOP) as answer:
                error = (await answer.json())["error"]
                assert (answer.status, error["code"]) == (404, "widget_not_found"), version
                assert "loquent widget" in error["message"]
                assert "Cache-Control" not in answer.headers


async def test_it_can_be_switched_off_and_no_host_but_the_servers_has_it() -> None:
    async with running(ScriptedModel(["Hi"])) as server:
        assert (await got(server, "/widget.js", headers={"Host": "evil.example"}))[0] == 421
    async with running(ScriptedModel(["Hi"]), Settings(web=WebSettings(page=False, widget=False))) as server:
        for path in ("/widget.js", WIDGET.path):
            async with server.http.get(server.url + path) as answer:
                error = (await answer.json())["error"]
            assert (answer.status, error["code"]) == (404, "widget_not_found")
            assert "[web] widget = true" in error["message"]


async def test_beyond_this_machine_it_is_served_and_the_page_is_not() -> None:
    beyond = ServerSettings(host="0.0.0.0", keys=(hash_key("lq-key"),))  # noqa: S104 - that is the point
    async with running(ScriptedModel(["Hi"]), Settings(server=beyond)) as server:
        assert (await got(server, "/widget.js", headers=SHOP))[0] == 200
        assert (await got(server, "/", headers=SHOP))[0] == 404


async def test_the_tag_names_the_file_that_the_server_has(loquent: str) -> None:
    async with running(ScriptedModel(["Hi"])) as server:
        outcome = run(loquent, "widget", "--url", f"{server.url}/")
        assert (outcome.returncode, outcome.stderr) == (0, "")
        script, element, explained = outcome.stdout.splitlines()
        found = re.fullmatch(
            r'<script src="(\S+)" integrity="sha384-(\S+)" crossorigin="anonymous" defer></script>', script
        )
        assert found
        assert element == f'<loquent-chat server="{server.url}" secret-url="/chat-secret"></loquent-chat>'
        assert "secret-url" in explained
        async with server.http.get(found[1]) as answer:
            assert answer.status == 200
            digest = hashlib.sha384(await answer.read()).digest()
        assert base64.b64decode(found[2]) == digest


def test_the_tag_is_for_any_server_and_what_is_no_address_is_said(loquent: str) -> None:
    assert f'src="https://your-server{WIDGET.path}"' in run(loquent, "widget").stdout
    below = run(loquent, "widget", "--url", "https://bot.example/a&b").stdout
    assert f'src="https://bot.example/a&amp;b{WIDGET.path}"' in below
    assert 'server="https://bot.example/a&amp;b"' in below
    for wrong in ("bot.example", "ftp://bot.example", 'https://x"><script>', "https://", "https://a b", "javascript:x"):
        outcome = run(loquent, "widget", "--url", wrong)
        assert (outcome.returncode, outcome.stdout) == (2, ""), wrong
        assert "https://your-server" in outcome.stderr
