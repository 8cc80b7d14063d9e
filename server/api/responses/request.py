"""The parameters of a response, and what a response repeats of them."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from pipelines.events import Format, Message, Turn
from server.api import requests
from server.api.extension import LoquentExtension
from server.api.formats import IGNORED_FORMATS, FormatFields, TextFormat
from server.api.responses.items import Items
from server.api.sampling import SamplingFields
from server.api.tools import AnyToolChoice, Offer, ToolEntries, offer
from server.errors import ApiError
from server.response_store import Json

# OpenAI's parameters that have no effect here, with the values for which that is true ("any": every value).
IGNORED: dict[str, requests.Harmless] = {
    "access_programs": "any",
    "background": (False, None),
    "background_options": "any",
    "client_metadata": "any",
    "context_management": ([], None),
    "image": "any",
    "moderation": "any",
    "prompt_cache_options": "any",
    "prompt_cache_retention": "any",
    "service_tier": "any",
    "stream_options": "any",
    **IGNORED_FORMATS,
}
REFUSED = ("prompt",)
LOGPROBS = "message.output_text.logprobs"

Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]


class Reasoning(BaseModel):
    """Taken and repeated; this model does not reason before it answers."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class TextConfig(BaseModel):
    """What the text must be; verbosity is taken and repeated."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ConversationName(BaseModel):
    """The conversation that a response belongs to."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    id: Annotated[str, Field(min_length=1, max_length=128)]


def _as_name(given: Any) -> Any:
    return {"id": given} if isinstance(given, str) else given


class ResponseRequest(SamplingFields, FormatFields):
    """The supported parameters."""

    input: Items | None = None
    model: str | None = None
    instructions: str | None = None
    previous_response_id: Annotated[str, Field(max_length=128)] | None = None
    conversation: (
        Annotated[ConversationName, BeforeValidator(_as_name, json_schema_input_type=str | ConversationName)] | None
    ) = None
    store: bool | None = None
    stream: bool | None = None
    tools: ToolEntries | None = None
    tool_choice: AnyToolChoice | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    include: Annotated[list[str], Field(max_length=64, fail_fast=True)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    metadata: Metadata | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    user: str | None = None
    loquent: LoquentExtension | None = None

    @property
    def logprobs(self) -> int | None:
        """How many of the likeliest tokens come with each; None: no log-probabilities."""
        return self.top_logprobs or 0 if self.top_logprobs or LOGPROBS in (self.include or ()) else None

    def checked(self) -> "Checked":
        """What the turn needs. Raises: ApiError 400 that names what contradicts itself."""
        if self.previous_response_id is not None and self.conversation is not None:
            text = "conversation: give previous_response_id or conversation, not both"
            raise ApiError(400, "invalid_value", text, "conversation")
        format = self.text.format.format() if self.text and self.text.format else None
        return Checked(offer(self.tools, self.tool_choice, parallel=self.parallel_tool_calls), self.format(format))

    def turn(self, id: str, tenant: str, messages: tuple[Message, ...], checked: "Checked") -> Turn:
        """The turn that answers this request."""
        own = self.loquent or LoquentExtension()
        overflow: dict[str | None, Literal["trim", "error"]] = {"auto": "trim", "disabled": "error"}
        return Turn(
            id,
            messages,
            self.sampling(max_tokens=self.max_output_tokens, logprobs=self.logprobs),
            tenant,
            session=own.session_of(tenant),
            conversation=self.conversation.id if self.conversation is not None else "",
            verdicts=own.verdicts,
            image=own.image,
            task=own.task or "",
            gather=own.gather,
            tools=checked.offered.use,
            format=checked.format,
            overflow=overflow.get(self.truncation),
        )

    def echo(self, offered: Offer, *, overflow: Literal["error", "trim"]) -> Json:
        """What a response repeats; ``overflow`` is what happens where the request says nothing of it."""
        text, reasoning = self.text or TextConfig(), self.reasoning or Reasoning()
        return {
            "instructions": self.instructions,
            "metadata": self.metadata or {},
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "temperature": self.temperature,
            "tool_choice": offered.choice,
            "tools": [function.echo() for function in offered.functions],
            "top_p": self.top_p,
            "background": False,
            "conversation": {"id": self.conversation.id} if self.conversation else None,
            "max_output_tokens": self.max_output_tokens,
            "max_tool_calls": self.max_tool_calls,
            "previous_response_id": self.previous_response_id,
            "prompt": None,
            "prompt_cache_key": self.prompt_cache_key,
            "reasoning": {"effort": reasoning.effort, "summary": reasoning.summary},
            "safety_identifier": self.safety_identifier,
            "service_tier": "default",
            "text": {
                "format": text.format.echo() if text.format else {"type": "text"},
                "verbosity": text.verbosity or "medium",
            },
            "top_logprobs": self.top_logprobs or 0,
            "truncation": self.truncation or ("auto" if overflow == "trim" else "disabled"),
            "user": self.user,
        }


@dataclass(frozen=True, slots=True)
class Checked:
    """What a request says of functions and the text's form, once it is known to be sound."""

    offered: Offer
    format: Format | None


def read_request(raw: bytes) -> ResponseRequest:
    """Read a request's body. Raises: ApiError 400 that names the parameter."""
    return requests.read(raw, ResponseRequest, ignored=IGNORED, refused=REFUSED)
