"""Conversation items and their parts."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from server.realtime.wire.base import Id, Sparse

Rating = Literal["up", "down"]
COMMENT = 1000  # characters of a comment


class Content(Sparse):
    """A part of a message: text under any of its type names, or audio with its transcript."""

    type: Literal["input_text", "output_text", "text", "input_audio", "output_audio", "audio", "input_image"]
    text: str | None = None
    transcript: str | None = None
    audio: str | None = Field(default=None, repr=False)  # base64, of an item that is retrieved

    @model_validator(mode="after")
    def _readable(self) -> "Content":
        if self.type == "input_image":
            raise PydanticCustomError("unsupported_content", "This server's model does not read images.")
        if "audio" in self.type:
            if self.transcript is None:
                raise PydanticCustomError("unsupported_content", "Audio is accepted only with its transcript.")
        elif self.text is None:
            raise PydanticCustomError("missing", "A text part needs a text.")
        return self

    @model_serializer(mode="wrap")
    def _drop_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As of ``Sparse``; but the user's audio without its words says so, for a client whose type wants the field."""
        wanted = "transcript" if self.type == "input_audio" else None
        return {key: value for key, value in handler(self).items() if value is not None or key == wanted}

    @property
    def words(self) -> str:
        """The text for the model."""
        return (self.transcript if "audio" in self.type else self.text) or ""


class Feedback(Sparse):
    """What a user thinks of a reply."""

    rating: Rating
    comment: Annotated[str, Field(max_length=COMMENT)] | None = Field(default=None, repr=False)  # seen in no log


class ItemNotes(Sparse):
    """The ``loquent`` extension of an item."""

    feedback: Feedback | None = None


class Item(Sparse):
    """An item of a conversation."""

    id: Id | None = None
    object: Literal["realtime.item"] | None = None
    type: Literal["message", "function_call", "function_call_output", "item_reference"]
    status: Literal["completed", "incomplete", "in_progress"] | None = None
    role: Literal["system", "user", "assistant"] | None = None
    content: Annotated[list[Content], Field(max_length=64, fail_fast=True)] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | None = None
    loquent: ItemNotes | None = None  # the server's; what a client sends here is dropped

    _needs: ClassVar[dict[str, tuple[str, ...]]] = {
        "message": ("role", "content"),
        "function_call": ("name", "arguments"),
        "function_call_output": ("call_id", "output"),
        "item_reference": ("id",),
    }

    @model_validator(mode="after")
    def _complete(self) -> "Item":
        for field in self._needs[self.type]:
            if getattr(self, field) is None:
                raise PydanticCustomError("missing", "An item of this type needs {field}.", {"field": field})
        return self

    @property
    def size(self) -> int:
        """Bytes that it takes on the wire."""
        return len(self.model_dump_json().encode())

    @property
    def words(self) -> str:
        """The text for the model."""
        if self.type == "function_call_output":
            return self.output or ""
        return "".join(part.words for part in self.content or ())
