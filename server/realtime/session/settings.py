"""The session's configuration: ``session.update``, and warnings about what is not available."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any, Literal

from pydantic import ValidationError

from pipelines.events import (
    StageError,
)
from server.realtime import wire
from server.realtime.session.inputs import Step
from server.realtime.session.leash import check_update
from server.realtime.session.state import DEFAULTS, State
from server.realtime.session.tools import warnings_of
from server.realtime.wire import SessionConfig, WireError

NO_VOICE = "No voice is loaded: replies come as text."
NO_VERDICTS = "This server does not report verdicts."
NO_IMAGES = "This server does not draw."
NO_PROMPTS = "This server has no stored prompts: prompt has no effect."
NOT_LISTENING = "This server does not listen: turn_detection stays null."
NO_NOISE_REDUCTION = "This server reduces no noise: noise_reduction has no effect."


REPLACED = ("tracing", "truncation", "tool_choice", "prompt")  # free-form values are replaced, not merged


def modalities_of(state: State) -> list[wire.Modality]:
    """How a session replies that does not say how: aloud where a voice is loaded, as OpenAI's does."""
    return ["text"] if state.voices is None else ["audio"]


def initial_config(state: State) -> SessionConfig:
    """A session's settings before its client has said anything: as OpenAI's are, as far as they can be had."""
    return _initial(*modalities_of(state), listens=state.listens)


@cache
def _initial(modality: wire.Modality, *, listens: bool) -> SessionConfig:
    config = DEFAULTS.model_copy(update={"output_modalities": [modality]})
    if not listens:
        return config
    detection = wire.TurnDetection(type="server_vad").complete()
    listening = config.audio.input.model_copy(update={"turn_detection": detection})
    return config.model_copy(update={"audio": config.audio.model_copy(update={"input": listening})})


def begin(state: State) -> State:
    """The state with the settings that its client secret begins with.

    Raises: WireError where they are valid no longer, as after a restart with another configuration.
    """
    if state.leash is None or not state.leash.session:
        return state
    asked = wire.SessionUpdate(session=dict(state.leash.session))
    begun, _ = update_session(replace(state, leash=None), asked)
    return replace(begun, leash=state.leash)


def _without_nulls(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with the default in the place of each null."""
    return {
        key: _without_nulls(value) if isinstance(value, dict) else value
        for key, value in settings.items()
        if value is not None
    }


def update_session(state: State, event: wire.SessionUpdate) -> Step:
    """Merge the client's settings into the current ones. Raises: WireError."""
    asked = dict(event.session)
    kind = asked.pop("type", "transcription" if state.transcribes else "realtime")
    if kind not in ("realtime", "transcription"):
        raise WireError("invalid_value", "A session's type is 'realtime' or 'transcription'.", param="session.type")
    if kind == "transcription" and not state.listens:
        raise WireError("invalid_value", "This server has no speech recognition.", param="session.type")
    before, state = state, replace(state, transcribes=kind == "transcription")
    whole = {key: asked[key] for key in REPLACED if key in asked}
    merged = wire.merge(state.config.model_dump(), asked) | whole
    if merged["output_modalities"] is None:
        merged["output_modalities"] = modalities_of(state)
    if isinstance(merged["audio"], dict):
        merged["audio"] = _with_detection(_without_nulls(merged["audio"]), asked)
    try:
        config = SessionConfig.model_validate({key: value for key, value in merged.items() if value is not None})
    except ValidationError as error:
        raise wire.explain(error, above="session.") from None
    _named(state.names.resolve, config.model, "session.model")
    speaker_of(state, config.audio.output.speaker, "session.audio.output.voice")
    warnings = []
    update: dict[str, object] = {}
    output = config.audio.output
    if config.output_modalities != ["text"] and state.voices is None:
        warnings.append(NO_VOICE)
        update["output_modalities"] = ["text"]
    if said("verdicts", config.loquent) and not state.verdicts:
        warnings.append(NO_VERDICTS)
    if said("image", config.loquent) and not state.draws:
        warnings.append(NO_IMAGES)
    listening = config.audio.input
    if listening.turn_detection is not None and not state.listens:
        warnings.append(NOT_LISTENING)
    if listening.noise_reduction is not None:
        warnings.append(NO_NOISE_REDUCTION)
    if config.prompt is not None:
        warnings.append(NO_PROMPTS)
    warnings += warnings_of(config.tools)
    detection = listening.turn_detection.complete() if listening.turn_detection and state.listens else None
    listening = listening.model_copy(update={"turn_detection": detection})
    update["audio"] = config.audio.model_copy(update={"input": listening, "output": output})
    config = config.model_copy(update=update)
    state = replace(state, config=config)
    check_update(before, state)
    own = wire.SessionNotes(warnings=warnings) if warnings else None
    return state, [wire.SessionUpdated(session=session_of(state), loquent=own)]


def _with_detection(audio: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """Audio settings with the asked turn detection as a whole where it is of another type than before."""
    given = asked.get("audio") or {}
    given = (given.get("input") or {}) if isinstance(given, dict) else {}
    detection = given.get("turn_detection") if isinstance(given, dict) else None
    if not isinstance(detection, dict) or "type" not in detection or not isinstance(audio.get("input"), dict):
        return audio
    return audio | {"input": audio["input"] | {"turn_detection": _without_nulls(detection)}}


def session_of(state: State) -> wire.Session | wire.TranscriptionSession:
    """The session as clients see it."""
    if state.transcribes:
        given = state.config.audio.input
        if given.turn_detection is not None:  # what a response would follow is unknown to this type of session
            unknown = dict.fromkeys(("create_response", "interrupt_response", "idle_timeout_ms", "eagerness"))
            given = given.model_copy(update={"turn_detection": given.turn_detection.model_copy(update=unknown)})
        audio = wire.TranscriptionAudio(input=given)
        return wire.TranscriptionSession(
            id=f"sess_{state.id}", audio=audio, include=state.config.include, expires_at=state.expires_at
        )
    config = state.config.model_copy(update={"model": state.names.here})
    if state.voices is not None and config.audio.output.voice is None:
        output = config.audio.output.model_copy(update={"voice": state.voices.here})
        config = config.model_copy(update={"audio": config.audio.model_copy(update={"output": output})})
    return wire.Session(id=f"sess_{state.id}", expires_at=state.expires_at, **dict(config))


def speaker_of(state: State, voice: str | None, param: str) -> str:
    """The speaker that ``voice`` refers to. Raises: WireError."""
    return "" if state.voices is None else _named(state.voices.resolve, voice, param)


def _named(resolve: Callable[[str | None], str], name: str | None, param: str) -> str:
    """What ``name`` resolves to. Raises: WireError for an unknown one, with ``unknown = "error"``."""
    try:
        return resolve(name)
    except StageError as error:
        raise WireError(error.code, error.message, param=param) from None


def said(name: Literal["verdicts", "image"], *extensions: wire.Extension | None) -> bool | None:
    """The option ``name`` of the first extension that sets it."""
    said = (getattr(each, name) for each in extensions if each is not None)
    return next((value for value in said if value is not None), None)
