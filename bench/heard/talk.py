"""Talk: from the end of a spoken question to the first sound of its answer, through the server, in real time."""

import asyncio
import base64
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp
import numpy as np

from bench import results
from bench.clients import RealtimeClient, Reply
from bench.heard.live import PIECE, room
from bench.heard.measures import last_sound
from bench.heard.notes import note
from bench.heard.speakers import ENGLISH, JOE, Speakers, dealt, lines, pcm
from bench.loads import percentile
from bench.pace import Pace
from bench.results import Figures
from bench.servers import loquent, serving
from pipelines.events import AUDIO_RATE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

BRIEF = "Answer in one short sentence."
QUESTIONS, EACH = 20, 4  # questions of a session alone, and of each of several
SESSIONS = 4
LEAD = 0.6  # seconds of the room before a question
EARLY = 0.3  # seconds before its end, at which a question was cut: a voice breathes out behind its last word
PATIENCE = 12.0  # seconds behind a question, in which the answer must begin
TEXTS, TOKENS = 4, 300  # replies in text whose tokens are timed, and their length
MODES: dict[str, dict[str, Any]] = {
    "server_vad": {"type": "server_vad", "silence_duration_ms": 500},
    "semantic_vad": {"type": "semantic_vad"},
}

FIGURES = {"server_vad": "first", "semantic_vad": "semantic"}


@dataclass
class Answer:
    """What came of one question, by the clock."""

    ended: float = 0.0  # the end of the question
    stopped: float = 0.0  # when the server said that it had ended
    words: float = 0.0
    created: float = 0.0
    sounds: list[tuple[float, int]] = field(default_factory=list)  # when, and how many samples
    done: bool = False
    heard: str = ""
    stops: int = 0  # times that the server took the question to be over

    @property
    def cut(self) -> bool:
        """Whether the server answered a question before its end."""
        return self.stops > 1 or self.stopped < self.ended - EARLY

    @property
    def wait(self) -> float:
        """Seconds from the end of the question to the first sound."""
        return self.sounds[0][0] - self.ended

    @property
    def seconds(self) -> float:
        """Of sound."""
        return sum(samples for _, samples in self.sounds) / AUDIO_RATE

    def underruns(self) -> int:
        """Times that a client which plays at once had nothing to play."""
        until, found = self.sounds[0][0], 0
        for at, samples in self.sounds:
            found += at > until + 0.001
            until = max(until, at) + samples / AUDIO_RATE
        return found


