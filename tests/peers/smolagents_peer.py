"""smolagents: an agent that calls functions, which has its answer given by a function too."""

from typing import Any

from cases import QUESTION, Weather, report
from smolagents import LogLevel, OpenAIModel, Tool, ToolCallingAgent


def _tool(weather: Weather) -> Tool:
    class GetWeather(Tool):
        name = weather.name
        description = weather.description
        inputs = {"city": {"type": "string", "description": "The name of the city."}}  # noqa: RUF012 - as they want it
        output_type = "string"

        def forward(self, city: str) -> str:
            return weather(city)

    return GetWeather()


def _model(address: str) -> OpenAIModel:
    return OpenAIModel(
        model_id="gpt-4o-mini", api_base=f"{address}/v1", api_key="none", client_kwargs={"max_retries": 0}
    )


def agent(address: str) -> dict[str, Any]:
    weather = Weather()
    made = ToolCallingAgent(tools=[_tool(weather)], model=_model(address), max_steps=3, verbosity_level=LogLevel.OFF)
    answer = made.run(QUESTION)
    errors = [str(step.error) for step in made.memory.steps if getattr(step, "error", None)]
    names = [call.name for step in made.memory.steps for call in getattr(step, "tool_calls", None) or []]
    return {"calls": weather.calls, "text": str(answer), "errors": errors, "names": names}


def generated(address: str) -> str:
    message = _model(address).generate([{"role": "user", "content": [{"type": "text", "text": "Say hello."}]}])
    return message.content


def streamed(address: str) -> int:
    stream = _model(address).generate_stream([{"role": "user", "content": [{"type": "text", "text": "Say hello."}]}])
    return len([delta for delta in stream if delta.content])


report(agent, generated, streamed)
