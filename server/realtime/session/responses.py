"""Responses: create, cancel, block."""

from collections.abc import Sequence
from dataclasses import replace

from pipelines.events import (
    Speech,
    StageError,
    Turn,
)
from server.realtime import wire
from server.realtime.session.inputs import Begin, Output, Silence, Step, Stop
from server.realtime.session.leash import check_turns, count_turn
from server.realtime.session.reading import Given, items_read, messages_read
from server.realtime.session.replies import CANCELLED, FILTERED, close_reply, failure_of
from server.realtime.session.settings import NO_IMAGES, NO_PROMPTS, NO_VERDICTS, NO_VOICE, said, speaker_of
from server.realtime.session.state import Reply, Sound, State, delete_item, find_reply, make_room, new_id, put_reply
from server.realtime.session.tools import use_of, warnings_of
from server.realtime.wire import WireError

# Of a conversation that outgrows the context so much is left by "auto": the next turns find it in the prefix cache.
AUTO_RETENTION = 0.8


def create_response(state: State, asked: wire.ResponseConfig) -> Step:
    """Begin a response. Raises: WireError when the session can't begin one."""
    out_of_band = asked.conversation == "none"
    _check_beginning(state, out_of_band=out_of_band)
    gone: tuple[str, ...] = ()
    if not out_of_band:
        state, gone = make_room(state)
    items = items_read(state, asked)
    speech, audio, warnings = _speech(state, asked)
    state, response_id = new_id(state, "resp")
    state, item_id = new_id(state, "item")
    turn = _turn(state, response_id, asked, items)
    waits = any(item.id in state.pending for item, own in items if own)
    warnings += _not_had(state, asked, turn)
    response = wire.Response(
        id=response_id,
        status="in_progress",
        conversation_id=None if out_of_band else state.conversation_id,
        output_modalities=["audio"] if speech else ["text"],
        audio=audio,
        max_output_tokens=asked.max_output_tokens or state.config.max_output_tokens,
        metadata=asked.metadata,
    )
    state, sound = count_turn(state), Sound() if speech else None
    reply = Reply(response_id, item_id, out_of_band, response, sound=sound, screens=_screened(state, items))
    state = replace(state, replies=(*state.replies, reply))
    begun: list[Output] = [
        *(wire.ItemDeleted(item_id=id) for id in gone),
        wire.ResponseCreated(response=response, loquent=wire.ResponseNotes(warnings=warnings) if warnings else None),
        wire.RateLimits(),
    ]
    if waits:  # for what was said last
        return replace(state, waiting={**state.waiting, response_id: asked}), begun
    state, running = _run(state, reply, asked, replace(turn, speech=speech))
    return state, [*begun, *running]


def _screened(state: State, items: Sequence[Given]) -> tuple[str, ...]:
    """The items that this turn is the first to have screened."""
    return tuple(item.id or "" for item, own in items if own and item.id in state.unscreened)


def _run(state: State, reply: Reply, asked: wire.ResponseConfig, turn: Turn) -> Step:
    """Begin the turn of a reply, or end it where its functions can't be had."""
    try:
        tools = use_of(state.config, asked)
    except StageError as error:
        return close_reply(state, reply, "failed", failure_of(error))
    return state, [Begin(reply.id, replace(turn, tools=tools))]


def begin_waiting(state: State, item_id: str, failure: StageError | None) -> Step:
    """Begin the responses that waited for an item's words alone; without words, end those that it is the last of."""
    outputs: list[Output] = []
    for response_id, asked in state.waiting.items():
        reply = find_reply(state, response_id)
        if reply is not None:
            state, more = _begin_waiting(state, reply, asked, item_id, failure)
            outputs += more
    waiting = {id: asked for id, asked in state.waiting.items() if _waits(state, id, asked)}
    return replace(state, waiting=waiting), outputs


def _waits(state: State, response_id: str, asked: wire.ResponseConfig) -> bool:
    if find_reply(state, response_id) is None:
        return False
    return any(own and item.id in state.pending for item, own in items_read(state, asked))


def _begin_waiting(
    state: State, reply: Reply, asked: wire.ResponseConfig, item_id: str, failure: StageError | None
) -> Step:
    try:
        items = items_read(state, asked)
        if any(own and item.id in state.pending for item, own in items):
            return state, []
        last = next((item for item, own in reversed(items) if item.role == "user"), None)
        if failure is not None and last is not None and last.id == item_id:
            return close_reply(state, reply, "failed", failure_of(failure))
        turn = _turn(state, reply.id, asked, items)
    except WireError as error:
        return close_reply(state, reply, "failed", failure_of(StageError("invalid_request", error.code, error.message)))
    speech, _, _ = _speech(state, asked)
    reply = replace(reply, screens=_screened(state, items))
    return _run(put_reply(state, reply), reply, asked, replace(turn, speech=speech))


