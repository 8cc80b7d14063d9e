"""Responses: create, cancel, block."""

from dataclasses import replace

from pipelines.events import (
    Speech,
    StageError,
    Turn,
)
from server.errors import translate
from server.realtime import wire
from server.realtime.session.inputs import Begin, Step, Stop
from server.realtime.session.reading import items_read, messages_read
from server.realtime.session.replies import CANCELLED, FILTERED, close_reply
from server.realtime.session.settings import NO_IMAGES, NO_VERDICTS, NO_VOICE, PCM_ONLY, said, speaker_of
from server.realtime.session.state import Reply, Sound, State, check_room, delete_item, find_reply, new_id
from server.realtime.wire import WireError


def create_response(state: State, asked: wire.ResponseConfig) -> Step:
    """Begin a response. Raises: WireError when the session can't begin one."""
    out_of_band = asked.conversation == "none"
    if state.draining:
        raise WireError("server_shutting_down", "The server is shutting down; connect again.")
    if not out_of_band and state.active:
        raise WireError(
            "conversation_already_has_active_response",
            f"The response {state.active.id} is in progress; wait for its response.done, or cancel it.",
        )
    if len(state.replies) >= state.limits.responses:
        raise WireError("too_many_responses", f"{len(state.replies)} responses are in progress, which is the limit.")
    if not out_of_band:
        check_room(state)
    items = items_read(state, asked)
    speech, audio, warnings = _speech(state, asked)
    verdicts = bool(said("verdicts", asked.loquent, state.config.loquent))
    if verdicts and not state.verdicts:
        warnings.append(NO_VERDICTS)
    image = said("image", asked.loquent, state.config.loquent)
    if image and not state.draws:
        warnings.append(NO_IMAGES)
    state, response_id = new_id(state, "resp")
    state, item_id = new_id(state, "item")
    max_tokens = asked.max_output_tokens or state.config.max_output_tokens
    response = wire.Response(
        id=response_id,
        status="in_progress",
        conversation_id=None if out_of_band else state.conversation_id,
        output_modalities=["audio"] if speech else ["text"],
        audio=audio,
        max_output_tokens=max_tokens,
        metadata=asked.metadata,
    )
    messages, new = messages_read(state, asked, items)
    screens = tuple(item.id or "" for item, own in items if own and item.id in state.unscreened)
    reply = Reply(response_id, item_id, out_of_band, response, sound=Sound() if speech else None, screens=screens)
    state = replace(state, replies=(*state.replies, reply))
    sampling = _sampling(asked.loquent).over(_sampling(state.config.loquent))
    if max_tokens != "inf":
        sampling = replace(sampling, max_tokens=max_tokens)
    return state, [
        wire.ResponseCreated(response=response, loquent=wire.Warnings(warnings=warnings) if warnings else None),
        wire.RateLimits(),
        Begin(
            response_id,
            Turn(
                f"{state.id}.{response_id}",
                messages,
                sampling,
                state.tenant,
                speech,
                session=state.id,
                verdicts=verdicts and state.verdicts,
                image=image,
                new=new,
            ),
        ),
    ]


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
    warnings = [PCM_ONLY] if own.format is not None and own.format.type != wire.PCM.type else []
    announced = wire.ResponseAudio(output=wire.ResponseAudioOutput(format=wire.PCM, voice=voice))
    return Speech(speaker, configured.speed), announced, warnings


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
    return state, [Stop(reply.id), *closing]


def failure_of(error: StageError) -> wire.StatusDetails:
    """The status details of a failed response."""
    kind = translate(error).body()["error"]["type"]
    return wire.StatusDetails(type="failed", error=wire.StatusError(type=kind, code=error.code, message=error.message))
