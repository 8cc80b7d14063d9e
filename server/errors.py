"""Maps exceptions to what clients see of them. No other module does."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pipelines.events import ErrorKind, StageError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

RETRY_AFTER = 2  # seconds that an overloaded or loading server asks for

STATUS: dict[ErrorKind, int] = {
    "invalid_request": 400,
    "overloaded": 503,
    "unavailable": 503,
    "internal": 500,
}
_STATUS_OF_CODE = {
    "model_not_found": 404,
    "too_many_requests": 429,
    "rate_limit_exceeded": 429,
    "turn_limit_reached": 429,
}


class RateLimitedError(StageError):
    """A limit of requests or tokens is used up."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__("overloaded", "rate_limit_exceeded", message, retry_after=retry_after)


class ApiError(Exception):
    """An HTTP error in OpenAI's format."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        *,
        retry_after: int | None = None,
        allow: str = "",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after  # seconds
        self.allow = allow  # the methods that a 405 names

    def body(self) -> dict[str, Any]:
        """``{"error": {"message", "type", "code", "param"}}``."""
        kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "code": self.code, "param": self.param}}

    def headers(self) -> dict[str, str]:
        """The response's extra headers."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        headers |= {"Allow": self.allow} if self.allow else {}
        return headers | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})


def translate(error: BaseException) -> ApiError:
    """Any exception as an HTTP error; details that are not meant for clients stay in the log."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, StageError):
        status = _STATUS_OF_CODE.get(error.code, STATUS[error.kind])
        waits = RETRY_AFTER if error.retry_after is None else error.retry_after
        retry = waits if status in (429, 503) else None
        return ApiError(status, error.code, error.message, error.param, retry_after=retry)
    return ApiError(500, "internal_error", "The server failed on this request; its log says why.")


_CODE_OF_PROBLEM = {
    "missing": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
    "unsupported_content": "unsupported_content",
}


# What pydantic adds to a path for the branch of a union that it tried: a type's name, and never a field's.
_BRANCH = re.compile(r"str|int|float|bool|bytes|none|any|list|dict|[a-z]+(?:-[a-z]+)+.*|.*\[.*\]|[A-Z]\w*")


LONGEST_BRANCH = 200  # characters
PROBLEMS = 100  # that are looked at to find the one to tell; a client's object may have thousands


def _is_branch(part: int | str) -> bool:
    # A part may also be a key of a client's object, of any length.
    return isinstance(part, str) and len(part) <= LONGEST_BRANCH and _BRANCH.fullmatch(part) is not None


def _fitness(problem: "ErrorDetails") -> float:
    """How well the value fits the branch of a union in which it has this problem.

    The deeper the problem, the more of the value fits; a wrong type, and another ``type`` than the branch is for, count
    against it.
    """
    path = [part for part in problem["loc"] if not _is_branch(part)]
    meant = path[-1:] != ["type"] or problem["type"] != "literal_error"
    return len(path) + (0 if problem["type"].endswith("_type") else 0.5) - (0 if meant else 1.25)


def _decisive(problems: Sequence["ErrorDetails"], at: int = 0) -> "ErrorDetails":
    """The first problem; of a union the one of the branch that the value fits best."""
    path = problems[0]["loc"]
    while at < len(path) and not _is_branch(path[at]):
        at += 1
    if at == len(path):
        return problems[0]
    branches: dict[int | str, list[ErrorDetails]] = {}
    for problem in problems:
        if problem["loc"][:at] == path[:at] and len(problem["loc"]) > at and _is_branch(problem["loc"][at]):
            branches.setdefault(problem["loc"][at], []).append(problem)
    return _decisive(max(branches.values(), key=lambda branch: min(map(_fitness, branch))), at + 1)


def first_problem(error: ValidationError, *, above: str = "") -> tuple[str, str, str]:
    """Code, parameter and message of the first validation error; ``above`` prefixes the parameter's path."""
    problem = _decisive(error.errors(include_url=False, include_input=False)[:PROBLEMS])
    param = above + ".".join(str(part) for part in problem["loc"] if not _is_branch(part))
    return _CODE_OF_PROBLEM.get(problem["type"], "invalid_value"), param, f"{param}: {problem['msg']}"


def as_stage_error(error: BaseException) -> StageError:
    """Any exception as the error that ends a turn."""
    if isinstance(error, StageError):
        return error
    return StageError("internal", "internal_error", "The server failed on this response; its log says why.")
