"""Who asks, behind proxies or not."""

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from server.access.peer import Peer, Proxies, visitor
from server.config import ServerSettings, Settings
from tests.support import ScriptedModel, running


class Transport:
    """What aiohttp asks of a connection."""

    def __init__(self, address: str) -> None:
        self._address = address

    def get_extra_info(self, name: str, default: object = None) -> object:
        return (self._address, 1) if name == "peername" else default


def peer(remote: str, headers: list[tuple[str, str]], *trusted: str) -> Peer:
    made = make_mocked_request("GET", "/", CIMultiDict([("Host", "here:8700"), *headers]), transport=Transport(remote))
    return Proxies(trusted).peer(made)


@pytest.mark.parametrize(
    ("remote", "chain", "trusted", "address"),
    [
        ("198.51.100.1", "203.0.113.1", [], "198.51.100.1"),
        ("198.51.100.1", "203.0.113.1", ["10.0.0.0/8"], "198.51.100.1"),
        ("10.0.0.1", "203.0.113.1", ["10.0.0.0/8"], "203.0.113.1"),
        ("10.0.0.1", "1.1.1.1, 203.0.113.1", ["10.0.0.0/8"], "203.0.113.1"),
        ("10.0.0.1", "1.1.1.1, 203.0.113.1, 10.2.2.2", ["10.0.0.0/8"], "203.0.113.1"),
        ("10.0.0.1", "10.3.3.3, 10.2.2.2", ["10.0.0.0/8"], "10.3.3.3"),
        ("10.0.0.1", "1.1.1.1, nonsense", ["10.0.0.0/8"], "10.0.0.1"),
        ("10.0.0.1", "1.1.1.1, nonsense, 10.2.2.2", ["10.0.0.0/8"], "10.2.2.2"),
        ("10.0.0.1", "", ["10.0.0.0/8"], "10.0.0.1"),
        ("10.0.0.1", "203.0.113.1:4711", ["10.0.0.0/8"], "203.0.113.1"),
        ("10.0.0.1", "[2001:db8::1]:4711", ["10.0.0.0/8"], "2001:db8::1"),
        ("::ffff:10.0.0.1", "203.0.113.1", ["10.0.0.0/8"], "203.0.113.1"),
        ("10.0.0.1", "x" * 5000, ["10.0.0.0/8"], "10.0.0.1"),
    ],
)
def test_the_client_is_the_nearest_address_that_no_trusted_proxy_has(
    remote: str, chain: str, trusted: list[str], address: str
) -> None:
    assert peer(remote, [("X-Forwarded-For", chain)], *trusted).address == address


def test_a_second_header_is_the_rest_of_the_chain() -> None:
    chain = [("X-Forwarded-For", "1.1.1.1"), ("X-Forwarded-For", "203.0.113.1")]
    assert peer("10.0.0.1", chain, "10.0.0.1").address == "203.0.113.1"


def test_scheme_and_host_are_a_trusted_proxys_alone() -> None:
    headers = [("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "bot.example")]
    assert peer("10.0.0.1", headers, "10.0.0.1") == Peer("10.0.0.1", "https", "bot.example")
    assert peer("10.0.0.2", headers, "10.0.0.1") == Peer("10.0.0.2", "http", "here:8700")
    assert peer("10.0.0.1", [("X-Forwarded-Proto", "gopher")], "10.0.0.1").scheme == "http"


def test_a_visitor_is_an_ipv4_address_or_an_ipv6_network() -> None:
    assert visitor("198.51.100.7") == visitor("::ffff:198.51.100.7") == "198.51.100.7"
    assert visitor("2001:db8::1") == visitor("2001:db8::ffff:1") != visitor("2001:db8:0:1::1")


def test_a_network_that_is_none_is_an_error_of_the_configuration() -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0\.0/8"):
        ServerSettings(trusted_proxies=("10.0.0.1/8",))


@pytest.mark.parametrize(("trusted", "link"), [(["127.0.0.1/32"], "https://bot.example"), ([], "http://127.0.0.1")])
async def test_links_begin_with_the_address_that_the_proxy_names(trusted: list[str], link: str) -> None:
    proxied = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "bot.example", "Origin": "https://bot.example"}
    settings = Settings(server=ServerSettings(trusted_proxies=tuple(trusted), allowed_hosts=("bot.example",)))
    seen: list[str] = []
    async with running(ScriptedModel(["Hi"]), settings) as server:
        origin = server.backend.origin

        def record(request: web.Request) -> str:
            seen.append(origin(request))
            return seen[-1]

        server.backend.origin = record  # type: ignore[method-assign]
        body = {"messages": [{"role": "user", "content": "Hi"}]}
        async with server.http.post(f"{server.url}/v1/chat/completions", json=body, headers=proxied) as answer:
            assert answer.status == (200 if trusted else 403), "the page's own origin is the proxy's"
        del proxied["Origin"]
        async with server.http.post(f"{server.url}/v1/chat/completions", json=body, headers=proxied) as answer:
            assert answer.status == 200
    assert seen[-1].startswith(link)


async def test_a_request_without_a_host_asks_no_name_service_and_is_of_no_origin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never() -> str:
        raise AssertionError("it would block the event loop")

    monkeypatch.setattr("socket.getfqdn", never)
    for origin, status in ((b"", b"200"), (b"Origin: http://\r\n", b"403")):
        async with running(ScriptedModel(["Hi"]), Settings(server=ServerSettings(host="0.0.0.0"))) as server:  # noqa: S104
            server.backend.access.keyring._required = False
            host, port = server.url.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"GET /v1/models HTTP/1.0\r\n" + origin + b"\r\n")
            assert status in await reader.readline()
            writer.close()
