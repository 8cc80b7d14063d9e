"""Instructor: typed answers by functions and by a schema, whole and in parts."""

from typing import Any

import instructor
from cases import report
from openai import OpenAI
from pydantic import BaseModel


class City(BaseModel):
    """A city and its country."""

    name: str
    country: str


MESSAGES: list[Any] = [{"role": "user", "content": "The capital of France."}]


def _client(address: str, mode: instructor.Mode) -> Any:
    return instructor.from_openai(OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0), mode=mode)


def _typed(address: str, mode: instructor.Mode, model: str = "gpt-4o-mini") -> dict[str, Any]:
    told = _client(address, mode).chat.completions.create(
        model=model, messages=MESSAGES, response_model=City, max_retries=1
    )
    assert isinstance(told, City)
    return told.model_dump()


def tools(address: str) -> dict[str, Any]:
    return _typed(address, instructor.Mode.TOOLS)


def tools_strict(address: str) -> dict[str, Any]:
    return _typed(address, instructor.Mode.TOOLS_STRICT)


def json_schema(address: str) -> dict[str, Any]:
    return _typed(address, instructor.Mode.JSON_SCHEMA)


def responses(address: str) -> dict[str, Any]:
    return _typed(address, instructor.Mode.RESPONSES_TOOLS, "gpt-5-mini")


def partial(address: str) -> dict[str, Any]:
    parts = list(
        _client(address, instructor.Mode.TOOLS).chat.completions.create_partial(
            model="gpt-4o-mini", messages=MESSAGES, response_model=City
        )
    )
    return {"parts": len(parts), "last": parts[-1].model_dump()}


report(tools, tools_strict, json_schema, responses, partial)
