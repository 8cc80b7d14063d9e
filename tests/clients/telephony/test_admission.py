"""Who may call: Twilio's signature, the documents that point Twilio here, and how many at a time."""

import asyncio
import base64
import hashlib
import hmac
import signal
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import AsyncExitStack

import aiohttp
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from clients.telephony.adapter import Line
from clients.telephony.signature import signature_of, signed
from clients.telephony.twiml import Greeting
from loquent import UsageError
from tests.clients.telephony.twilio import answering, calling
from tests.support import ROOT, ScriptedModel, eventually, run, running

TOKEN = "12345"
PUBLIC = "https://phone.example"
SIGNED = Line(port=0, token=TOKEN, public_url=PUBLIC, greeting=Greeting("Hello & welcome.", "en-GB"))
NOWHERE = "http://127.0.0.1:9"


def sign(url: str, token: str = TOKEN) -> str:
    """As Twilio's documentation has it."""
    return base64.b64encode(hmac.new(token.encode(), url.encode(), hashlib.sha1).digest()).decode()


def test_a_signature_is_twilios() -> None:
    # The example of Twilio's documentation, whose parameters follow the address.
    url = "https://mycompany.com/myapp.php?foo=1&bar=2"
    parameters = "CallSidCA1234567890ABCDECaller+14158675309Digits1234From+14158675309To+18005551212"
    assert signature_of(url + parameters, "12345") == "RSOYDt4T1cUTdK1PDd93/VVr8B8="


@pytest.mark.parametrize(
    ("url", "right"),
    [
        ("wss://phone.example/media", True),
        ("https://phone.example/media", True),
        ("wss://phone.example/media/", True),
        ("wss://phone.example/relay", False),
        ("wss://other.example/media", False),
        ("ws://phone.example/media", False),
    ],
)
def test_a_handshakes_signature_is_of_its_own_address(url: str, right: bool) -> None:
    assert signed(sign(url), PUBLIC, "/media", TOKEN, websocket=True) is right
    assert not signed(sign(url, "other"), PUBLIC, "/media", TOKEN, websocket=True)
    assert not signed(None, PUBLIC, "/media", TOKEN, websocket=True)


@pytest.mark.parametrize(
    "given", [{}, {"X-Twilio-Signature": sign("wss://phone.example/relay")}, {"X-Twilio-Signature": ""}]
)
async def test_a_call_without_the_right_signature_is_refused(given: dict[str, str]) -> None:
    async with answering(NOWHERE, SIGNED) as address:
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"{address}/media", additional_headers=given)
    assert refused.value.response.status_code == 403


async def test_a_call_with_the_right_signature_is_taken() -> None:
    async with (
        running(ScriptedModel(["Hi"])) as server,
        answering(server.url, SIGNED) as address,
        calling(address, "/relay", headers={"X-Twilio-Signature": sign("wss://phone.example/relay")}) as call,
    ):
        await call.send(type="setup")
        await call.send(type="prompt", voicePrompt="Hello", last=True)
        await eventually(lambda: bool(call.received), "it is answered")


@pytest.mark.parametrize("path", ["/voice", "/voice-relay"])
async def test_the_documents_point_twilio_at_the_calls(path: str) -> None:
    async with answering(NOWHERE, SIGNED) as address, aiohttp.ClientSession() as http:
        url = address.replace("ws", "http", 1) + path + "?CallSid=CA1&From=%2B15551234567"
        async with http.get(url) as refused:
            assert refused.status == 403
        headers = {"X-Twilio-Signature": sign(f"{PUBLIC}{path}?CallSid=CA1&From=%2B15551234567")}
        async with http.get(url, headers=headers) as response:
            assert (response.status, response.content_type) == (200, "text/xml")
            document = ElementTree.fromstring(await response.text())
    connecting = document.find("Connect")
    assert connecting is not None
    if path == "/voice":
        assert document.findtext("Say") == "Hello & welcome."
        assert connecting[0].attrib == {"url": "wss://phone.example/media"}
    else:
        assert connecting[0].attrib == {
            "url": "wss://phone.example/relay",
            "welcomeGreeting": "Hello & welcome.",
            "language": "en-GB",
            "dtmfDetection": "true",
        }


async def test_there_is_nothing_else() -> None:
    async with answering(NOWHERE) as address, aiohttp.ClientSession() as http:
        for path in ("/", "/v1/realtime", "/media/../voice?"):
            async with http.get(address.replace("ws", "http", 1) + path, allow_redirects=False) as response:
                assert response.status in (200, 404)
                assert (response.status == 200) == (path.startswith("/media"))


async def test_pages_in_a_browser_of_this_machine_can_not_call() -> None:
    async with answering(NOWHERE) as address:
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"{address}/media", origin="https://evil.example")  # type: ignore[arg-type]
    assert refused.value.response.status_code == 403


async def test_calls_are_bounded_and_a_line_is_free_again() -> None:
    line = Line(port=0, calls=2)
    async with running(ScriptedModel(["Hi"])) as server, answering(server.url, line) as address:
        async with AsyncExitStack() as calls:
            for _ in range(2):
                await calls.enter_async_context(calling(address, "/relay"))
            with pytest.raises(InvalidStatus) as refused:
                await connect(f"{address}/relay")
            assert refused.value.response.status_code == 503
        await asyncio.sleep(0.2)
        async with calling(address, "/relay") as call:
            await call.send(type="setup")
            await call.send(type="prompt", voicePrompt="Hello", last=True)
            await eventually(lambda: bool(call.received), "it is answered")


async def test_without_a_server_a_call_ends_and_says_so() -> None:
    async with answering(NOWHERE) as address, calling(address) as call:
        assert await call.closed() == 1011


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ({"host": "0.0.0.0"}, "TWILIO_AUTH_TOKEN"),  # noqa: S104 - nothing listens
        ({"token": TOKEN}, "--public-url"),
        ({"token": TOKEN, "public_url": "phone.example"}, "looks like"),
    ],
)
def test_a_line_that_anybody_could_call_is_an_error(line: dict[str, str], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Line(**line)  # type: ignore[arg-type]


def test_the_token_is_not_shown() -> None:
    assert TOKEN not in repr(SIGNED)


@pytest.fixture
def command(loquent: str, server_url: str) -> Iterator["subprocess.Popen[str]"]:
    """The command, as a process."""
    words = [loquent, "telephone", "--port", "0", "--url", server_url, "--log-level", "error"]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


async def test_the_command_takes_calls_until_a_signal(command: "subprocess.Popen[str]") -> None:
    assert command.stdout is not None
    assert command.stderr is not None
    line = await asyncio.to_thread(command.stdout.readline)
    assert line.startswith("The telephone listens on http://127.0.0.1:")
    async with calling(line.split()[-1].replace("http", "ws", 1), "/relay") as call:
        await call.send(type="setup")
        await call.send(type="prompt", voicePrompt="Say hello.", last=True)
        await eventually(lambda: bool(call.received), "it is answered")
    command.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(command.wait, 20) == 0
    assert command.stderr.read() == ""


def test_the_command_prints_a_document_and_refuses_an_open_line(loquent: str) -> None:
    printed = run(loquent, "telephone", "--twiml", "media", "--public-url", PUBLIC)
    assert (printed.returncode, "wss://phone.example/media" in printed.stdout) == (0, True)
    refused = run(loquent, "telephone", "--host", "0.0.0.0")  # noqa: S104 - it ends
    assert (refused.returncode, "TWILIO_AUTH_TOKEN" in refused.stderr) == (2, True)
