"""A reply in progress: from the pipeline's events to server events, each ``added`` with its ``done``."""

import base64
from dataclasses import replace
from typing import Literal

from pipelines import events
from pipelines.events import (
    Finished,
    Started,
)
from server.realtime import wire
from server.realtime.session.inputs import Output, Step
from server.realtime.session.state import Reply, Sound, State, put_reply, splice
from server.realtime.wire import Item

CANCELLED = wire.StatusDetails(type="cancelled", reason="client_cancelled")
FILTERED = wire.StatusDetails(type="incomplete", reason="content_filter")


def take_event(state: State, reply: Reply, event: events.Event) -> Step:
    """The server events for one event of the pipeline."""
    if reply.screens:  # the first event: screening has passed, or is not configured
        unscreened = {id: serial for id, serial in state.unscreened.items() if id not in reply.screens}
        reply = replace(reply, screens=())
        state = put_reply(replace(state, unscreened=unscreened), reply)
    match event:
        case Started(input_tokens, cached_tokens):
            usage = replace(reply.usage, input_tokens=input_tokens, cached_tokens=cached_tokens)
            return put_reply(state, replace(reply, usage=usage)), []
        case events.TextDelta(text, tokens) if reply.sound is not None:  # from a stage outside the speech stage
            return _spoken(state, reply, events.AudioDelta(b"", text, tokens=tokens))
        case events.TextDelta(text, tokens):
            usage = replace(reply.usage, output_tokens=reply.usage.output_tokens + tokens)
            state, reply, outputs = _open(state, replace(reply, usage=usage))
            state = put_reply(state, replace(reply, text=reply.text + text))
            delta = wire.TextDelta(response_id=reply.id, item_id=reply.item_id, delta=text)
            return state, [*outputs, delta]
        case events.AudioDelta():
            return _spoken(state, reply, event)
        case events.Screened():
            return put_reply(state, replace(reply, screening=wire.Screening(**event.to_json()))), []
        case events.Picture():
            return _drawn(state, reply, event)
        case Finished(reason, usage):
            state, reply, outputs = _open(state, replace(reply, usage=usage))
            if reason == "length":
                details = wire.StatusDetails(type="incomplete", reason="max_output_tokens")
                state, closing = close_reply(state, reply, "incomplete", details)
            elif reason == "content_filter":
                state, closing = close_reply(state, reply, "incomplete", FILTERED)
            elif reason == "cancelled":
                state, closing = close_reply(state, reply, "cancelled", CANCELLED)
            else:
                state, closing = close_reply(state, reply, "completed", None)
            return state, [*outputs, *closing]
        case _:
            return state, []


def _drawn(state: State, reply: Reply, event: events.Picture) -> Step:
    """A picture: a written reply gets its link, and a spoken one does not, since links are never spoken."""
    state, reply, outputs = _open(state, replace(reply, images=(*reply.images, wire.Image(**event.to_json()))))
    if reply.sound is None:
        text = ("\n\n" if reply.text else "") + event.link
        reply = replace(reply, text=reply.text + text)
        outputs.append(wire.TextDelta(response_id=reply.id, item_id=reply.item_id, delta=text))
    return put_reply(state, reply), outputs


def _spoken(state: State, reply: Reply, event: events.AudioDelta) -> Step:
    sound = reply.sound or Sound()
    sound = Sound(sound.samples + event.samples, sound.heard + event.heard)
    usage = replace(reply.usage, output_tokens=reply.usage.output_tokens + event.tokens)
    state, reply, outputs = _open(state, replace(reply, usage=usage))
    state = put_reply(state, replace(reply, text=reply.text + event.text, sound=sound))
    if event.text:
        outputs.append(wire.TranscriptDelta(response_id=reply.id, item_id=reply.item_id, delta=event.text))
    if event.pcm:
        delta = base64.b64encode(event.pcm).decode()
        outputs.append(wire.AudioDelta(response_id=reply.id, item_id=reply.item_id, delta=delta))
    return state, outputs


def _open(state: State, reply: Reply) -> tuple[State, Reply, list[Output]]:
    """Announce the reply's item and part, once, with its first output: a reply that fails early has no item."""
    if reply.opened:
        return state, reply, []
    reply = replace(reply, opened=True)
    item = _reply_item(reply, "in_progress")
    outputs: list[Output] = [wire.OutputItemAdded(response_id=reply.id, item=item)]
    if not reply.out_of_band:
        before = state.items[-1].id if state.items else None
        state = splice(state, len(state.items), item)
        outputs.append(wire.ItemAdded(previous_item_id=before, item=item))
    outputs.append(wire.PartAdded(response_id=reply.id, item_id=reply.item_id, part=_part(reply, "")))
    return put_reply(state, reply), reply, outputs


def close_reply(
    state: State,
    reply: Reply,
    status: Literal["completed", "cancelled", "failed", "incomplete"],
    details: wire.StatusDetails | None,
) -> Step:
    """End a reply: close its part and item, then the response."""
    outputs: list[Output] = []
    output: list[Item] = []
    if reply.opened:
        item = _reply_item(reply, "completed" if status == "completed" else "incomplete")
        output = [item]
        if reply.sound is None:
            outputs.append(wire.TextDone(response_id=reply.id, item_id=reply.item_id, text=reply.text))
        else:
            outputs += [
                wire.AudioDone(response_id=reply.id, item_id=reply.item_id),
                wire.TranscriptDone(response_id=reply.id, item_id=reply.item_id, transcript=reply.text),
            ]
        outputs += [
            wire.PartDone(response_id=reply.id, item_id=reply.item_id, part=_part(reply, reply.text)),
            wire.OutputItemDone(response_id=reply.id, item=item),
        ]
        if not reply.out_of_band:
            at = next(index for index, held in enumerate(state.items) if held.id == item.id)
            before = state.items[at - 1].id if at else None
            state = splice(state, at, item, removed=1)
            outputs.append(wire.ItemDone(previous_item_id=before, item=item))
            if reply.sound is not None:
                state = replace(state, sounds={**state.sounds, reply.item_id: reply.sound})
    response = reply.config.model_copy(
        update={
            "status": status,
            "status_details": details,
            "output": output,
            "usage": wire.ResponseUsage.of(reply.usage, audio_tokens=reply.sound.tokens if reply.sound else 0),
        }
    )
    own = None
    if reply.screening is not None or reply.images:
        own = wire.ResponseExtension(screening=reply.screening, images=list(reply.images) or None)
    outputs.append(wire.ResponseDone(response=response, loquent=own))
    return replace(state, replies=tuple(held for held in state.replies if held.id != reply.id)), outputs


def _part(reply: Reply, text: str) -> wire.ContentPart:
    return wire.ContentPart(text=text) if reply.sound is None else wire.ContentPart(type="audio", transcript=text)


def _reply_item(reply: Reply, status: Literal["in_progress", "completed", "incomplete"]) -> Item:
    content = []
    if status != "in_progress":
        spoken = reply.sound is not None
        content = [
            wire.Content(type="output_audio", transcript=reply.text)
            if spoken
            else wire.Content(type="output_text", text=reply.text)
        ]
    return Item(
        id=reply.item_id,
        object="realtime.item",
        type="message",
        status=status,
        role="assistant",
        content=content,
    )
