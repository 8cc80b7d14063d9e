"""LiteLLM: chat completions with a function, streaming, a typed answer, Responses, embeddings."""

import json
from typing import Any

import litellm
from cases import INSTRUCTIONS, QUESTION, Weather, report
from pydantic import BaseModel


class City(BaseModel):
    """A city and its country."""

    name: str
    country: str


def _to(address: str) -> dict[str, Any]:
    return {"model": "openai/gpt-4o-mini", "api_base": f"{address}/v1", "api_key": "none", "num_retries": 0}


def _tools() -> list[Any]:
    function = {"name": Weather.name, "description": Weather.description, "parameters": Weather.parameters}
    return [{"type": "function", "function": function}]


def _messages() -> list[Any]:
    return [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": QUESTION}]


def chat(address: str) -> dict[str, Any]:
    weather, messages = Weather(), _messages()
    told: Any = litellm.completion(messages=messages, tools=_tools(), tool_choice="required", **_to(address))
    messages.append(told.choices[0].message)
    for call in told.choices[0].message.tool_calls:
        result = weather(**json.loads(call.function.arguments))
        messages.append({"role": "tool", "tool_call_id": call.id, "name": call.function.name, "content": result})
    told = litellm.completion(messages=messages, tools=_tools(), **_to(address))
    return {"calls": weather.calls, "text": told.choices[0].message.content}


async def streamed(address: str) -> dict[str, Any]:
    weather, messages = Weather(), _messages()
    stream: Any = await litellm.acompletion(
        messages=messages, tools=_tools(), tool_choice="required", stream=True, **_to(address)
    )
    told: Any = litellm.stream_chunk_builder([chunk async for chunk in stream], messages=messages)
    messages.append(told.choices[0].message)
    for call in told.choices[0].message.tool_calls:
        result = weather(**json.loads(call.function.arguments))
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    stream = await litellm.acompletion(messages=messages, tools=_tools(), stream=True, **_to(address))
    texts = [chunk.choices[0].delta.content async for chunk in stream if chunk.choices[0].delta.content]
    return {"calls": weather.calls, "text": "".join(texts), "chunks": len(texts)}


def typed(address: str) -> dict[str, Any]:
    told: Any = litellm.completion(
        messages=[{"role": "user", "content": "The capital of France."}], response_format=City, **_to(address)
    )
    return City.model_validate_json(told.choices[0].message.content).model_dump()


def reasoning(address: str) -> str:
    """What is sent to a model that reasons."""
    options = _to(address) | {"model": "openai/gpt-5-mini"}
    told: Any = litellm.completion(
        messages=[*_messages()[:1], {"role": "user", "content": "Hello."}],
        reasoning_effort="low",
        verbosity="low",
        **options,
    )
    return told.choices[0].message.content


def responses(address: str) -> str:
    told: Any = litellm.responses(input="What is the capital of France?", max_output_tokens=40, **_to(address))
    return "".join(part.text for item in told.output if item.type == "message" for part in item.content)


def embeddings(address: str) -> int:
    options = _to(address) | {"model": "openai/text-embedding-3-small"}
    return len(litellm.embedding(input=["Good morning."], **options).data[0]["embedding"])


report(chat, streamed, typed, reasoning, responses, embeddings)
