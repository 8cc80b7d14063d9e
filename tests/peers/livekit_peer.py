"""LiveKit's agents: a session of text with a function, the model being its plugin's chat, Responses or Realtime."""

import asyncio
import time
from typing import Any

from cases import INSTRUCTIONS, QUESTION, Weather, report
from livekit import rtc
from livekit.agents import Agent, AgentSession, function_tool
from livekit.agents.utils import http_context
from livekit.agents.voice import io
from livekit.plugins import openai
from microphone import RATE, microphone, until


def _agent(weather: Weather) -> Agent:
    class Assistant(Agent):
        def __init__(self) -> None:
            super().__init__(instructions=INSTRUCTIONS)

        @function_tool
        async def get_weather(self, city: str) -> str:
            """Get the current weather of a city."""
            return weather(city)

    return Assistant()


async def _loop(model: Any) -> dict[str, Any]:
    weather = Weather()
    errors: list[str] = []
    async with http_context.open(), AgentSession(llm=model) as session:
        session.on("error", lambda event: errors.append(str(event.error)))
        await session.start(_agent(weather))
        told = await session.run(user_input=QUESTION)
    items = [event.item for event in told.events]
    texts = [item.text_content for item in items if item.type == "message" and item.role == "assistant"]
    kinds = [item.type for item in items]
    return {"calls": weather.calls, "text": (texts or [""])[-1] or "", "errors": errors, "kinds": kinds}


async def chat(address: str) -> dict[str, Any]:
    return await _loop(openai.LLM(model="gpt-4o-mini", base_url=f"{address}/v1", api_key="none"))


async def responses(address: str) -> dict[str, Any]:
    model = openai.responses.LLM(model="gpt-4.1", base_url=f"{address}/v1", api_key="none", use_websocket=False)
    return await _loop(model)


async def realtime(address: str) -> dict[str, Any]:
    model = openai.realtime.RealtimeModel(
        base_url=f"{address}/v1", api_key="none", modalities=["text"], turn_detection=None
    )
    return await _loop(model)


class Ear(io.AudioInput):
    """What the microphone sends, as the session's input."""

    def __init__(self) -> None:
        super().__init__(label="microphone")
        self._frames: asyncio.Queue[rtc.AudioFrame] = asyncio.Queue()

    async def send(self, pcm: bytes) -> None:
        await self._frames.put(rtc.AudioFrame(pcm, RATE, 1, len(pcm) // 2))

    async def __anext__(self) -> rtc.AudioFrame:
        return await self._frames.get()


class Loudspeaker(io.AudioOutput):
    """Plays at the speed of sound, to nobody; stops where the session says so."""

    def __init__(self) -> None:
        super().__init__(label="loudspeaker", capabilities=io.AudioOutputCapabilities(pause=False), sample_rate=RATE)
        self.seconds = 0.0  # of sound that came
        self.interrupted = 0
        self._begun = 0.0
        self._length = 0.0
        self._playing: asyncio.Task[None] | None = None

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        await super().capture_frame(frame)
        if not self._length:
            self._begun = time.monotonic()
        self._length += frame.duration
        self.seconds += frame.duration

    def flush(self) -> None:
        super().flush()
        if self._length and self._playing is None:
            self._playing = asyncio.create_task(self._play())

    def clear_buffer(self) -> None:
        if not self._length:
            return
        played = min(time.monotonic() - self._begun, self._length)
        self._finish(played, interrupted=played < self._length)

    async def _play(self) -> None:
        await asyncio.sleep(max(self._begun + self._length - time.monotonic(), 0))
        self._playing = None
        self._finish(self._length, interrupted=False)

    def _finish(self, played: float, *, interrupted: bool) -> None:
        if self._playing is not None:
            self._playing.cancel()
            self._playing = None
        self._length = 0.0
        self.interrupted += interrupted
        self.on_playback_finished(playback_position=played, interrupted=interrupted)


async def conversation(address: str) -> dict[str, Any]:
    """A spoken conversation: a question that needs the function, another one, and an interruption of its answer."""
    weather = Weather()
    errors: list[str] = []
    heard: list[str] = []
    ear, loudspeaker = Ear(), Loudspeaker()
    model = openai.realtime.RealtimeModel(base_url=f"{address}/v1", api_key="none")

    def failed(event: Any) -> None:
        # It cancels what the server has cancelled for the interruption already, with OpenAI's too.
        if "response_cancel_not_active" not in str(event.error):
            errors.append(str(event.error))

    async with http_context.open(), AgentSession(llm=model) as session:
        session.on("error", failed)
        session.on("user_input_transcribed", lambda event: heard.append(event.transcript))
        session.input.audio, session.output.audio = ear, loudspeaker
        await session.start(_agent(weather))
        async with microphone(ear.send) as opened:
            opened.say("weather")
            await until(lambda: bool(weather.calls and loudspeaker.seconds))
            await asyncio.sleep(5)  # the answer is being played
            before = loudspeaker.seconds
            opened.say("story")
            await until(lambda: loudspeaker.seconds > before + 2)
            opened.say("stop")
            await until(lambda: bool(loudspeaker.interrupted or errors))
    return {
        "calls": weather.calls,
        "heard": heard,
        "errors": errors,
        "sound": loudspeaker.seconds,
        "interrupted": loudspeaker.interrupted,
    }


report(chat, responses, realtime, conversation)
