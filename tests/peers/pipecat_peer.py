"""Pipecat's own realtime service: text turns, and a function; and its service for chat completions with a function."""

import asyncio
from typing import Any

from cases import INSTRUCTIONS, QUESTION, Weather, report
from microphone import RATE, microphone, until
from pipecat.adapters.schemas.function_schema import FunctionSchema
from pipecat.adapters.schemas.tools_schema import ToolsSchema
from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    InterruptionFrame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMTextFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.services.openai.realtime import events
from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService
from pipecat.workers.runner import WorkerRunner

QUESTIONS = ("Name the capital of France.", "Name the capital of Italy.")


class Listener(FrameProcessor):
    """Collects the text of each reply."""

    def __init__(self) -> None:
        super().__init__()
        self.replies: list[str] = []
        self.done: asyncio.Queue[str] = asyncio.Queue()
        self._text = ""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, LLMTextFrame):
            self._text += frame.text
        elif isinstance(frame, LLMFullResponseEndFrame):
            await self.done.put(self._text)
            self._text = ""
        await self.push_frame(frame, direction)


def _realtime(address: str) -> OpenAIRealtimeLLMService:
    properties = events.SessionProperties(
        output_modalities=["text"],
        audio=events.AudioConfiguration(
            input=events.AudioInput(turn_detection=events.TurnDetection()), output=events.AudioOutput(voice="joe")
        ),
    )
    return OpenAIRealtimeLLMService(
        api_key="none",
        base_url=address.replace("http", "ws", 1) + "/v1/realtime",
        settings=OpenAIRealtimeLLMService.Settings(system_instruction=INSTRUCTIONS, session_properties=properties),
        start_audio_paused=True,
    )


async def _run(processors: list[Any], listener: Listener, talk: Any) -> list[str]:
    """Run a pipeline with ``talk(worker)`` beside it; returns the errors of the pipeline."""
    worker = PipelineWorker(Pipeline(processors), enable_rtvi=False, idle_timeout_secs=None)
    errors: list[str] = []

    @worker.event_handler("on_pipeline_error")
    async def on_error(_: PipelineWorker, frame: ErrorFrame) -> None:
        errors.append(frame.error)
        await listener.done.put("")

    async def to_the_end() -> None:
        await talk(worker)
        await worker.queue_frame(EndFrame())

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await asyncio.gather(runner.run(), to_the_end())
    return errors


async def realtime(address: str) -> dict[str, Any]:
    service, listener = _realtime(address), Listener()

    async def talk(worker: PipelineWorker) -> None:
        context = LLMContext([{"role": "user", "content": QUESTIONS[0]}])
        await worker.queue_frame(LLMContextFrame(context))
        listener.replies.append(await listener.done.get())
        # A second turn the way Pipecat has it: the service is asked to take in the messages, then to respond.
        item = events.ConversationItem(
            type="message", role="user", content=[events.ItemContent(type="input_text", text=QUESTIONS[1])]
        )
        await service.send_client_event(events.ConversationItemCreateEvent(item=item))
        await service.send_client_event(
            events.ResponseCreateEvent(response=events.ResponseProperties(output_modalities=["text"]))
        )
        listener.replies.append(await listener.done.get())

    errors = await _run([service, listener], listener, talk)
    return {"replies": listener.replies, "errors": errors}


async def _call(service: Any) -> dict[str, Any]:
    weather, listener = Weather(), Listener()
    schema = FunctionSchema(
        name=weather.name,
        description=weather.description,
        properties=weather.parameters["properties"],
        required=weather.parameters["required"],
    )

    async def get_weather(params: Any) -> None:
        await params.result_callback({"weather": weather(**params.arguments)})

    service.register_function(weather.name, get_weather)
    messages: list[Any] = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": QUESTION}]
    context = LLMContext(messages, tools=ToolsSchema(standard_tools=[schema]))
    pair = LLMContextAggregatorPair(context)

    async def talk(worker: PipelineWorker) -> None:
        await worker.queue_frame(LLMContextFrame(context))
        while not weather.calls or not listener.replies or not listener.replies[-1]:
            listener.replies.append(await listener.done.get())

    errors = await _run([pair.user(), service, listener, pair.assistant()], listener, talk)
    return {"calls": weather.calls, "text": listener.replies[-1], "errors": errors}


async def realtime_call(address: str) -> dict[str, Any]:
    return await _call(_realtime(address))


async def chat_call(address: str) -> dict[str, Any]:
    settings = OpenAILLMService.Settings(model="gpt-4o-mini")
    return await _call(OpenAILLMService(api_key="none", base_url=f"{address}/v1", settings=settings))


class Loudspeaker(FrameProcessor):
    """Counts what is to be played, and the interruptions of it."""

    def __init__(self) -> None:
        super().__init__()
        self.sound = 0
        self.interrupted = 0
        self.heard: list[str] = []

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSAudioRawFrame):
            self.sound += len(frame.audio)
        elif isinstance(frame, InterruptionFrame):
            self.interrupted += 1
        await self.push_frame(frame, direction)


class Ear(FrameProcessor):
    """Collects what the service has heard; it sends that upstream."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TranscriptionFrame):
            self.heard.append(frame.text)
        await self.push_frame(frame, direction)


async def conversation(address: str) -> dict[str, Any]:
    """A spoken conversation: a question that needs the function, another one, and an interruption of its answer."""
    weather, ear, listener, loudspeaker = Weather(), Ear(), Listener(), Loudspeaker()
    schema = FunctionSchema(
        name=weather.name,
        description=weather.description,
        properties=weather.parameters["properties"],
        required=weather.parameters["required"],
    )
    properties = events.SessionProperties(
        audio=events.AudioConfiguration(
            input=events.AudioInput(
                transcription=events.InputAudioTranscription(), turn_detection=events.TurnDetection()
            )
        ),
    )
    service = OpenAIRealtimeLLMService(
        api_key="none",
        base_url=address.replace("http", "ws", 1) + "/v1/realtime",
        settings=OpenAIRealtimeLLMService.Settings(system_instruction=INSTRUCTIONS, session_properties=properties),
    )

    async def get_weather(params: Any) -> None:
        await params.result_callback({"weather": weather(**params.arguments)})

    service.register_function(weather.name, get_weather)
    context = LLMContext([], tools=ToolsSchema(standard_tools=[schema]))
    pair = LLMContextAggregatorPair(context)

    async def talk(worker: PipelineWorker) -> None:
        async def send(pcm: bytes) -> None:
            await worker.queue_frame(InputAudioRawFrame(audio=pcm, sample_rate=RATE, num_channels=1))

        await worker.queue_frame(LLMContextFrame(context))
        async with microphone(send) as opened:
            await asyncio.sleep(2)  # its first answer, to nothing, which this service asks for
            opened.say("weather")
            await until(lambda: bool(weather.calls and loudspeaker.sound))
            await asyncio.sleep(5)  # the answer is being played
            before, stopped = loudspeaker.sound, loudspeaker.interrupted
            opened.say("story")
            await until(lambda: loudspeaker.sound > before + 2 * 48_000)
            stopped = loudspeaker.interrupted
            opened.say("stop")
            await until(lambda: loudspeaker.interrupted > stopped)

    errors = await _run([pair.user(), ear, service, listener, loudspeaker, pair.assistant()], listener, talk)
    return {
        "calls": weather.calls,
        "heard": ear.heard,
        "errors": errors,
        "sound": loudspeaker.sound,
        "interrupted": int(loudspeaker.interrupted > 0),
    }


report(realtime, realtime_call, chat_call, conversation)
