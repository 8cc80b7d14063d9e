"""JSON Schemas of the models as they really are read and written."""

from collections.abc import Iterable, Mapping
from types import NoneType
from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue
from pydantic_core import core_schema

from server.api.requests import Harmless
from server.realtime.wire import Response
from server.realtime.wire.base import Sparse

Json = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"


class _Generator(GenerateJsonSchema):
    """What is sent has each of its fields, but those that its serializer leaves out where they are None."""

    _model: type[Any] = NoneType

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        """See the base class; remembers whose fields follow."""
        outer, self._model = self._model, schema["cls"]
        try:
            found = super().model_schema(schema)
        finally:
            self._model = outer
        if schema["cls"] is Response and self.mode == "serialization":
            found["required"].remove("audio")  # only a spoken response has it
        return found

    def typed_dict_schema(self, schema: core_schema.TypedDictSchema) -> JsonSchemaValue:
        """See the base class; the shapes of responses have no further fields."""
        return {"additionalProperties": False} | super().typed_dict_schema(schema)

    def ser_schema(self, schema: Any) -> JsonSchemaValue | None:
        """See the base class; the serializers of models leave fields out, and change none."""
        return None if schema["type"] == "function-wrap" else super().ser_schema(schema)

    def field_is_required(
        self,
        field: core_schema.ModelField | core_schema.DataclassField | core_schema.TypedDictField,
        total: bool,
    ) -> bool:
        """See the base class."""
        if self.mode == "validation" or not issubclass(self._model, BaseModel):
            return super().field_is_required(field, total)
        value: Any = field["schema"]
        empty = value["type"] == "default" and value.get("default", ...) is None
        return not (empty and issubclass(self._model, Sparse))


def definitions(types: Mapping[str, tuple[Any, JsonSchemaMode]], prefix: str) -> tuple[dict[str, Json], Json]:
    """The schema of each type, and those of all that they consist of, by name.

    ``prefix`` is where the latter will stand, such as ``#/components/schemas/``.
    """
    found, schema = TypeAdapter.json_schemas(
        [(name, mode, TypeAdapter(type)) for name, (type, mode) in types.items()],
        ref_template=prefix + "{model}",
        schema_generator=_Generator,
    )
    return (
        {name: _tidy(each) for (name, _), each in found.items()},
        {name: _tidy(each) for name, each in schema.get("$defs", {}).items()},
    )


def _tidy(schema: Any) -> Any:
    """Without titles, which repeat names, and without fields that are never read or written."""
    if isinstance(schema, list):
        return [_tidy(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    tidy = {key: _tidy(value) for key, value in schema.items() if not (key == "title" and isinstance(value, str))}
    if isinstance(properties := tidy.get("properties"), dict):
        properties.pop("fields_given", None)
    return tidy


def body(schema: Json, ignored: Mapping[str, Harmless], refused: Iterable[str]) -> Json:
    """The schema of a request's body as ``requests.read`` reads it: null stands for what is not given, parameters
    without effect are accepted, and others are refused."""
    required = schema.get("required", [])
    properties = {
        name: each if name in required else _or_null(each) for name, each in schema.get("properties", {}).items()
    }
    for name, harmless in ignored.items():
        properties[name] = {"description": "Accepted, and without effect."} | _values(harmless)
    for name in refused:
        properties[name] = {"type": "null", "description": "Not supported."}
    return schema | {"properties": properties, "additionalProperties": False}


def _values(harmless: Harmless | Literal["any"]) -> Json:
    return {} if harmless == "any" else {"enum": list(harmless)}


def _or_null(schema: Json) -> Json:
    if "anyOf" in schema:
        return schema if {"type": "null"} in schema["anyOf"] else schema | {"anyOf": [*schema["anyOf"], _NULL]}
    return {"anyOf": [schema, _NULL]}


_NULL: Json = {"type": "null"}
