"""The openai package in Python: its helpers over a loop with a function, and every other endpoint once."""

import base64
import json
from typing import Any

import openai
from cases import INSTRUCTIONS, QUESTION, Weather, report
from openai import AsyncOpenAI
from pydantic import BaseModel, Field


class GetWeather(BaseModel):
    """Get the current weather of a city."""

    city: str = Field(description="The name of the city.")


def _client(address: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


async def chat_streamed(address: str) -> dict[str, Any]:
    weather = Weather()
    messages: list[Any] = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": QUESTION}]
    tools = [openai.pydantic_function_tool(GetWeather, name="get_weather")]
    kinds: list[str] = []
    async with _client(address) as client:
        for choice in ("required", "auto"):
            async with client.chat.completions.stream(
                model="gpt-4o-mini", messages=messages, tools=tools, tool_choice=choice
            ) as stream:
                kinds += [event.type async for event in stream]
                message = (await stream.get_final_completion()).choices[0].message
            messages.append(message.to_dict())
            for call in message.tool_calls or []:
                parsed = call.function.parsed_arguments
                assert isinstance(parsed, GetWeather)
                messages.append({"role": "tool", "tool_call_id": call.id, "content": weather(parsed.city)})
    return {"calls": weather.calls, "text": message.content, "kinds": sorted(set(kinds))}


async def conversation(address: str) -> dict[str, Any]:
    """A loop over Responses whose items a conversation holds."""
    weather = Weather()
    options: Any = {
        "model": "gpt-5-mini",
        "instructions": INSTRUCTIONS,
        "tools": [openai.pydantic_function_tool(GetWeather, name="get_weather")["function"] | {"type": "function"}],
    }
    async with _client(address) as client:
        talk = await client.conversations.create()
        told = await client.responses.create(input=QUESTION, conversation=talk.id, tool_choice="required", **options)
        results: Any = [
            {"type": "function_call_output", "call_id": item.call_id, "output": weather(**json.loads(item.arguments))}
            for item in told.output
            if item.type == "function_call"
        ]
        told = await client.responses.create(input=results, conversation=talk.id, **options)
        kinds = [item.type async for item in client.conversations.items.list(talk.id, order="asc")]
        await client.conversations.delete(talk.id)
    return {"calls": weather.calls, "text": told.output_text, "kinds": kinds}


async def realtime(address: str) -> dict[str, Any]:
    weather = Weather()
    text = ""
    tool: Any = {
        "type": "function",
        "name": weather.name,
        "description": weather.description,
        "parameters": weather.parameters,
    }
    async with _client(address) as client, client.realtime.connect(model="gpt-realtime") as connection:
        await connection.session.update(
            session={"type": "realtime", "output_modalities": ["text"], "instructions": INSTRUCTIONS, "tools": [tool]}
        )
        content: Any = [{"type": "input_text", "text": QUESTION}]
        await connection.conversation.item.create(item={"type": "message", "role": "user", "content": content})
        await connection.response.create()
        async for event in connection:
            assert event.type != "error", event
            if event.type == "response.function_call_arguments.done":
                output = weather(**json.loads(event.arguments))
                item: Any = {"type": "function_call_output", "call_id": event.call_id, "output": output}
                await connection.conversation.item.create(item=item)
            elif event.type == "response.output_text.delta":
                text += event.delta
            elif event.type == "response.done":
                if any(item.type == "message" for item in event.response.output or []):
                    break
                await connection.response.create()
    return {"calls": weather.calls, "text": text}


async def picture(address: str) -> str:
    async with _client(address) as client:
        told = await client.images.generate(model="gpt-image-1", prompt="a happy cat", size="1024x1024")
    return base64.b64decode((told.data or [])[0].b64_json or "")[:8].hex()


async def speech(address: str) -> int:
    async with (
        _client(address) as client,
        client.audio.speech.with_streaming_response.create(
            model="gpt-4o-mini-tts", voice="alloy", input="Good morning.", response_format="pcm"
        ) as answer,
    ):
        return sum([len(piece) async for piece in answer.iter_bytes()])


async def moderation(address: str) -> bool:
    async with _client(address) as client:
        told = await client.moderations.create(model="omni-moderation-latest", input="Good morning.")
    return told.results[0].flagged


async def embedding(address: str) -> int:
    async with _client(address) as client:
        told = await client.embeddings.create(model="text-embedding-3-small", input=["Good morning."])
    return len(told.data[0].embedding)


async def models(address: str) -> list[str]:
    async with _client(address) as client:
        return [model.id async for model in client.models.list()]


report(chat_streamed, conversation, realtime, picture, speech, moderation, embedding, models)
