"""The effect of one input on a session."""

from dataclasses import replace

from server.realtime import wire
from server.realtime.session import beta
from server.realtime.session.beta import shape_of
from server.realtime.session.feedback import give_feedback
from server.realtime.session.hearing import (
    answer,
    append_audio,
    clear_audio,
    commit_audio,
    hears_of,
    take_report,
    with_audio,
)
from server.realtime.session.inputs import (
    Configure,
    Connected,
    Disconnected,
    Draining,
    Expired,
    Failed,
    Heard,
    Input,
    Output,
    Produced,
    Rejected,
    Restored,
    Step,
    Stop,
)
from server.realtime.session.items import create_item, known_item, truncate_item
from server.realtime.session.leash import check_response, expire, return_turn
from server.realtime.session.replies import CANCELLED, close_reply, failure_of, take_event
from server.realtime.session.responses import block_response, cancel_response, create_response
from server.realtime.session.settings import begin, initial_config, session_of, update_session
from server.realtime.session.state import State, delete_item, find_reply
from server.realtime.wire import WireError


def advance(state: State, given: Input) -> Step:
    """Apply one input. Nothing is raised: a client's mistake becomes an ``error`` event."""
    if state.closed:
        return state, []
    state, outputs = _apply(state, given)
    if state.owed and state.active is None and not state.closed and not state.draining:
        state, more = answer(state)
        outputs += more
    return state, outputs


def _apply(state: State, given: Input) -> Step:
    match given:
        case Connected():
            return _connect(state)
        case Restored():
            return state, [Configure(hears_of(state))] if state.listens else []
        case Heard(report):
            return take_report(state, report)
        case Produced(response_id, event):
            reply = find_reply(state, response_id)
            return take_event(state, reply, event) if reply else (state, [])
        case Failed(response_id, error):
            reply = find_reply(state, response_id)
            if reply is None:
                return state, []
            if error.code == "content_filter":
                return block_response(state, reply)
            return close_reply(return_turn(state, error), reply, "failed", failure_of(error))
        case Disconnected():
            return _disconnect(state)
        case Draining():
            return replace(state, draining=True), []
        case Expired():
            return expire(state, given)
        case Rejected(error):
            return state, [wire.Error.of(error, error.event_id)]
        case wire.ClientEvent():
            shape = None if state.ga else shape_of(state, given)
            if shape == "beta":
                return _refuse_beta(state, given.event_id)
            try:
                return _client(replace(state, ga=state.ga or shape == "ga"), given)
            except WireError as error:
                return state, [wire.Error.of(error, given.event_id)]


def _connect(state: State) -> Step:
    try:
        state = begin(replace(state, config=initial_config(state)))
    except WireError as error:  # without these settings the client would have another assistant than the one it is for
        return expire(state, Expired(error.code, error.message))
    session = session_of(state)
    comes_back = wire.Resumable(session=session.id, resume_token=state.token) if state.token else None
    created: list[Output] = [wire.SessionCreated(session=session, loquent=comes_back)]
    if not state.transcribes:
        created.append(wire.ConversationCreated(conversation=wire.Conversation(id=state.conversation_id)))
    return state, [*created, *([Configure(hears_of(state))] if state.listens else [])]


def _client(state: State, event: wire.ClientEvent) -> Step:
    match event:
        case wire.SessionUpdate():
            state, outputs = update_session(state, event)
            return state, [*outputs, *([Configure(hears_of(state))] if state.listens else [])]
        case wire.ItemCreate():
            return create_item(state, event)
        case wire.ItemDelete():
            item = known_item(state, event.item_id, "item_delete_invalid_item_id")
            if item.status == "in_progress":
                raise WireError("item_in_progress", "The item is still being generated; cancel its response first.")
            return delete_item(state, item), [wire.ItemDeleted(item_id=event.item_id)]
        case wire.ItemRetrieve():
            item = known_item(state, event.item_id, "item_retrieve_invalid_item_id")
            return state, [wire.ItemRetrieved(item=with_audio(state, item))]
        case wire.ItemTruncate():
            return truncate_item(state, event)
        case wire.GiveFeedback():
            return give_feedback(state, event)
        case wire.ResponseCreate():
            asked = event.response or wire.ResponseConfig()
            check_response(state, asked)
            return create_response(state, asked)
        case wire.ResponseCancel():
            return cancel_response(state, event)
        case wire.AudioAppend() if state.listens:
            return append_audio(state, event)
        case wire.AudioClear() if state.listens:
            return clear_audio(state)
        case wire.AudioCommit() if state.listens:
            return commit_audio(state)
        case wire.AudioAppend():
            if state.deaf:
                return state, []
            # One error a session: clients show it, and one of them leaves its receive loop at each.
            return replace(state, deaf=True), [wire.Error.of(_not_heard(), event.event_id)]
        case wire.AudioClear():
            return state, [wire.AudioCleared()]
        case wire.AudioCommit():
            raise _not_heard()
        case _:  # output_audio_buffer.clear
            raise WireError("unsupported_event", f"{event.type} belongs to WebRTC, which this server does not support.")


def _refuse_beta(state: State, event_id: str | None) -> Step:
    state, outputs = _disconnect(state)
    refused = beta.CLOSE_CODE, f"invalid_request_error.{beta.REFUSAL.code}"
    return replace(state, refused=refused), [*outputs, wire.Error.of(beta.REFUSAL, event_id)]


def _not_heard() -> WireError:
    return WireError(
        "input_audio_not_supported", "This server has no speech recognition; send the user's words as text."
    )


def _disconnect(state: State) -> Step:
    outputs: list[Output] = []
    for reply in state.replies:
        state, closing = close_reply(state, reply, "cancelled", CANCELLED)
        outputs += [Stop(reply.id), *closing]
    return replace(state, closed=True), outputs
