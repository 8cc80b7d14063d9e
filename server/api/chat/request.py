"""The parameters of a chat completion, and the turns that answer it."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from pipelines.events import Turn
from server.api import requests
from server.api.chat.messages import ChatMessage, conversation
from server.api.extension import LoquentExtension
from server.api.formats import IGNORED_FORMATS, FormatFields, ResponseFormat
from server.api.sampling import SamplingFields
from server.api.tools import AnyToolChoice, Functions, Offer, ToolChoice, ToolEntries, ToolEntry, offer
from server.errors import ApiError

CHOICES = 8  # of one request
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")  # this model does not reason before it answers
VERBOSITIES = ("low", "medium", "high")

# OpenAI's parameters that have no effect here, with the values for which that is true ("any": every value).
IGNORED: dict[str, requests.Harmless] = {
    "user": "any",
    "metadata": "any",
    "store": "any",
    "service_tier": "any",
    "safety_identifier": "any",
    "prompt_cache_key": "any",
    "prompt_cache_options": "any",
    "prompt_cache_retention": "any",
    "prediction": "any",
    "moderation": "any",
    "modalities": (["text"], None),
    "reasoning_effort": (*EFFORTS, None),
    "verbosity": (*VERBOSITIES, None),
    **IGNORED_FORMATS,
}
REFUSED = ("audio", "web_search_options")


class StreamOptions(BaseModel):
    """How to stream."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    include_usage: bool | None = None


class LegacyCall(BaseModel):
    """``function_call`` as an object."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    name: str
    mode: Literal["auto", "none"] | None = None


def _as_call(given: Any) -> Any:
    if isinstance(given, str):
        if given not in ("auto", "none"):
            raise PydanticCustomError("function_call", "must be auto, none or an object with a name")
        return {"name": "", "mode": given}
    return given


class ChatRequest(SamplingFields, FormatFields):
    """The supported parameters."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)]
    model: str | None = None
    n: Annotated[int, Field(ge=1, le=CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: ToolEntries | None = None
    tool_choice: AnyToolChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: Functions | None = None
    function_call: (
        Annotated[LegacyCall, BeforeValidator(_as_call, json_schema_input_type=Literal["auto", "none"] | LegacyCall)]
        | None
    ) = None
    response_format: ResponseFormat | None = None
    # vLLM's: the reply goes on with the last message, the assistant's.
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    loquent: LoquentExtension | None = None

    @property
    def choices(self) -> int:
        """How many replies."""
        return self.n or 1

    @property
    def legacy(self) -> bool:
        """Whether the client knows ``function_call`` and no ``tool_calls``."""
        return bool(self.functions)

    def prefill(self) -> bool:
        """Whether the reply goes on with the last message. Raises: ApiError 400 where that can't be."""
        last = self.messages[-1]
        if self.continue_final_message:
            if self.add_generation_prompt:
                text = "add_generation_prompt: must be false with continue_final_message"
                raise ApiError(400, "invalid_value", text, "add_generation_prompt")
            if last.role != "assistant" or last.tool_calls or last.function_call:
                text = "continue_final_message: the last message must be a text of the assistant"
                raise ApiError(400, "invalid_value", text, "continue_final_message")
            return True
        if self.add_generation_prompt is False:
            text = "add_generation_prompt: can be false only with continue_final_message"
            raise ApiError(400, "unsupported_parameter", text, "add_generation_prompt")
        return last.role == "assistant" and bool(last.prefix) and not (last.tool_calls or last.function_call)

    def offer(self) -> Offer:
        """The functions that the reply may call. Raises: ApiError 400 that names what is wrong with them."""
        if not self.functions:
            return offer(self.tools, self.tool_choice, parallel=self.parallel_tool_calls)
        if self.tools:
            raise ApiError(400, "invalid_value", "functions: give tools or functions, not both", "functions")
        asked = self.function_call
        choice = ToolChoice(type=asked.mode or "function", name=asked.name) if asked else None
        return offer(_entries(self.functions), choice, parallel=False, param="functions", choice_param="function_call")

    def turns(self, id: str, tenant: str, offered: Offer, model: str = "") -> list[Turn]:
        """The turns that answer this request, one a choice. Raises: ApiError 400 for what contradicts itself."""
        own = self.loquent or LoquentExtension()
        messages = conversation(self.messages)
        form = self.format(self.response_format.format() if self.response_format else None)
        prefill = self.prefill()
        return [
            Turn(
                id if not choice else f"{id}-{choice}",
                messages,
                self.sampling(
                    max_tokens=self.max_completion_tokens or self.max_tokens,
                    logprobs=(self.top_logprobs or 0) if self.logprobs else None,
                    choice=choice,
                ),
                tenant,
                model,
                # The choices of one request are no flood of its session: one of them stands for all.
                session="" if choice else own.session_of(tenant),
                verdicts=own.verdicts,
                image=own.image,
                task=own.task or "",
                gather=own.gather,
                tools=offered.use,
                format=form,
                prefill=prefill,
            )
            for choice in range(self.choices)
        ]


def _entries(functions: Functions) -> Sequence[ToolEntry]:
    return [ToolEntry(type="function", function=function) for function in functions]


def read_request(raw: bytes) -> ChatRequest:
    """Read a request's body. Raises: ApiError 400 that names the parameter."""
    asked = requests.read(raw, ChatRequest, ignored=IGNORED, refused=REFUSED)
    if asked.top_logprobs and not asked.logprobs:
        raise ApiError(400, "invalid_value", "top_logprobs: requires logprobs: true", "top_logprobs")
    return asked
