"""The first page: where it is served, where it is not, and what the server says of it."""

from pathlib import Path
from typing import Any

import pytest

from server.config import ConfigError, ServerSettings, Settings, WebSettings, hash_key, read
from server.web import page
from tests.server.commands.test_main import served
from tests.support import ScriptedModel, run, running

BEYOND: dict[str, Any] = {"host": "0.0.0.0", "keys": (hash_key("lq-key"),)}  # noqa: S104 - that is the point


@pytest.mark.parametrize(
    ("server", "web", "on"),
    [
        ({}, {}, True),
        ({}, {"page": True}, True),
        ({}, {"page": False}, False),
        ({"host": "::1"}, {}, True),
        ({"trusted_proxies": ("127.0.0.1/32",)}, {}, False),
        ({"trusted_proxies": ("127.0.0.1/32",)}, {"page": True}, True),
        (BEYOND, {}, False),
        (BEYOND | {"allowed_hosts": ("bot.example",)}, {"page": True}, True),
    ],
)
async def test_it_is_served_where_it_is_on_and_else_says_how_to_switch_it_on(
    server: dict[str, Any], web: dict[str, Any], *, on: bool
) -> None:
    settings = Settings(server=ServerSettings(**server), web=WebSettings(**web))
    async with running(ScriptedModel(["Hi"]), settings) as given:
        for path, (_, kind) in page.FILES.items():
            async with given.http.get(given.url + path) as answer:
                if on:
                    assert (answer.status, answer.content_type) == (200, kind)
                    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
                    continue
                error = (await answer.json())["error"]
            assert (answer.status, error["code"], error["type"]) == (404, "page_not_found", "invalid_request_error")
            assert "[web] page = true" in error["message"]


async def test_a_page_is_on_for_no_other_host() -> None:
    headers = {"Host": "evil.example"}
    async with running(ScriptedModel(["Hi"])) as given, given.http.get(given.url, headers=headers) as answer:
        assert answer.status == 421


@pytest.mark.parametrize(
    ("listening", "server", "address"),
    [
        ("http://127.0.0.1:8700", {}, "http://127.0.0.1:8700"),
        ("https://10.0.0.7:443", {}, "https://10.0.0.7:443"),
        ("http://0.0.0.0:8700", {}, "http://127.0.0.1:8700"),
        ("https://[::]:8443", {}, "https://[::1]:8443"),
        ("http://[::1]:8700", {}, "http://[::1]:8700"),
        ("http://127.0.0.1:8700", {"public_url": "https://bot.example"}, "https://bot.example"),
    ],
)
def test_the_address_to_open_is_one_that_a_browser_can_open(
    listening: str, server: dict[str, Any], address: str
) -> None:
    assert page.address(Settings(server=ServerSettings(**server)), listening) == address


def test_serve_says_where_to_open_it(loquent: str, tmp_path: Path) -> None:
    with served(loquent, tmp_path) as (process, url):
        assert process.stdout is not None
        assert process.stdout.readline() == f"Open {url} in a browser\n"


def test_serve_does_not_say_so_of_a_page_that_is_off(loquent: str, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[web]\npage = false\n")
    with served(loquent, tmp_path) as (process, _):
        process.terminate()
        out, _ = process.communicate(timeout=60)
        assert "in a browser" not in out


def test_a_value_that_is_none_is_said(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[web]\npage = "sometimes"\n')
    with pytest.raises(ConfigError, match=r"web\.page: .*'auto'"):
        read(str(file))


@pytest.mark.parametrize(("value", "read_as"), [("true", "true"), ("false", "false"), ("auto", '"auto"')])
def test_the_environment_sets_it(loquent: str, value: str, read_as: str) -> None:
    outcome = run(loquent, "config", "check", LOQUENT__WEB__PAGE=value)
    assert f"web.page = {read_as}  # environment" in outcome.stdout
