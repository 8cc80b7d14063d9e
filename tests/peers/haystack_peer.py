"""Haystack: an agent with a function over chat completions and Responses, a typed answer, embeddings of documents."""

from typing import Any

from cases import INSTRUCTIONS, QUESTION, Weather, report
from haystack import Document
from haystack.components.agents import Agent
from haystack.components.embedders import OpenAIDocumentEmbedder
from haystack.components.generators.chat import OpenAIChatGenerator, OpenAIResponsesChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.tools import Tool
from haystack.utils import Secret
from pydantic import BaseModel


class City(BaseModel):
    """A city and its country."""

    name: str
    country: str


def _to(address: str) -> dict[str, Any]:
    return {"api_key": Secret.from_token("none"), "api_base_url": f"{address}/v1", "max_retries": 0}


def _loop(generator: Any, **options: Any) -> dict[str, Any]:
    weather = Weather()
    tool = Tool(name=weather.name, description=weather.description, parameters=weather.parameters, function=weather)
    agent = Agent(chat_generator=generator, tools=[tool], system_prompt=INSTRUCTIONS, **options)
    messages = agent.run(messages=[ChatMessage.from_user(QUESTION)])["messages"]
    return {"calls": weather.calls, "text": messages[-1].text}


def chat(address: str) -> dict[str, Any]:
    return _loop(OpenAIChatGenerator(model="gpt-4o-mini", **_to(address)))


def responses(address: str) -> dict[str, Any]:
    return _loop(OpenAIResponsesChatGenerator(model="gpt-5-mini", **_to(address)))


def streamed(address: str) -> dict[str, Any]:
    chunks: list[str] = []
    told = _loop(
        OpenAIChatGenerator(model="gpt-4o-mini", **_to(address)),
        streaming_callback=lambda chunk: chunks.append(chunk.content),
    )
    return told | {"chunks": len([chunk for chunk in chunks if chunk])}


def typed(address: str) -> dict[str, Any]:
    generator = OpenAIChatGenerator(model="gpt-4o-mini", generation_kwargs={"response_format": City}, **_to(address))
    told = generator.run(messages=[ChatMessage.from_user("The capital of France.")])
    return City.model_validate_json(told["replies"][0].text).model_dump()


def embeddings(address: str) -> dict[str, int]:
    """The case that was answered with documents without embeddings: 32 of 3,000 characters."""
    documents = [Document(content=f"Number {number}. " * 250) for number in range(32)]
    embedder = OpenAIDocumentEmbedder(model="text-embedding-3-small", progress_bar=False, **_to(address))
    told = embedder.run(documents=documents)["documents"]
    return {"embedded": len([document for document in told if document.embedding])}


report(chat, responses, streamed, typed, embeddings)
