"""Maps exceptions to what clients see of them. No other module does."""

from typing import Any

from pydantic import ValidationError

from pipelines.events import ErrorKind, StageError

RETRY_AFTER = 2  # seconds that an overloaded or loading server asks for

_STATUS: dict[ErrorKind, int] = {
    "invalid_request": 400,
    "overloaded": 503,
    "unavailable": 503,
    "internal": 500,
}
_STATUS_OF_CODE = {"model_not_found": 404, "too_many_requests": 429}


class ApiError(Exception):
    """An HTTP error in OpenAI's format."""

    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, *, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after  # seconds

    def body(self) -> dict[str, Any]:
        """``{"error": {"message", "type", "code", "param"}}``."""
        kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "code": self.code, "param": self.param}}

    def headers(self) -> dict[str, str]:
        """The response's extra headers."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return headers | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})


def translate(error: BaseException) -> ApiError:
    """Any exception as an HTTP error; details that are not meant for clients stay in the log."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, StageError):
        status = _STATUS_OF_CODE.get(error.code, _STATUS[error.kind])
        retry = RETRY_AFTER if status in (429, 503) else None
        return ApiError(status, error.code, error.message, error.param, retry_after=retry)
    return ApiError(500, "internal_error", "The server failed on this request; its log says why.")


_CODE_OF_PROBLEM = {
    "missing": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
    "unsupported_content": "unsupported_content",
}


def first_problem(error: ValidationError, *, above: str = "") -> tuple[str, str, str]:
    """Code, parameter and message of the first validation error; ``above`` prefixes the parameter's path."""
    problem = error.errors(include_url=False, include_input=False)[0]
    param = above + ".".join(str(part) for part in problem["loc"])
    return _CODE_OF_PROBLEM.get(problem["type"], "invalid_value"), param, f"{param}: {problem['msg']}"


def as_stage_error(error: BaseException) -> StageError:
    """Any exception as the error that ends a turn."""
    if isinstance(error, StageError):
        return error
    return StageError("internal", "internal_error", "The server failed on this response; its log says why.")
