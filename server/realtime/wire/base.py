"""The base of every wire type, and the error for an invalid message."""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from server.errors import first_problem

Id = Annotated[str, Field(min_length=1, max_length=128)]
Modality = Literal["text", "audio"]
MaxTokens = Annotated[int, Field(ge=1)] | Literal["inf"]


class WireError(Exception):
    """A message that is not a valid client event."""

    def __init__(self, code: str, message: str, *, param: str | None = None, event_id: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.event_id = event_id


class Wire(BaseModel):
    """A type that is read from or written to the socket: frozen and strict; unknown fields are dropped."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class Sparse(Wire):
    """Fields that are None are left out, as the clients' types require."""

    @model_serializer(mode="wrap")
    def _drop_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value is not None}


def explain(error: ValidationError, *, event_id: str | None = None, above: str = "") -> WireError:
    """The first validation error as a WireError; ``above`` prefixes its path."""
    code, param, message = first_problem(error, above=above)
    return WireError(code, message, param=param, event_id=event_id)


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """``above`` merged into ``below``, object by object; any other value, also ``null``, replaces the old one."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
