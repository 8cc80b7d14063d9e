"""What a client secret's leash does to a session: how it begins, what the client can't change, and when it ends."""

from collections.abc import Mapping
from dataclasses import replace
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

from pipelines.events import StageError
from server.realtime import wire
from server.realtime.session.inputs import Expired, Output, Step, Stop
from server.realtime.session.replies import close_reply, failure_of
from server.realtime.session.state import State
from server.realtime.wire import Item, WireError

CLOSE_CODE = 1008
INSTRUCTING = "system"  # the role of messages that instruct the model as a session's instructions do


def known_field(path: str) -> bool:
    """Whether a session has a setting of this dotted name."""
    model: type[BaseModel] | None = wire.SessionConfig
    for part in path.split("."):
        if model is None or part not in model.model_fields:
            return False
        model = _model_of(model.model_fields[part].annotation)
    return True


def _model_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, UnionType):
        return next((found for each in get_args(annotation) if (found := _model_of(each)) is not None), None)
    return None


def check_update(before: State, after: State) -> None:
    """Raises: WireError ``field_locked`` where an update changes what the client secret locks."""
    if before.leash is None:
        return
    old, new = _settings(before), _settings(after)
    for field in sorted(before.leash.locked):
        if _at(old, field) != _at(new, field):
            raise _locked(f"session.{field}")


def check_response(state: State, asked: wire.ResponseConfig) -> None:
    """Raises: WireError ``field_locked`` where a response would differ in what the client secret locks."""
    if state.leash is None:
        return
    given, settings = asked.model_dump(exclude_unset=True), _settings(state)
    for field in sorted(state.leash.locked):
        if _differs(_at(given, field), _at(settings, field)):
            raise _locked(f"response.{field}")
    for at, item in enumerate(asked.input or ()):
        check_item(state, item, f"response.input.{at}")


def check_turns(state: State) -> None:
    """Raises: WireError ``turn_limit_reached`` where the client secret allows no more responses."""
    if state.turns_left is not None and state.turns_left <= 0:
        raise WireError("turn_limit_reached", "This client secret allows no more responses.")


def check_item(state: State, item: Item, param: str) -> None:
    """Raises: WireError where an item would add instructions to those that are locked."""
    if state.leash is not None and "instructions" in state.leash.locked and item.role == INSTRUCTING:
        raise _locked(f"{param}.role")


def count_turn(state: State) -> State:
    """The state with one turn less."""
    return state if state.turns_left is None else replace(state, turns_left=state.turns_left - 1)


def return_turn(state: State, error: StageError) -> State:
    """The state with the turn again of a response that was refused before it ran."""
    if state.turns_left is None or error.code != "rate_limit_exceeded":
        return state
    return replace(state, turns_left=state.turns_left + 1)


def expire(state: State, given: Expired) -> Step:
    """End the session: what is in progress fails, and the connection is closed with the reason."""
    outputs: list[Output] = []
    details = failure_of(StageError("invalid_request", given.code, given.message))
    for reply in state.replies:
        state, closing = close_reply(state, reply, "failed", details)
        outputs += [Stop(reply.id), *closing]
    error = wire.Error.of(WireError(given.code, given.message))
    refused = CLOSE_CODE, f"invalid_request_error.{given.code}"
    return replace(state, closed=True, refused=refused), [*outputs, error]


def _settings(state: State) -> dict[str, Any]:
    kind = "transcription" if state.transcribes else "realtime"
    return state.config.model_dump() | {"type": kind, "model": state.names.here}  # whatever name a client calls it by


def _at(settings: Any, path: str) -> Any:
    """The value at a dotted path; None where there is none."""
    for part in path.split("."):
        settings = settings.get(part) if isinstance(settings, Mapping) else None
    return settings


def _differs(given: Any, current: Any) -> bool:
    """Whether what a response sets is other than the session's; what it leaves out, or sets to null, is the same."""
    if given is None:
        return False
    if isinstance(given, Mapping) and isinstance(current, Mapping):
        return any(_differs(value, current.get(key)) for key, value in given.items())
    return bool(given != current)


def _locked(param: str) -> WireError:
    return WireError("field_locked", "This client secret does not allow another value here.", param=param)
