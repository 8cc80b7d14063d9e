"""Pydantic AI: a typed output and a function, over chat completions and Responses."""

from typing import Any

from cases import INSTRUCTIONS, QUESTION, Weather, report
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider


class City(BaseModel):
    """A city and its country."""

    name: str
    country: str
    inhabitants: int


class Report(BaseModel):
    """The weather as it was found."""

    city: str
    weather: str


def _chat(address: str) -> Any:
    return OpenAIChatModel("gpt-4o-mini", provider=OpenAIProvider(base_url=f"{address}/v1", api_key="none"))


def _responses(address: str) -> Any:
    return OpenAIResponsesModel("gpt-5-mini", provider=OpenAIProvider(base_url=f"{address}/v1", api_key="none"))


async def _typed(model: Any, output: Any) -> dict[str, Any]:
    told = await Agent(model, output_type=output, instructions=INSTRUCTIONS, retries=0).run("The capital of France.")
    assert isinstance(told.output, City)
    return told.output.model_dump()


async def typed_by_function(address: str) -> dict[str, Any]:
    return await _typed(_chat(address), ToolOutput(City))


async def typed_by_schema(address: str) -> dict[str, Any]:
    return await _typed(_chat(address), NativeOutput(City))


async def typed_responses(address: str) -> dict[str, Any]:
    return await _typed(_responses(address), City)


def _agent(model: Any, weather: Weather) -> Any:
    agent = Agent(model, instructions=INSTRUCTIONS)

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """Get the current weather of a city."""
        return weather(city)

    return agent


async def _loop(model: Any) -> dict[str, Any]:
    weather = Weather()
    told = await _agent(model, weather).run(QUESTION)
    return {"calls": weather.calls, "text": told.output}


async def chat(address: str) -> dict[str, Any]:
    return await _loop(_chat(address))


async def responses(address: str) -> dict[str, Any]:
    return await _loop(_responses(address))


async def _report(model: Any, output: Any) -> dict[str, Any]:
    weather = Weather()
    agent = Agent(model, output_type=output, instructions=INSTRUCTIONS, retries=0)

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """Get the current weather of a city."""
        return weather(city)

    told = await agent.run(QUESTION)
    assert isinstance(told.output, Report)
    return {"calls": weather.calls, "output": told.output.model_dump()}


async def typed_with_function(address: str) -> dict[str, Any]:
    """Every step must call a function, the last one that of the output."""
    return await _report(_chat(address), ToolOutput(Report))


async def typed_with_function_responses(address: str) -> dict[str, Any]:
    return await _report(_responses(address), ToolOutput(Report))


async def schema_with_function(address: str) -> dict[str, Any]:
    return await _report(_chat(address), NativeOutput(Report))


async def streamed(address: str) -> dict[str, Any]:
    weather = Weather()
    async with _agent(_responses(address), weather).run_stream(QUESTION) as stream:
        texts = [text async for text in stream.stream_text(delta=True, debounce_by=None)]
    return {"calls": weather.calls, "text": "".join(texts), "chunks": len(texts)}


report(
    typed_by_function,
    typed_by_schema,
    typed_responses,
    chat,
    responses,
    typed_with_function,
    typed_with_function_responses,
    schema_with_function,
    streamed,
)
