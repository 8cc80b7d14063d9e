"""Shapes of responses, conversations and their items."""

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from server.openapi.shapes.common import ReplyDetails

ItemStatus = Literal["completed", "incomplete", "in_progress"]


class OutputLikelihood(TypedDict):
    """A token's log-probability."""

    token: str
    logprob: float
    bytes: list[int]


class OutputLogprob(OutputLikelihood):
    """The same, and that of the likeliest tokens in its place."""

    top_logprobs: list[OutputLikelihood]


class OutputText(TypedDict):
    """What the assistant says."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[OutputLogprob]


class InputText(TypedDict):
    """What the model reads."""

    type: Literal["input_text"]
    text: str


class ItemFeedback(TypedDict):
    """What the user of a realtime session thinks of a reply."""

    rating: Literal["up", "down"]
    comment: NotRequired[str]


class ItemExtension(TypedDict):
    """Loquent's extension of an item."""

    feedback: NotRequired[ItemFeedback]


class AssistantItem(TypedDict):
    """A message of the assistant's."""

    id: str
    type: Literal["message"]
    status: ItemStatus
    role: Literal["assistant"]
    content: list[OutputText]
    loquent: NotRequired[ItemExtension]


class InputItem(TypedDict):
    """Another message."""

    id: str
    type: Literal["message"]
    status: ItemStatus
    role: Literal["user", "system", "developer"]
    content: list[InputText]


class CallItem(TypedDict):
    """A function call."""

    id: str
    type: Literal["function_call"]
    status: ItemStatus
    call_id: str
    name: str
    arguments: str


class CallOutputItem(TypedDict):
    """A function's result."""

    id: str
    type: Literal["function_call_output"]
    status: ItemStatus
    call_id: str
    output: str


AnyItem = AssistantItem | InputItem | CallItem | CallOutputItem


class ItemList(TypedDict):
    """A page of items."""

    object: Literal["list"]
    data: list[AnyItem]
    first_id: str
    last_id: str
    has_more: bool


class Conversation(TypedDict):
    """A conversation."""

    id: str
    object: Literal["conversation"]
    created_at: int
    metadata: dict[str, str]


class ConversationList(TypedDict):
    """A page of conversations."""

    object: Literal["list"]
    data: list[Conversation]
    first_id: str
    last_id: str
    has_more: bool


class ConversationDeleted(TypedDict):
    """A conversation is deleted."""

    id: str
    object: Literal["conversation.deleted"]
    deleted: Literal[True]


class ResponseDeleted(TypedDict):
    """A response is deleted."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


class OfferedFunction(TypedDict):
    """A function that the model could call."""

    type: Literal["function"]
    name: str
    description: str | None
    parameters: dict[str, Any]
    strict: bool


class ConversationReference(TypedDict):
    """The conversation that a response belongs to."""

    id: str


class ReasoningEcho(TypedDict):
    """Repeated, and without effect."""

    effort: str | None
    summary: str | None


class FormatEcho(TypedDict):
    """What the text had to be."""

    type: Literal["text", "json_object", "json_schema"]
    name: NotRequired[str]
    description: NotRequired[str | None]
    schema: NotRequired[dict[str, Any] | None]
    strict: NotRequired[bool]


class TextEcho(TypedDict):
    """What the text had to be, and how long."""

    format: FormatEcho
    verbosity: str


class ResponseFault(TypedDict):
    """Why a response failed."""

    code: str
    message: str


class Incomplete(TypedDict):
    """Why a response is incomplete."""

    reason: Literal["max_output_tokens", "content_filter"]


class InputTokens(TypedDict):
    """Of which the prefix cache had some."""

    cached_tokens: int
    cache_write_tokens: int


class OutputTokens(TypedDict):
    """Of which none are reasoning."""

    reasoning_tokens: int


class TokenUsage(TypedDict):
    """Tokens of a response."""

    input_tokens: int
    input_tokens_details: InputTokens
    output_tokens: int
    output_tokens_details: OutputTokens
    total_tokens: int


class OwnError(TypedDict):
    """This server's own code of an error."""

    code: str
    param: str | None


class ResponseDetails(ReplyDetails):
    """What only this server says of a response."""

    error: NotRequired[OwnError]
    stored: NotRequired[Literal[False]]


class ResponseObject(TypedDict):
    """A response."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    model: str
    status: Literal["completed", "incomplete", "in_progress", "cancelled", "failed"]
    error: ResponseFault | None
    incomplete_details: Incomplete | None
    instructions: str | None
    output: list[AssistantItem | CallItem]
    usage: TokenUsage | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    temperature: float | None
    top_p: float | None
    tool_choice: str | dict[str, Any]
    tools: list[OfferedFunction]
    background: Literal[False]
    conversation: ConversationReference | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    previous_response_id: str | None
    prompt: None
    prompt_cache_key: str | None
    reasoning: ReasoningEcho
    safety_identifier: str | None
    service_tier: Literal["default"]
    text: TextEcho
    top_logprobs: int
    truncation: Literal["auto", "disabled"]
    user: str | None
    loquent: NotRequired[ResponseDetails]
