"""Speech: how soon it is heard, how much it computes, how many it speaks to, and what the language model notices of it.

Run with ``make bench``, on an idle machine; ``--engine kokoro`` measures that voice. Everything runs in this process
but the interruptions, which go through the websocket of a server. Prints a Markdown table with the hardware.
"""

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace

import aiohttp
from rich.progress import Progress

from bench import results
from bench.goals import stated
from bench.loads import percentile
from bench.results import Figures
from bench.servers import loquent, serving
from pipelines.build import Pipeline, build
from pipelines.chat.settings import ChatSettings
from pipelines.events import AudioDelta, Event, Message, Sampling, Speech, TextDelta, Turn
from pipelines.flow import Next, flow
from pipelines.speech.sentences import SentenceSplitter
from pipelines.speech.settings import SpeechSettings
from pipelines.speech.stage import SpeechStage

REPLIES = 20
SESSIONS = 8
ALONE, BESIDE = 6, 12  # replies in text
TEXT_TOKENS = 400  # of a text reply whose tokens are timed
INTERRUPTIONS = 30
QUESTIONS = [
    "Tell me about the sea.",
    "What is a volcano?",
    "How do I bake bread?",
    "Why is the sky blue?",
    "Tell me about the moon.",
    "What do bees do?",
    "How does a train work?",
    "Tell me about Rome.",
    "What is music?",
    "Why do cats purr?",
]
SENTENCES = [
    "The library opens at nine in the morning and closes at six in the evening.",
    "Please put the cups back on the table when you are done.",
    "She walked along the river until the sun went down.",
    "The weather will be warm and dry for the rest of the week.",
    "Could you tell me the way to the train station?",
    "The old man told us a story about a ship in a storm.",
    "He left his keys in the car and had to walk home.",
    "The meeting was moved to the second floor of the building.",
    "It took them three hours to climb the mountain.",
    "The bridge was closed because of the heavy rain.",
]


@dataclass
class Heard:
    """One spoken reply, in seconds on one clock."""

    asked: float
    written: float = 0.0  # the last token of the first piece that is spoken for itself
    first: float = 0.0  # sound


async def speak(pipeline: Pipeline, number: int, tokens: int, *, to_the_end: bool = True) -> Heard:
    """Ask for a spoken reply and listen at the speed of playback."""
    heard = Heard(time.perf_counter())

    async def watch(turn: Turn, rest: Next) -> AsyncGenerator[Event]:
        splitter, length, times = SentenceSplitter(), 0, []
        async for event in rest(turn):
            if isinstance(event, TextDelta):
                length += len(event.text)
                times.append((length, time.perf_counter()))
                for piece in splitter.feed(event.text):
                    end = len(piece.text.rstrip())
                    heard.written = heard.written or next(at for reached, at in times if reached >= end)
            yield event

    messages = (Message("user", QUESTIONS[number % len(QUESTIONS)]),)
    turn = Turn(f"{number}-{heard.asked}", messages, Sampling(max_tokens=tokens), speech=Speech())
    async with flow(turn, (pipeline.stages[0], watch, pipeline.stages[-1])) as events:
        async for event in events:
            if isinstance(event, AudioDelta) and event.pcm and not heard.first:
                heard.first = time.perf_counter()
                if not to_the_end:
                    break
    heard.written = heard.written or heard.first  # a reply of one piece, that ended with the reply
    return heard


async def gaps(pipeline: Pipeline, number: int) -> list[float]:
    """Seconds between the tokens of a reply in text."""
    found: list[float] = []
    last = 0.0
    sampling = Sampling(max_tokens=TEXT_TOKENS, ignore_eos=True)
    messages = (Message("user", QUESTIONS[number % len(QUESTIONS)]),)
    async with flow(Turn(f"text-{number}-{time.perf_counter()}", messages, sampling), pipeline.stages[-1:]) as events:
        async for event in events:
            if isinstance(event, TextDelta):
                now = time.perf_counter()
                if last:
                    found.append((now - last) / event.tokens)
                last = now
    return found


async def interruptions(server: str) -> tuple[list[float], list[float]]:
    """Seconds from a cancel to the last sound that came behind it, 0 where none did, and to ``response.done``."""
    chance = random.Random(0)
    sounds: list[float] = []
    dones: list[float] = []
    async with aiohttp.ClientSession() as http, http.ws_connect(f"{server}/v1/realtime") as socket:
        for number in range(INTERRUPTIONS):
            content = [{"type": "input_text", "text": QUESTIONS[number % len(QUESTIONS)]}]
            item = {"type": "message", "role": "user", "content": content}
            await socket.send_json(
                {
                    "type": "response.create",
                    "response": {"conversation": "none", "input": [item], "output_modalities": ["audio"]},
                }
            )
            cancel = time.perf_counter() + chance.uniform(0.1, 2.5)
            cancelled, last = 0.0, 0.0
            response = ""
            while True:
                left = cancel - time.perf_counter()
                if not cancelled and left <= 0 and response:
                    await socket.send_json({"type": "response.cancel", "response_id": response})
                    cancelled = time.perf_counter()
                try:
                    event = await socket.receive_json(timeout=30 if cancelled else max(left, 0.001))
                except TimeoutError:
                    continue
                if event["type"] == "response.created":
                    response = event["response"]["id"]
                elif event["type"] == "response.output_audio.delta" and cancelled:
                    last = time.perf_counter()
                elif event["type"] == "response.done":
                    break
            if cancelled:
                sounds.append(max(last - cancelled, 0.0))
                dones.append(time.perf_counter() - cancelled)
            await asyncio.sleep(0.2)
    return sounds, dones


