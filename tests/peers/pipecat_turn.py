"""Two text turns through Pipecat's own realtime service, unmodified; prints the replies as JSON.

Runs in an environment of its own: pipecat_turn.py WEBSOCKET_URL
"""

import asyncio
import json
import sys

from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    Frame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMTextFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.openai.realtime import events
from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService
from pipecat.workers.runner import WorkerRunner

SECONDS = 60.0
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


async def main(url: str) -> None:
    properties = events.SessionProperties(
        output_modalities=["text"],
        audio=events.AudioConfiguration(
            input=events.AudioInput(turn_detection=events.TurnDetection()), output=events.AudioOutput(voice="joe")
        ),
    )
    service = OpenAIRealtimeLLMService(
        api_key="none",
        base_url=url,
        settings=OpenAIRealtimeLLMService.Settings(
            system_instruction="You are a helpful assistant.", session_properties=properties
        ),
        start_audio_paused=True,
    )
    listener = Listener()
    worker = PipelineWorker(Pipeline([service, listener]), enable_rtvi=False, idle_timeout_secs=None)
    errors: list[str] = []

    @worker.event_handler("on_pipeline_error")
    async def on_error(_: PipelineWorker, frame: ErrorFrame) -> None:
        errors.append(frame.error)
        await listener.done.put("")

    async def talk() -> None:
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
        await worker.queue_frame(EndFrame())

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    async with asyncio.timeout(SECONDS):
        await asyncio.gather(runner.run(), talk())
    print(json.dumps({"replies": listener.replies, "errors": errors}))


asyncio.run(main(sys.argv[1]))
