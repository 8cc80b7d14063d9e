"""The validation error that is told of several."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from server.api.embeddings import EmbeddingRequest
from server.api.moderations import ModerationRequest
from server.errors import first_problem


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class Text(Strict):
    type: Literal["text"]
    text: str


class Picture(Strict):
    type: Literal["image_url"]
    image_url: Any

    @model_validator(mode="after")
    def _unread(self) -> "Picture":
        raise PydanticCustomError("unsupported_content", "This model reads no images.")


class Message(Strict):
    role: Literal["user", "assistant"]
    content: str | list[Text | Picture] | None


class Chat(Strict):
    messages: Annotated[list[Message], Field(min_length=1)]
    stop: str | list[str] | None = None
    metadata: dict[str, str] | None = None


IMAGE = {"type": "image_url", "image_url": {"url": "data:"}}
HI = {"role": "user", "content": "Hi"}


def problem_of(kind: type[BaseModel], given: Any) -> tuple[str, str, str]:
    with pytest.raises(ValidationError) as error:
        kind.model_validate(given)
    return first_problem(error.value)


@pytest.mark.parametrize(
    ("kind", "given", "told"),
    [
        (
            Chat,
            {"messages": [{"role": "user", "content": [IMAGE]}]},
            ("unsupported_content", "messages.0.content.0", "This model reads no images."),
        ),
        (
            Chat,
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            ("missing_required_parameter", "messages.0.content.0.text", "Field required"),
        ),
        (
            Chat,
            {"messages": [{"role": "user", "content": 5}]},
            ("invalid_value", "messages.0.content", "Input should be a valid string"),
        ),
        (Chat, {"messages": [HI], "stop": ["a", 5]}, ("invalid_value", "stop.1", "Input should be a valid string")),
        (Chat, {"messages": [HI], "stop": 5}, ("invalid_value", "stop", "Input should be a valid string")),
        (
            Chat,
            {"messages": [HI], "metadata": {"a": 5}},
            ("invalid_value", "metadata.a", "Input should be a valid string"),
        ),
        (
            EmbeddingRequest,
            {"input": ["a", ""]},
            ("invalid_value", "input.1", "String should have at least 1 character"),
        ),
        (
            EmbeddingRequest,
            {"input": [{"text": "a"}]},
            ("invalid_value", "input.0", "Input should be a valid string"),
        ),
        (ModerationRequest, {"input": [IMAGE]}, ("invalid_value", "input.0.type", "Input should be 'text'")),
        (ModerationRequest, {"input": ""}, ("invalid_value", "input", "String should have at least 1 character")),
        (ModerationRequest, {"input": ["a", 5]}, ("invalid_value", "input.1", "Input should be a valid string")),
    ],
)
def test_of_a_union_the_branch_that_the_value_means_is_reported(
    kind: type[BaseModel], given: Any, told: tuple[str, str, str]
) -> None:
    code, param, message = problem_of(kind, given)
    assert (code, param, message.removeprefix(f"{param}: ")) == told


@pytest.mark.parametrize("tokens", [[1, 2, 3], [[1, 2], [3]]])
def test_token_ids_are_refused_with_what_to_do(tokens: list[Any]) -> None:
    code, param, message = problem_of(EmbeddingRequest, {"input": tokens})
    assert (code, param) == ("unsupported_content", "input")
    assert "check_embedding_ctx_length=False" in message
