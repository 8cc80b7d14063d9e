"""The Agents SDK: a loop over a function, by chat completions, Responses and Realtime."""

import asyncio
from typing import Any

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from agents.realtime import RealtimeAgent, RealtimeRunner
from cases import INSTRUCTIONS, QUESTION, Weather, report
from microphone import microphone
from openai import AsyncOpenAI
from pydantic import BaseModel

set_tracing_disabled(True)


class City(BaseModel):
    """A city and its country."""

    name: str
    country: str


class Report(BaseModel):
    """The weather as it was found."""

    city: str
    weather: str


def _client(address: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def _tool(weather: Weather) -> Any:
    @function_tool
    def get_weather(city: str) -> str:
        """Get the current weather of a city."""
        return weather(city)

    return get_weather


async def _loop(model: Any, *, stream: bool, choice: str | None = "required") -> dict[str, Any]:
    weather = Weather()
    agent = Agent(
        name="assistant",
        instructions=INSTRUCTIONS,
        model=model,
        tools=[_tool(weather)],
        model_settings=ModelSettings(tool_choice=choice),
    )
    if not stream:
        outcome = await Runner.run(agent, QUESTION)
        return {"calls": weather.calls, "text": outcome.final_output}
    streamed = Runner.run_streamed(agent, QUESTION)
    kinds = [getattr(event.data, "type", "") async for event in streamed.stream_events() if hasattr(event, "data")]
    return {"calls": weather.calls, "text": streamed.final_output, "kinds": kinds}


async def chat(address: str) -> dict[str, Any]:
    return await _loop(OpenAIChatCompletionsModel("gpt-4o-mini", _client(address)), stream=False)


async def chat_streamed(address: str) -> dict[str, Any]:
    return await _loop(OpenAIChatCompletionsModel("gpt-4o-mini", _client(address)), stream=True)


async def responses(address: str) -> dict[str, Any]:
    return await _loop(OpenAIResponsesModel("gpt-5-mini", _client(address)), stream=False)


async def responses_streamed(address: str) -> dict[str, Any]:
    return await _loop(OpenAIResponsesModel("gpt-5-mini", _client(address)), stream=True)


async def responses_chosen(address: str) -> dict[str, Any]:
    """Without a ``tool_choice``: the server itself finds that the function fits."""
    return await _loop(OpenAIResponsesModel("gpt-5-mini", _client(address)), stream=False, choice=None)


async def typed(address: str) -> dict[str, Any]:
    model = OpenAIResponsesModel("gpt-5-mini", _client(address))
    agent = Agent(name="assistant", instructions=INSTRUCTIONS, model=model, output_type=City)
    outcome = await Runner.run(agent, "The capital of France.")
    assert isinstance(outcome.final_output, City)
    return outcome.final_output.model_dump()


async def typed_with_function(address: str) -> dict[str, Any]:
    weather = Weather()
    model = OpenAIResponsesModel("gpt-5-mini", _client(address))
    agent = Agent(name="assistant", instructions=INSTRUCTIONS, model=model, tools=[_tool(weather)], output_type=Report)
    outcome = await Runner.run(agent, QUESTION)
    assert isinstance(outcome.final_output, Report)
    return {"calls": weather.calls, "output": outcome.final_output.model_dump()}


async def handed_off(address: str) -> dict[str, Any]:
    model = OpenAIResponsesModel("gpt-5-mini", _client(address))
    spanish = Agent(name="Spanish", instructions="You answer in Spanish.", model=model)
    first = Agent(
        name="first",
        instructions=INSTRUCTIONS,
        model=model,
        handoffs=[spanish],
        model_settings=ModelSettings(tool_choice="required"),
    )
    outcome = await Runner.run(first, "Hola, ¿cómo estás?")
    return {"last": outcome.last_agent.name, "text": outcome.final_output}


async def continued(address: str) -> dict[str, Any]:
    """A second turn that names the first response."""
    model = OpenAIResponsesModel("gpt-5-mini", _client(address))
    agent = Agent(name="assistant", instructions=INSTRUCTIONS, model=model)
    first = await Runner.run(agent, "What is the capital of France?")
    second = await Runner.run(agent, "And of Italy?", previous_response_id=first.last_response_id)
    tokens = [outcome.context_wrapper.usage.input_tokens for outcome in (first, second)]
    return {"texts": [first.final_output, second.final_output], "tokens": tokens}


async def _realtime(address: str, modality: str) -> dict[str, Any]:
    weather = Weather()
    agent = RealtimeAgent(name="assistant", instructions=INSTRUCTIONS, tools=[_tool(weather)])
    settings: Any = {"model_name": "gpt-realtime", "output_modalities": [modality], "tool_choice": "auto"}
    config: Any = {
        "url": address.replace("http", "ws", 1) + "/v1/realtime?model=gpt-realtime",
        "api_key": "none",
        "initial_model_settings": settings,
    }
    kinds: list[str] = []
    errors: list[str] = []
    text = ""
    sound = 0
    session = await RealtimeRunner(agent).run(model_config=config)
    async with session:
        await session.send_message(QUESTION)
        async for event in session:
            kinds.append(event.type)
            if event.type == "error":
                errors.append(str(event.error))
                break
            if event.type == "audio":
                sound += len(event.audio.data)
            if event.type == "history_added" and event.item.type == "message" and event.item.role == "assistant":
                text = "".join(getattr(part, "text", None) or "" for part in event.item.content)
            if event.type == "history_updated":
                said = [item for item in event.history if item.type == "message" and item.role == "assistant"]
                texts = [
                    getattr(p, "text", None) or getattr(p, "transcript", None) or "" for i in said for p in i.content
                ]
                text = "".join(texts)
            if event.type == "agent_end" and weather.calls and text:
                break
    return {"calls": weather.calls, "text": text, "errors": errors, "sound": sound, "kinds": sorted(set(kinds))}


async def conversation(address: str) -> dict[str, Any]:
    """A spoken conversation: a question that needs the function, another one, and an interruption of its answer."""
    weather = Weather()
    agent = RealtimeAgent(name="assistant", instructions=INSTRUCTIONS, tools=[_tool(weather)])
    audio = {"input": {"transcription": {"model": "whisper-1"}, "turn_detection": {"type": "server_vad"}}}
    settings: Any = {"model_name": "gpt-realtime", "output_modalities": ["audio"], "audio": audio}
    config: Any = {
        "url": address.replace("http", "ws", 1) + "/v1/realtime?model=gpt-realtime",
        "api_key": "none",
        "initial_model_settings": settings,
    }
    told: dict[str, Any] = {
        "calls": weather.calls,
        "heard": [],
        "errors": [],
        "kinds": [],
        "interrupted": 0,
        "sound": 0,
    }
    session = await RealtimeRunner(agent).run(model_config=config)
    async with session, microphone(session.send_audio) as opened:
        opened.say("weather")
        asked = False
        async for event in session:
            told["kinds"].append(event.type)
            if event.type == "error":
                told["errors"].append(str(event.error))
                break
            if event.type == "history_updated":
                told["heard"] = [
                    part.transcript
                    for item in event.history
                    if item.type == "message" and item.role == "user"
                    for part in item.content
                    if part.type == "input_audio" and part.transcript
                ]
            if event.type == "agent_end" and weather.calls and told["sound"] and not asked:
                asked = True
                await asyncio.sleep(4)  # the answer is being played
                opened.say("story")
            if event.type == "audio":
                told["sound"] += len(event.audio.data)
                if asked and told["interrupted"] == 0:
                    told["interrupted"] = -1
                    await asyncio.sleep(1.5)
                    opened.say("stop")
            if event.type == "audio_interrupted" and told["interrupted"] == -1:
                told["interrupted"] = 1
                break
    told["kinds"] = sorted(set(told["kinds"]))
    return told


async def realtime(address: str) -> dict[str, Any]:
    return await _realtime(address, "text")


async def realtime_spoken(address: str) -> dict[str, Any]:
    return await _realtime(address, "audio")


report(
    chat,
    chat_streamed,
    responses,
    responses_streamed,
    responses_chosen,
    typed,
    typed_with_function,
    handed_off,
    continued,
    realtime,
    realtime_spoken,
    conversation,
)
