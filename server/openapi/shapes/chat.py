"""Shapes of chat completions and completions, whole and in chunks."""

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from server.openapi.shapes.common import ReplyDetails


class TokenLikelihood(TypedDict):
    """A token's log-probability."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TokenLikelihood):
    """The same, and that of the likeliest tokens in its place."""

    top_logprobs: list[TokenLikelihood]


class ChoiceLogprobs(TypedDict):
    """Log-probabilities of a reply."""

    content: list[TokenLogprob]
    refusal: None


class FunctionCall(TypedDict):
    """A function's name, and its arguments as JSON."""

    name: str
    arguments: str


class ChatToolCall(TypedDict):
    """A call."""

    id: str
    type: Literal["function"]
    function: FunctionCall


class ChatReply(TypedDict):
    """The assistant's message."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: NotRequired[list[ChatToolCall]]
    function_call: NotRequired[FunctionCall]


ChatFinish = Literal["stop", "length", "content_filter", "tool_calls", "function_call"]


class ChatChoice(TypedDict):
    """A reply."""

    index: int
    message: ChatReply
    logprobs: ChoiceLogprobs | None
    finish_reason: ChatFinish


class CachedTokens(TypedDict):
    """Tokens of the prompt that the prefix cache had."""

    cached_tokens: int


class CompletionUsage(TypedDict):
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class ChatCompletion(TypedDict):
    """One or more replies."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: CompletionUsage
    loquent: NotRequired[ReplyDetails]


class DeltaFunction(TypedDict):
    """The next piece of a call."""

    name: NotRequired[str]
    arguments: str


class DeltaCall(TypedDict):
    """The next piece of a call, and which it is."""

    index: int
    id: NotRequired[str]
    type: NotRequired[Literal["function"]]
    function: DeltaFunction


class Delta(TypedDict):
    """The next piece of a reply."""

    role: NotRequired[Literal["assistant"]]
    content: NotRequired[str | None]
    refusal: NotRequired[None]
    tool_calls: NotRequired[list[DeltaCall]]
    function_call: NotRequired[DeltaFunction]


class ChunkChoice(TypedDict):
    """The next piece of one of the replies."""

    index: int
    delta: Delta
    logprobs: ChoiceLogprobs | None
    finish_reason: ChatFinish | None


class ChatCompletionChunk(TypedDict):
    """One server-sent event; the last one is ``[DONE]``."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: NotRequired[CompletionUsage | None]
    loquent: NotRequired[ReplyDetails]


class CompletionChoice(TypedDict):
    """A completion of a prompt."""

    index: int
    text: str
    logprobs: None
    finish_reason: Literal["stop", "length", "content_filter"] | None


class Completion(TypedDict):
    """Completions of prompts; streamed, one server-sent event, and the last one is ``[DONE]``."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: NotRequired[CompletionUsage | None]
