"""LiveKit's agents: a session of text with a function, the model being its plugin's chat, Responses or Realtime."""

from typing import Any

from cases import INSTRUCTIONS, QUESTION, Weather, report
from livekit.agents import Agent, AgentSession, function_tool
from livekit.agents.utils import http_context
from livekit.plugins import openai


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


report(chat, responses, realtime)
