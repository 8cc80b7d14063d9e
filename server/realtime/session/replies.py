"""A reply in progress: from the pipeline's events to server events, each ``added`` with its ``done``."""

import base64
from dataclasses import replace
from typing import Literal

from pipelines import events
from pipelines.events import (
    Finished,
    StageError,
    Started,
)
from server.errors import translate
from server.realtime import wire
from server.realtime.session.inputs import Output, Step, Stop
from server.realtime.session.output import arguments_done, call_item, message_done, message_item, message_part
from server.realtime.session.state import Call, Reply, Sound, State, new_id, put_reply, splice
from server.realtime.wire import Item

CANCELLED = wire.StatusDetails(type="cancelled", reason="client_cancelled")
FILTERED = wire.StatusDetails(type="incomplete", reason="content_filter")
CUT = wire.StatusDetails(type="incomplete", reason="max_output_tokens")

Status = Literal["completed", "cancelled", "failed", "incomplete"]
Changed = tuple[State, Reply, list[Output]]


def take_event(state: State, reply: Reply, event: events.Event) -> Step:
    """The server events for one event of the pipeline."""
    if reply.screens:  # the first event: screening has passed, or is not configured
        unscreened = {id: serial for id, serial in state.unscreened.items() if id not in reply.screens}
        reply = replace(reply, screens=())
        state = put_reply(replace(state, unscreened=unscreened), reply)
    match event:
        case Started(input_tokens, cached_tokens, notices):
            usage = replace(reply.usage, input_tokens=input_tokens, cached_tokens=cached_tokens)
            return put_reply(state, replace(reply, usage=usage, warnings=notices)), []
        case events.TextDelta(text, tokens) if reply.sound is not None:  # from a stage outside the speech stage
            return _spoken(state, reply, events.AudioDelta(b"", text, tokens=tokens))
        case events.TextDelta(text, tokens):
            return _written(state, reply, text, tokens)
        case events.AudioDelta():
            return _spoken(state, reply, event)
        case events.CallStarted() | events.CallDelta() | events.CallDone():
            return _called(state, reply, event)
        case events.Screened():
            return put_reply(state, replace(reply, screening=wire.Screening(**event.to_json()))), []
        case events.Picture():
            return _drawn(state, reply, event)
        case Finished(reason, usage):
            return _finished(state, replace(reply, usage=usage), reason)
        case _:
            return state, []


def _finished(state: State, reply: Reply, reason: events.FinishReason) -> Step:
    """The end that the pipeline reports. A reply without any item gets an empty message."""
    outputs: list[Output] = []
    if not reply.output and reply.call is None:
        state, reply, outputs = _open(state, reply)
    ends: dict[str, tuple[Status, wire.StatusDetails | None]] = {
        "length": ("incomplete", CUT),
        "content_filter": ("incomplete", FILTERED),
        "cancelled": ("cancelled", CANCELLED),
    }
    state, closing = close_reply(state, reply, *ends.get(reason, ("completed", None)))
    return state, [*outputs, *closing]


def _written(state: State, reply: Reply, text: str, tokens: int) -> Step:
    if reply.calls:
        return state, []
    state, reply, outputs = _open(state, _counted(reply, tokens))
    outputs.append(wire.TextDelta(response_id=reply.id, item_id=reply.item_id, delta=text))
    return put_reply(state, replace(reply, text=reply.text + text)), outputs


def _drawn(state: State, reply: Reply, event: events.Picture) -> Step:
    """A picture: a written reply gets its link, and a spoken one does not, since links are never spoken."""
    reply = replace(reply, images=(*reply.images, wire.Image(**event.to_json())))
    if reply.calls:
        return put_reply(state, reply), []
    state, reply, outputs = _open(state, reply)
    if reply.sound is None:
        text = ("\n\n" if reply.text else "") + event.link
        reply = replace(reply, text=reply.text + text)
        outputs.append(wire.TextDelta(response_id=reply.id, item_id=reply.item_id, delta=text))
    return put_reply(state, reply), outputs


def _spoken(state: State, reply: Reply, event: events.AudioDelta) -> Step:
    if reply.calls:
        return state, []
    sound = reply.sound or Sound()
    sound = Sound(sound.samples + event.samples, sound.heard + event.heard)
    state, reply, outputs = _open(state, _counted(reply, event.tokens))
    state = put_reply(state, replace(reply, text=reply.text + event.text, sound=sound))
    if event.text:
        outputs.append(wire.TranscriptDelta(response_id=reply.id, item_id=reply.item_id, delta=event.text))
    if event.pcm:
        delta = base64.b64encode(event.pcm).decode()
        outputs.append(wire.AudioDelta(response_id=reply.id, item_id=reply.item_id, delta=delta))
    return state, outputs


