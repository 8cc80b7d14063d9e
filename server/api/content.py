"""The text of messages, as a string or as parts. What is no text is refused at its own place in the request."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError, from_json

TEXTS = ("text", "input_text", "output_text", "summary_text")  # the names of parts with a text
UNREADABLE = {
    "image_url": "this model reads no images",
    "input_image": "this model reads no images",
    "image": "this model reads no images",
    "input_audio": "this model reads no audio",
    "audio": "this model reads no audio",
    "video_url": "this model reads no videos",
    "file": "this model reads no files",
    "input_file": "this model reads no files",
}


class Part(BaseModel):
    """A piece of a message's content: a text, or a refusal."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    type: Annotated[str, WithJsonSchema({"type": "string", "enum": [*TEXTS, "refusal"]})]
    text: str | None = None
    refusal: str | None = None

    @model_validator(mode="after")
    def _readable(self) -> "Part":
        if self.type in UNREADABLE:
            raise PydanticCustomError("unsupported_content", "{text}", {"text": UNREADABLE[self.type]})
        if self.type not in (*TEXTS, "refusal"):
            raise PydanticCustomError(
                "unsupported_content", "there is no part of type {type}", {"type": self.type[:80]}
            )
        if self.words is None:
            name = "refusal" if self.type == "refusal" else "text"
            raise PydanticCustomError("missing", "a part of this type needs {name}", {"name": name})
        return self

    @property
    def words(self) -> str | None:
        """Its text."""
        return self.refusal if self.type == "refusal" else self.text


def _as_parts(given: Any) -> Any:
    if isinstance(given, str):
        return [{"type": "text", "text": given}]
    if not isinstance(given, list):
        raise PydanticCustomError("content", "must be a string or a list of parts")
    return given


Parts = Annotated[
    list[Part], Field(fail_fast=True), BeforeValidator(_as_parts, json_schema_input_type=str | list[Part])
]


def text_of(parts: list[Part] | None) -> str:
    """What the parts say together."""
    return "".join(part.words or "" for part in parts or ())


def arguments_of(given: str) -> str:
    """A call's arguments from a history; none are an empty object. Raises: PydanticCustomError where they are none."""
    if not given.strip():
        return "{}"
    try:
        data = from_json(given, allow_inf_nan=False)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise PydanticCustomError("arguments", "must be a JSON object")
    return given
