"""LangChain: an agent with a function, structured output, streaming and embeddings."""

from collections.abc import Iterator
from typing import Any

from cases import INSTRUCTIONS, QUESTION, Weather, report
from langchain.agents import create_agent
from langchain.agents.structured_output import ToolStrategy
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field


class City(BaseModel):
    """A city and its country."""

    name: str = Field(description="The city's name")
    country: str


class Report(BaseModel):
    """The weather as it was found."""

    city: str
    weather: str


def _model(address: str, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(model="gpt-4o-mini", base_url=f"{address}/v1", api_key="none", max_retries=0, **options)


def _tool(weather: Weather) -> Any:
    @tool
    def get_weather(city: str) -> str:
        """Get the current weather of a city."""
        return weather(city)

    return get_weather


def _question() -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": QUESTION}]}


def _agent(address: str, **options: Any) -> dict[str, Any]:
    weather = Weather()
    agent = create_agent(_model(address, **options), tools=[_tool(weather)], system_prompt=INSTRUCTIONS)
    messages = agent.invoke(_question())["messages"]
    return {"calls": weather.calls, "text": messages[-1].text, "kinds": [message.type for message in messages]}


def agent_chat(address: str) -> dict[str, Any]:
    return _agent(address)


def agent_responses(address: str) -> dict[str, Any]:
    return _agent(address, use_responses_api=True)


def agent_continued(address: str) -> dict[str, Any]:
    return _agent(address, use_responses_api=True, use_previous_response_id=True)


def agent_streamed(address: str) -> dict[str, Any]:
    weather = Weather()
    agent = create_agent(_model(address), tools=[_tool(weather)], system_prompt=INSTRUCTIONS)
    chunks: Iterator[Any] = agent.stream(_question(), stream_mode="messages")
    texts = [chunk.text for chunk, _ in chunks if chunk.type == "AIMessageChunk" and chunk.text]
    return {"calls": weather.calls, "text": "".join(texts), "chunks": len(texts)}


def agent_typed(address: str) -> dict[str, Any]:
    agent = create_agent(_model(address), tools=[], system_prompt=INSTRUCTIONS, response_format=City)
    told = agent.invoke({"messages": [{"role": "user", "content": "The capital of France."}]})["structured_response"]
    assert isinstance(told, City)
    return told.model_dump()


def agent_typed_with_function(address: str) -> dict[str, Any]:
    """Every step must call a function, the last one that of the output."""
    weather = Weather()
    agent = create_agent(
        _model(address), tools=[_tool(weather)], system_prompt=INSTRUCTIONS, response_format=ToolStrategy(Report)
    )
    told = agent.invoke(_question(), {"recursion_limit": 12})["structured_response"]
    assert isinstance(told, Report)
    return {"calls": weather.calls, "output": told.model_dump()}


def _structured(address: str, method: str, **options: Any) -> dict[str, Any]:
    model = _model(address, **options).with_structured_output(City, method=method)
    told = model.invoke("The capital of France, as JSON with name and country.")
    assert isinstance(told, City)
    return told.model_dump()


def schema_chat(address: str) -> dict[str, Any]:
    return _structured(address, "json_schema")


def schema_responses(address: str) -> dict[str, Any]:
    return _structured(address, "json_schema", use_responses_api=True)


def schema_by_function(address: str) -> dict[str, Any]:
    return _structured(address, "function_calling")


def required(address: str) -> list[dict[str, Any]]:
    model = _model(address).bind_tools([_tool(Weather())], tool_choice="any")
    return [{"name": call["name"], "args": call["args"]} for call in model.invoke(QUESTION).tool_calls]


async def streamed_events(address: str) -> list[str]:
    stream = _model(address).astream_events("What is the capital of France?", version="v2")
    return [event["event"] async for event in stream]


def completion(address: str) -> str:
    model = OpenAI(
        model="gpt-3.5-turbo-instruct", base_url=f"{address}/v1", api_key="none", temperature=0, max_tokens=16
    )
    return model.invoke("The capital of France is")


def embeddings(address: str) -> dict[str, int]:
    model = OpenAIEmbeddings(
        model="text-embedding-3-small", base_url=f"{address}/v1", api_key="none", check_embedding_ctx_length=False
    )
    vectors = model.embed_documents([f"Number {number}. " * 170 for number in range(40)])  # 80 KB
    return {"count": len(vectors), "length": len(vectors[0])}


report(
    agent_chat,
    agent_responses,
    agent_continued,
    agent_streamed,
    agent_typed,
    agent_typed_with_function,
    schema_chat,
    schema_responses,
    schema_by_function,
    required,
    streamed_events,
    completion,
    embeddings,
)
