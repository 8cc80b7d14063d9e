"""Reads a request's JSON body. Every error names the parameter that is wrong."""

import asyncio
import difflib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from server.backend import BACKEND
from server.errors import ApiError, first_problem

Request = TypeVar("Request", bound=BaseModel)
Harmless = tuple[Any, ...] | Literal["any"]
BIG = re.compile(rb"\d[eE]\+?\d{3}|\d{300}")  # only such a number can be beyond what a float holds


async def body(request: web.Request) -> bytes:
    """The whole body. Raises: ApiError 408 when it does not arrive in time, 400 when its encoding is invalid."""
    try:
        async with asyncio.timeout(request.app[BACKEND].settings.limits.keep_alive):
            return await request.read()
    except web.RequestPayloadError:
        raise ApiError(400, "invalid_encoding", "The body is not what its Content-Encoding says.") from None
    except TimeoutError:
        raise ApiError(408, "request_timeout", "The body did not arrive in time.") from None


def read(raw: bytes, kind: type[Request], *, ignored: Mapping[str, Harmless], refused: Sequence[str] = ()) -> Request:
    """Read a body as ``kind``.

    ``ignored`` are parameters that have no effect here, with the values for which that is true ("any": every value).
    ``refused`` are OpenAI's parameters that are not supported; only null is accepted.

    Raises: ApiError 400 that names the parameter.
    """
    try:
        data = from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise ApiError(400, "invalid_json", f"The body is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise ApiError(400, "invalid_json", "The body is a JSON object.")
    if BIG.search(raw) and not _finite(data):
        raise ApiError(400, "invalid_json", "The body is not JSON that can be answered: a number is too large.")
    known: dict[str, Any] = {}
    for name, value in data.items():
        if name in kind.model_fields:
            if value is not None or kind.model_fields[name].is_required():  # null means: not given
                known[name] = value
        elif name in ignored or name in refused:
            _check_ignored(name, value, ignored.get(name, (None,)))
        else:
            near = difflib.get_close_matches(name, [*kind.model_fields, *ignored], n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ApiError(400, "unknown_parameter", f"There is no parameter {name!r:.80}.{hint}", name)
    try:
        return kind.model_validate(known)
    except ValidationError as error:
        code, param, message = first_problem(error)
        raise ApiError(400, code, message, param) from None


def _finite(value: Any) -> bool:
    """Whether no number has become infinite. The parser bounds the depth."""
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, list):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _check_ignored(name: str, value: Any, harmless: Harmless) -> None:
    # JSON knows true from 1, and Python does not.
    if harmless != "any" and not any(
        value == each and isinstance(value, bool) == isinstance(each, bool) for each in harmless
    ):
        raise ApiError(
            400,
            "unsupported_parameter",
            f"This server does not support {name}={json.dumps(value)[:80]}.",
            name,
        )