def _check_beginning(state: State, *, out_of_band: bool) -> None:
    """Raises: WireError when the session can't begin a response."""
    if state.transcribes:
        raise WireError("transcription_session", "This session only recognises words; it has no responses.")
    if state.draining:
        raise WireError("server_shutting_down", "The server is shutting down; connect again.")
    check_turns(state)
    if not out_of_band and state.active:
        raise WireError(
            "conversation_already_has_active_response",
            f"The response {state.active.id} is in progress; wait for its response.done, or cancel it.",
        )
    if len(state.replies) >= state.limits.responses:
        raise WireError("too_many_responses", f"{len(state.replies)} responses are in progress, which is the limit.")


def _turn(state: State, response_id: str, asked: wire.ResponseConfig, items: Sequence[Given]) -> Turn:
    """The turn that answers the response, as text and without functions. Raises: WireError."""
    messages, new = messages_read(state, asked, items)
    sampling = _sampling(asked.loquent).over(_sampling(state.config.loquent))
    max_tokens = asked.max_output_tokens or state.config.max_output_tokens
    if max_tokens != "inf":
        sampling = replace(sampling, max_tokens=max_tokens)
    turn = Turn(
        f"{state.id}.{response_id}",
        messages,
        sampling,
        state.tenant,
        state.names.here,
        session=state.id,
        conversation=state.conversation_id,
        verdicts=bool(said("verdicts", asked.loquent, state.config.loquent)) and state.verdicts,
        image=said("image", asked.loquent, state.config.loquent),
        task=_task(asked.loquent, state.config.loquent),
        new=new,
        overflow="error" if state.config.truncation == "disabled" else "trim",
    )
    truncation = state.config.truncation
    if truncation == "auto":
        return replace(turn, retention=AUTO_RETENTION)
    if not isinstance(truncation, wire.RetentionRatio):
        return turn
    limits = truncation.token_limits
    return replace(
        turn, retention=truncation.retention_ratio, retained_tokens=limits.post_instructions if limits else None
    )


def _not_had(state: State, asked: wire.ResponseConfig, turn: Turn) -> list[str]:
    """What the response asks for and does not get, in words."""
    warnings = warnings_of(asked.tools)
    if said("verdicts", asked.loquent, state.config.loquent) and not state.verdicts:
        warnings.append(NO_VERDICTS)
    if asked.prompt is not None:
        warnings.append(NO_PROMPTS)
    if turn.image and not state.draws:
        warnings.append(NO_IMAGES)
    return warnings


def _speech(state: State, asked: wire.ResponseConfig) -> tuple[Speech | None, wire.ResponseAudio | None, list[str]]:
    """How the response is spoken, if it is; the audio settings to announce; and warnings."""
    if (asked.output_modalities or state.config.output_modalities) != ["audio"]:
        return None, None, []
    if state.voices is None:
        return None, None, [NO_VOICE]
    configured = state.config.audio.output
    own = (asked.audio and asked.audio.output) or wire.ResponseAudioOutput()
    voice = own.speaker or configured.speaker or state.voices.here
    speaker = speaker_of(state, voice, "response.audio.output.voice")
    format = own.format or configured.format
    announced = wire.ResponseAudio(output=wire.ResponseAudioOutput(format=format, voice=voice))
    return Speech(speaker, configured.speed), announced, []


def _task(*extensions: wire.Extension | None) -> str:
    return next((each.task for each in extensions if each is not None and each.task is not None), "")


def _sampling(extension: wire.Extension | None) -> wire.SamplingExtension:
    return (extension and extension.sampling) or wire.SamplingExtension()


def block_response(state: State, reply: Reply) -> Step:
    """End a reply whose messages were blocked. They are deleted, so that the conversation can continue."""
    state, outputs = close_reply(state, reply, "incomplete", FILTERED)
    for item in [item for item in state.items if item.id in reply.screens]:
        state = delete_item(state, item)
        outputs.append(wire.ItemDeleted(item_id=item.id or ""))
    return state, outputs


def cancel_response(state: State, event: wire.ResponseCancel) -> Step:
    """Cancel a response. Raises: WireError where it is not in progress."""
    reply = find_reply(state, event.response_id) if event.response_id else state.active
    if reply is None:
        raise WireError("response_cancel_not_active", "There is no such response in progress.", param="response_id")
    state, closing = close_reply(state, reply, "cancelled", CANCELLED)
    return state, [Stop(reply.id), *([] if reply.out_of_band else [Silence()]), *closing]
