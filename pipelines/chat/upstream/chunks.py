"""The chunks of a streamed chat completion, as servers send them; what is not needed of them is ignored."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.chat.upstream.sse import Malformed

Count = Annotated[int, Field(ge=0, lt=2**53)]
CALLS = 128  # of one reply
SHOWN = 300  # characters of an upstream's own words that a client sees


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Function(_Part):
    """A piece of a call: the name comes with the first one."""

    name: str | None = None
    arguments: str | None = None


class Call(_Part):
    """A piece of an entry of ``tool_calls``; pieces of one call have its index."""

    index: Annotated[int, Field(ge=0, lt=CALLS)] | None = None
    id: str | None = None
    function: Function | None = None


class Delta(_Part):
    """What comes next in a message."""

    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None  # of models that think before they answer; no text of the reply
    reasoning: str | None = None  # the same, elsewhere
    tool_calls: list[Call] | None = None


class Likely(_Part):
    """An alternative to a token."""

    token: str
    logprob: float


class Token(Likely):
    """The log-probability of a token."""

    top_logprobs: list[Likely] | None = None


class Logprobs(_Part):
    """Those of a piece of text."""

    content: list[Token] | None = None


class Choice(_Part):
    """The only choice of a chunk."""

    delta: Delta = Delta()
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class PromptDetails(_Part):
    """What is known of a prompt's tokens."""

    cached_tokens: Count | None = None


class Usage(_Part):
    """The tokens of a reply."""

    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    prompt_tokens_details: PromptDetails | None = None


class Chunk(_Part):
    """One event of the stream."""

    choices: Annotated[list[Choice], Field(max_length=1)] = []
    usage: Usage | None = None
    error: Any = None
    object: str | None = None


def read_chunk(data: str) -> Chunk:
    """An event's data. Raises: Malformed where it is no chunk."""
    try:
        chunk = Chunk.model_validate_json(data)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        at = ".".join(map(str, problem["loc"]))
        raise Malformed(f"a chunk can't be read: {at + ': ' if at else ''}{problem['msg']}") from None
    if not chunk.model_fields_set & {"choices", "usage", "error"}:
        raise Malformed("an event is no chunk of a chat completion")
    return chunk


class Refusal(_Part):
    """What an error says of itself."""

    message: str = ""
    code: str | int | None = None
    param: str | None = None
    type: str | None = None


def read_error(given: Any) -> Refusal:
    """An error in any of the forms that servers give it: an object, an object within ``error``, or text."""
    if isinstance(given, dict) and isinstance(given.get("error"), dict | str):
        given = given["error"]
    if isinstance(given, dict):
        if "message" not in given and isinstance(given.get("detail"), str):
            given = given | {"message": given["detail"]}
        try:
            return Refusal.model_validate(given)
        except ValidationError:
            given = given.get("message")
    return Refusal(message=given if isinstance(given, str) else "")


def shown(text: str) -> str:
    """An upstream's own words on one line, cut to what is fit to be repeated."""
    words = " ".join("".join(sign if sign.isprintable() else " " for sign in text[: 4 * SHOWN]).split())
    return words if len(words) <= SHOWN else words[: SHOWN - 1].rstrip() + "…"