async def measure(progress: Progress, figures: Figures, settings: SpeechSettings) -> list[tuple[str, str, str]]:
    """The rows of the table: what, the figure, the goal. Those that have a goal go into ``figures`` too."""
    task = progress.add_task("loading", total=6)
    pipeline = build({"speech": settings, "chat": ChatSettings()})
    await pipeline.start(lambda step: None)
    speech = pipeline.find(SpeechStage)
    assert speech is not None
    workers = speech.workers
    rows: list[tuple[str, str, str]] = []

    def step(text: str) -> None:
        progress.update(task, advance=1, description=text)

    step("real-time factor")
    factors: list[float] = []
    for number in range(REPLIES):
        busy, spoken = workers.busy_seconds, workers.spoken_seconds
        async for _ in speech.read(SENTENCES[number % len(SENTENCES)], Speech()):
            pass
        factors.append((workers.busy_seconds - busy) / (workers.spoken_seconds - spoken))
    figures["factor"] = statistics.median(factors)
    rows.append(("real-time factor, median of 20 sentences", f"{figures['factor']:.3f}", stated("speech/factor")))

    step("first sound")
    replies = [await speak(pipeline, number, 80, to_the_end=False) for number in range(REPLIES)]
    behind = [reply.first - reply.written for reply in replies]
    asked = [reply.first - reply.asked for reply in replies]
    figures["first"] = percentile(behind, 0.5)
    what = "first sound after the first sentence's last token, median of 20"
    rows.append((what, f"{figures['first']:.0f} ms", stated("speech/first")))
    rows.append(("the same, 95th percentile", f"{percentile(behind, 0.95):.0f} ms", ""))
    rows.append(("first sound after the question, median", f"{percentile(asked, 0.5):.0f} ms", ""))

    step("the model alone and beside speech")
    alone = [gap for number in range(ALONE) for gap in await gaps(pipeline, number)]
    talking = asyncio.create_task(_talk(pipeline))
    await asyncio.sleep(0.2)
    beside = [gap for number in range(BESIDE) for gap in await gaps(pipeline, number)]
    talking.cancel()
    await asyncio.gather(talking, return_exceptions=True)
    one, two = percentile(alone, 0.99), percentile(beside, 0.99)
    figures["beside"] = two / one
    rows.append(("between tokens of a text reply, p99, alone", f"{one:.1f} ms", ""))
    rows.append(("the same beside one that is spoken", f"{two:.1f} ms, {two / one:.2f} ×", stated("speech/beside")))

    step(f"{SESSIONS} sessions")
    before, busy, spoken = speech.underruns, workers.busy_seconds, workers.spoken_seconds
    many = await asyncio.gather(*(speak(pipeline, number, 100) for number in range(SESSIONS)))
    seconds = workers.spoken_seconds - spoken
    what = f"{SESSIONS} sessions spoken to at once, {seconds:.0f} s of sound: underruns"
    figures["underruns"] = speech.underruns - before
    rows.append((what, f"{speech.underruns - before}", stated("speech/underruns")))
    rows.append(("real-time factor meanwhile, beside the model", f"{(workers.busy_seconds - busy) / seconds:.3f}", ""))
    firsts = [reply.first - reply.asked for reply in many]
    rows.append(
        ("their first sound, median and last", f"{percentile(firsts, 0.5):.0f}, {percentile(firsts, 1.0):.0f} ms", "")
    )
    await pipeline.close()

    step("interruptions")
    server = loquent()
    server = replace(server, environment={**server.environment, "LOQUENT__SPEECH__ENGINE": settings.engine})
    async with serving(server, results.LOG) as serves:
        late, dones = await interruptions(serves.server.url)
    figures["cancel"] = percentile(late, 0.95)
    what = f"from a cancel to the last sound, p95 of {len(late)}"
    rows.append((what, f"{figures['cancel']:.1f} ms", stated("speech/cancel")))
    rows.append(("the same, the latest", f"{percentile(late, 1.0):.1f} ms", ""))
    rows.append(("from a cancel to response.done, p95", f"{percentile(dones, 0.95):.1f} ms", ""))
    step("done")
    return rows


async def _talk(pipeline: Pipeline) -> None:
    number = 0
    while True:
        await speak(pipeline, number, 150)
        number += 1


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("piper", "kokoro"), default="piper")
    settings = SpeechSettings(engine=parser.parse_args().engine)
    results.FOLDER.mkdir(parents=True, exist_ok=True)
    figures: Figures = {}
    with Progress(transient=True) as progress:
        rows = asyncio.run(measure(progress, figures, settings))
    table = results.table(["measure", "figure", "goal"], rows)
    name = "speech" if settings.engine == "piper" else f"speech-{settings.engine}"
    results.show(name, f"## Speech\n\n{results.head('speech', settings.voice)}\n\n{table}", figures)


if __name__ == "__main__":
    main()