def _called(state: State, reply: Reply, event: events.CallStarted | events.CallDelta | events.CallDone) -> Step:
    """A call's beginning closes what was open before it; its pieces and its end are those of the open call alone."""
    if isinstance(event, events.CallStarted):
        return _begin_call(state, reply, event)
    call = reply.call
    if call is None or call.id != (event.call.id if isinstance(event, events.CallDone) else event.id):
        return state, []
    if isinstance(event, events.CallDelta):
        reply, outputs = _argue(_counted(reply, event.tokens), call, event.arguments)
        return put_reply(state, reply), outputs
    whole = event.call.arguments
    rest = whole[len(call.arguments) :] if whole.startswith(call.arguments) else ""
    reply, outputs = _argue(reply, call, rest)
    state, reply, closing = _close_item(state, reply, "completed")
    return put_reply(state, reply), [*outputs, *closing]


def _begin_call(state: State, reply: Reply, event: events.CallStarted) -> Step:
    if not reply.out_of_band and (reply.opened or reply.calls) and len(state.items) >= state.limits.items:
        full = StageError("invalid_request", "conversation_full", "The conversation has no room for the reply's call.")
        state, closing = close_reply(state, reply, "failed", failure_of(full))
        return state, [Stop(reply.id), *closing]
    state, reply, outputs = _close_item(state, reply, "incomplete" if reply.call else "completed")
    state, item_id = new_id(state, "item")
    call = Call(item_id, event.id, event.name)
    state, announced = _announce(state, reply, call_item(call, "in_progress"))
    return put_reply(state, replace(reply, call=call)), [*outputs, *announced]


def _argue(reply: Reply, call: Call, arguments: str) -> tuple[Reply, list[Output]]:
    if not arguments:
        return reply, []
    delta = wire.ArgumentsDelta(
        response_id=reply.id, output_index=len(reply.output), item_id=call.item_id, call_id=call.id, delta=arguments
    )
    return replace(reply, call=replace(call, arguments=call.arguments + arguments)), [delta]


def _counted(reply: Reply, tokens: int) -> Reply:
    return replace(reply, usage=replace(reply.usage, output_tokens=reply.usage.output_tokens + tokens))


def _open(state: State, reply: Reply) -> Changed:
    """Announce the reply's message and its part, once, with its first output: a reply that fails early has no item."""
    if reply.opened:
        return state, reply, []
    reply = replace(reply, opened=True)
    state, outputs = _announce(state, reply, message_item(reply, "in_progress"))
    outputs.append(wire.PartAdded(response_id=reply.id, item_id=reply.item_id, part=message_part(reply, "")))
    return put_reply(state, reply), reply, outputs


def _announce(state: State, reply: Reply, item: Item) -> Step:
    """Announce an item, and append it to the conversation that the reply belongs to."""
    outputs: list[Output] = [wire.OutputItemAdded(response_id=reply.id, output_index=len(reply.output), item=item)]
    if not reply.out_of_band:
        before = state.items[-1].id if state.items else None
        state = splice(state, len(state.items), item)
        outputs.append(wire.ItemAdded(previous_item_id=before, item=item))
    return state, outputs


def _close_item(state: State, reply: Reply, status: Literal["completed", "incomplete"]) -> Changed:
    """End the message or the call that is open, if one is."""
    outputs: list[Output]
    if reply.call is not None:
        item, outputs = call_item(reply.call, status), [arguments_done(reply, reply.call)]
        reply = replace(reply, call=None)
    elif reply.opened:
        item, outputs = message_item(reply, status), message_done(reply)
        reply = replace(reply, opened=False)
        if reply.sound is not None and not reply.out_of_band:
            state = replace(state, sounds={**state.sounds, reply.item_id: reply.sound})
    else:
        return state, reply, []
    outputs.append(wire.OutputItemDone(response_id=reply.id, output_index=len(reply.output), item=item))
    if not reply.out_of_band:
        at = next(index for index, held in enumerate(state.items) if held.id == item.id)
        before = state.items[at - 1].id if at else None
        state = splice(state, at, item, removed=1)
        outputs.append(wire.ItemDone(previous_item_id=before, item=item))
    return state, replace(reply, output=(*reply.output, item)), outputs


def close_reply(state: State, reply: Reply, status: Status, details: wire.StatusDetails | None) -> Step:
    """End a reply: close the item that is open, then the response."""
    complete = status == "completed" and reply.call is None
    state, reply, outputs = _close_item(state, reply, "completed" if complete else "incomplete")
    response = reply.config.model_copy(
        update={
            "status": status,
            "status_details": details,
            "output": list(reply.output),
            "usage": wire.ResponseUsage.of(reply.usage, audio_tokens=reply.sound.tokens if reply.sound else 0),
        }
    )
    own = None
    if reply.screening is not None or reply.images or reply.warnings:
        own = wire.ResponseExtension(
            screening=reply.screening, images=list(reply.images) or None, warnings=list(reply.warnings) or None
        )
    outputs.append(wire.ResponseDone(response=response, loquent=own))
    return replace(state, replies=tuple(held for held in state.replies if held.id != reply.id)), outputs


def failure_of(error: StageError) -> wire.StatusDetails:
    """The status details of a failed response."""
    kind = translate(error).body()["error"]["type"]
    return wire.StatusDetails(type="failed", error=wire.StatusError(type=kind, code=error.code, message=error.message))
