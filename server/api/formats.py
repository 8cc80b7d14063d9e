"""What a reply's text must be, in the forms that clients send: OpenAI's, and those of vLLM."""

import json
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError, from_json

from pipelines.events import Format
from server.api import requests
from server.errors import ApiError

Source = Annotated[str, Field(min_length=1)]
Choices = Annotated[list[str], Field(min_length=1, max_length=1000, fail_fast=True)]

# Accepted and without effect: they choose a library, or how white space is written.
IGNORED_FORMATS: dict[str, requests.Harmless] = {"guided_whitespace_pattern": "any", "guided_decoding_backend": "any"}


def _as_schema(given: Any) -> Any:
    """vLLM takes a schema as a text, too."""
    if not isinstance(given, str):
        return given
    try:
        return from_json(given, allow_inf_nan=False)
    except ValueError as error:
        raise PydanticCustomError("schema", "is not JSON: {error}", {"error": str(error)}) from None


AnySchema = Annotated[dict[str, Any], BeforeValidator(_as_schema, json_schema_input_type=str | dict[str, Any])]


class JsonSchema(BaseModel):
    """``response_format.json_schema``."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", populate_by_name=False)

    definition: dict[str, Any] = Field(alias="schema")
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """``response_format`` of chat completions."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = Field(default=None, validate_default=True)
    definition: dict[str, Any] | None = Field(default=None, alias="schema")  # llama.cpp has it beside json_object

    @field_validator("json_schema")
    @classmethod
    def _complete(cls, given: JsonSchema | None, info: ValidationInfo) -> JsonSchema | None:
        if given is None and info.data.get("type") == "json_schema":
            raise PydanticCustomError("missing", "Field required")
        return given

    def format(self) -> Format | None:
        """The pipeline's form; None where any text will do."""
        if self.type == "json_schema" and self.json_schema:
            asked = self.json_schema
            return schema_format(asked.definition, "response_format.json_schema.schema", strict=bool(asked.strict))
        if self.type == "json_object":
            if self.definition is not None:
                return schema_format(self.definition, "response_format.schema")
            return Format("json", param="response_format")
        return None


class TextFormat(BaseModel):
    """``text.format`` of responses: the same, flat."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    definition: dict[str, Any] | None = Field(default=None, alias="schema")

    @model_validator(mode="before")
    @classmethod
    def _with_schema(cls, data: Any) -> Any:
        """A schema that is missing is missing under its own name."""
        return {"schema": None} | data if isinstance(data, dict) else data

    @field_validator("definition")
    @classmethod
    def _complete(cls, given: dict[str, Any] | None, info: ValidationInfo) -> dict[str, Any] | None:
        if given is None and info.data.get("type") == "json_schema":
            raise PydanticCustomError("missing", "Field required")
        return given

    def format(self) -> Format | None:
        """The pipeline's form; None where any text will do."""
        if self.definition is not None and self.type != "text":
            return schema_format(self.definition, "text.format.schema", strict=bool(self.strict))
        return Format("json", param="text.format") if self.type == "json_object" else None

    def echo(self) -> dict[str, Any]:
        """The format as a response repeats it."""
        if self.type != "json_schema":
            return {"type": self.type}
        return {
            "type": "json_schema",
            "name": self.name or "response",
            "description": self.description,
            "schema": self.definition,
            "strict": bool(self.strict),
        }


class StructuredOutputs(BaseModel):
    """vLLM's ``structured_outputs``."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    definition: AnySchema | None = Field(default=None, alias="json")
    regex: Source | None = None
    choice: Choices | None = None
    grammar: Source | None = None
    json_object: bool | None = None
    structural_tag: None = None


class FormatFields(BaseModel):
    """The parameters that other servers have."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    guided_json: AnySchema | None = None
    guided_regex: Source | None = None
    guided_choice: Choices | None = None
    guided_grammar: Source | None = None
    structured_outputs: StructuredOutputs | None = None

    def format(self, above: Format | None = None) -> Format | None:
        """The one that is asked for, among them ``above``. Raises: ApiError 400 where there are several."""
        asked = [above] if above else []
        asked += _of(self.guided_json, self.guided_regex, self.guided_choice, self.guided_grammar, "guided_{}")
        own = self.structured_outputs
        if own:
            asked += _of(own.definition, own.regex, own.choice, own.grammar, "structured_outputs.{}")
            if own.json_object:
                asked.append(Format("json", param="structured_outputs.json_object"))
        if len(asked) > 1:
            both = " and ".join(each.param for each in asked[:2])
            raise ApiError(400, "invalid_value", f"{asked[1].param}: give one format, not {both}.", asked[1].param)
        return asked[0] if asked else None


def _of(
    definition: dict[str, Any] | None, regex: str | None, choice: list[str] | None, grammar: str | None, names: str
) -> list[Format]:
    found: list[Format] = []
    if definition is not None:
        found.append(schema_format(definition, names.format("json")))
    if regex is not None:
        found.append(Format("regex", regex, names.format("regex")))
    if choice is not None:
        found.append(Format("regex", "|".join(map(_literal, choice)), names.format("choice")))
    if grammar is not None:
        found.append(Format("lark", grammar, names.format("grammar")))
    return found


def schema_format(definition: dict[str, Any], param: str, *, strict: bool = False) -> Format:
    """The format of what a JSON schema allows; ``strict``: what can't be enforced of it is an error."""
    return Format("json_schema", json.dumps(definition, ensure_ascii=False), param, strict)


def _literal(text: str) -> str:
    """An expression for this text, in what every dialect understands."""
    return re.sub(r"[\\.+*?()|\[\]{}^$]", r"\\\g<0>", text)
