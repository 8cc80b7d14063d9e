"""The items of a reply and their ends, as clients see them."""

from typing import Literal

from server.realtime import wire
from server.realtime.session.inputs import Output
from server.realtime.session.state import Call, Reply
from server.realtime.wire import Item

ItemStatus = Literal["in_progress", "completed", "incomplete"]


def message_part(reply: Reply, text: str) -> wire.ContentPart:
    """The message's only part."""
    return wire.ContentPart(text=text) if reply.sound is None else wire.ContentPart(type="audio", transcript=text)


def message_done(reply: Reply) -> list[Output]:
    """The events that end the message's part."""
    part = wire.PartDone(response_id=reply.id, item_id=reply.item_id, part=message_part(reply, reply.text))
    if reply.sound is None:
        return [wire.TextDone(response_id=reply.id, item_id=reply.item_id, text=reply.text), part]
    return [
        wire.AudioDone(response_id=reply.id, item_id=reply.item_id),
        wire.TranscriptDone(response_id=reply.id, item_id=reply.item_id, transcript=reply.text),
        part,
    ]


def arguments_done(reply: Reply, call: Call) -> wire.ArgumentsDone:
    """The event that ends a call's arguments."""
    return wire.ArgumentsDone(
        response_id=reply.id,
        output_index=len(reply.output),
        item_id=call.item_id,
        call_id=call.id,
        name=call.name,
        arguments=call.arguments,
    )


def message_item(reply: Reply, status: ItemStatus) -> Item:
    """The message as an item."""
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


def call_item(call: Call, status: ItemStatus) -> Item:
    """A call as an item."""
    return Item(
        id=call.item_id,
        object="realtime.item",
        type="function_call",
        status=status,
        call_id=call.id,
        name=call.name,
        arguments=call.arguments,
    )