class Talking:
    """A client's session: it sends the microphone's sound without a break, and listens."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self.answer = Answer()

    async def configure(self, detection: dict[str, Any]) -> None:
        """Say how the session listens."""
        heard = {"turn_detection": detection, "transcription": {"model": "whisper-1", "language": "en"}}
        session = {"type": "realtime", "instructions": BRIEF, "audio": {"input": heard}}
        await self._socket.send_json({"type": "session.update", "session": session})

    async def ask(self, question: "Floats", *, to_the_end: bool) -> Answer:
        """Ask, and wait for the first sound of the answer, or until all of it has been played."""
        self.answer = answer = Answer()
        audio = room(question, LEAD, PATIENCE + (30.0 if to_the_end else 0.0))
        begun = time.perf_counter()
        answer.ended = begun + LEAD + last_sound(question)
        reading = asyncio.create_task(self._read(answer))
        try:
            for begin in range(0, len(audio), PIECE):
                await asyncio.sleep(max(begun + (begin + PIECE) / AUDIO_RATE - time.perf_counter(), 0))
                if self._over(answer, to_the_end=to_the_end):
                    break
                data = base64.b64encode(pcm(audio[begin : begin + PIECE])).decode()
                await self._socket.send_json({"type": "input_audio_buffer.append", "audio": data})
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading
        return answer

    def _over(self, answer: Answer, *, to_the_end: bool) -> bool:
        if not to_the_end:
            return bool(answer.sounds)
        played = answer.sounds[0][0] + answer.seconds + 0.3 if answer.sounds else float("inf")
        return answer.done and time.perf_counter() > played

    async def _read(self, answer: Answer) -> None:
        async for message in self._socket:
            now, event = time.perf_counter(), json.loads(message.data)
            match event["type"]:
                case "input_audio_buffer.speech_stopped":
                    answer.stopped, answer.stops = now, answer.stops + 1
                case "conversation.item.input_audio_transcription.completed":
                    answer.words, answer.heard = now, event["transcript"]
                case "response.created":
                    answer.created, answer.done = now, False
                case "response.output_audio.delta":
                    answer.sounds.append((now, len(event["delta"]) * 3 // 8))
                case "response.done":
                    answer.done = True
                case "error":
                    note(f"  {event['error']['message']}")


async def measure(pace: Pace, figures: Figures) -> list[tuple[str, str]]:
    """One session in each mode, four at once, and a text stream beside one."""
    speakers = Speakers()
    texts = [each for each in lines("heard-english.txt") if each.endswith("?")][: QUESTIONS // (5 if pace.quick else 1)]
    questions = [speakers.say(*each) for each in dealt(texts, (JOE, *ENGLISH))]
    speakers.close()
    rows: list[tuple[str, str]] = []
    async with serving(loquent(), results.LOG) as server, aiohttp.ClientSession() as http:
        for mode, detection in MODES.items():
            answers = [await alone(http, server.server.url, question, detection) for question in questions]
            rows += table(mode, answers, figures)
        rows += await several(http, server.server.url, questions, figures)
        rows += await beside(http, server.server.url, questions, figures, 2 if pace.quick else TEXTS)
    return rows


async def alone(http: aiohttp.ClientSession, url: str, question: "Floats", detection: dict[str, Any]) -> Answer:
    """A session of its own for one question, which ends with the first sound."""
    async with http.ws_connect(f"{url}/v1/realtime", max_msg_size=0) as socket:
        talking = Talking(socket)
        await talking.configure(detection)
        answer = await talking.ask(question, to_the_end=False)
    if answer.sounds:
        parts = [answer.stopped, answer.words, answer.created, answer.sounds[0][0]]
        steps = " ".join(f"{1000 * (at - answer.ended):.0f}" for at in parts)
        note(f"  {answer.heard!r}: stopped, words, created, sound at {steps} ms; {answer.stops} stops")
    await asyncio.sleep(0.3)  # the reply that was begun ends
    return answer


def table(mode: str, answers: Sequence[Answer], figures: Figures) -> list[tuple[str, str]]:
    """The waits of one mode."""
    whole = [answer for answer in answers if answer.sounds and not answer.cut]
    waits = [answer.wait for answer in whole]
    p50, p95 = percentile(waits, 0.5), percentile(waits, 0.95)
    name = FIGURES[mode]
    figures[name], figures[f"{name}95"] = p50, p95
    cut = sum(answer.cut for answer in answers if answer.sounds)
    figures[f"{name}/cut"] = cut
    silent = sum(not answer.sounds for answer in answers)
    stops = [answer.stopped - answer.ended for answer in whole]
    created = [answer.created - answer.stopped for answer in whole]
    sounds = [answer.sounds[0][0] - answer.created for answer in whole]
    steps = " + ".join(f"{percentile(each, 0.5):.0f}" for each in (stops, created, sounds))
    return [
        (f"{mode}: end of speech to first sound, p50 and p95 of {len(waits)}", f"{p50:.0f} and {p95:.0f} ms"),
        (f"{mode}: of which until speech_stopped, to response.created, to sound (medians)", f"{steps} ms"),
        (f"{mode}: questions that were cut, and without an answer", f"{cut} and {silent}"),
    ]


async def several(
    http: aiohttp.ClientSession, url: str, questions: "Sequence[Floats]", figures: Figures
) -> list[tuple[str, str]]:
    """Sessions that listen and speak at once, each with a conversation of its own."""

    async def session(number: int) -> list[Answer]:
        await asyncio.sleep(0.7 * number)
        async with http.ws_connect(f"{url}/v1/realtime", max_msg_size=0) as socket:
            talking = Talking(socket)
            await talking.configure(MODES["server_vad"])
            chosen = [questions[(number * EACH + place) % len(questions)] for place in range(EACH)]
            return [await talking.ask(question, to_the_end=True) for question in chosen]

    found = await asyncio.gather(*(session(number) for number in range(SESSIONS)))
    answers = [answer for each in found for answer in each if answer.sounds]
    waits = [answer.wait for answer in answers]
    figures["four"] = percentile(waits, 0.95)
    figures["underruns"] = sum(answer.underruns() for answer in answers)
    return [
        (
            f"{SESSIONS} sessions at once: end of speech to first sound, p50 and p95 of {len(waits)}",
            f"{percentile(waits, 0.5):.0f} and {figures['four']:.0f} ms",
        ),
        ("their underruns", f"{figures['underruns']:.0f}"),
        ("their questions without an answer", f"{SESSIONS * EACH - len(answers)}"),
    ]


async def beside(
    http: aiohttp.ClientSession, url: str, questions: "Sequence[Floats]", figures: Figures, replies: int
) -> list[tuple[str, str]]:
    """Between the tokens of a text stream, alone and beside a session that talks."""

    async def gaps() -> list[float]:
        client = RealtimeClient(http, url)
        found: list[float] = []
        for number in range(replies):
            reply: Reply = await client.ask([{"role": "user", "content": f"Write about the number {number}."}], TOKENS)
            found += reply.gaps
        await client.close()
        return found

    async def talk() -> None:
        while True:
            async with http.ws_connect(f"{url}/v1/realtime", max_msg_size=0) as socket:
                talking = Talking(socket)
                await talking.configure(MODES["server_vad"])
                for question in questions:
                    await talking.ask(question, to_the_end=True)

    one = percentile(await gaps(), 0.99)
    talking = asyncio.create_task(talk())
    await asyncio.sleep(1.0)
    two = percentile(await gaps() + await gaps(), 0.99)
    talking.cancel()
    with suppress(asyncio.CancelledError):
        await talking
    figures["beside"] = two / one
    return [
        (
            "between texts of a text stream, p99, alone and beside a session that talks",
            f"{one:.1f} and {two:.1f} ms, {two / one:.2f} ×",
        )
    ]
