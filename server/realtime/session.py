"""The turn logic of a realtime session: a pure function from a state and an input to a state and what to do.

``advance`` touches no socket, no model and no clock. Its promises, whatever comes in whatever order: every ``added``
gets its ``done``, ``response.done`` comes exactly once for every ``response.created``, and the deltas of a reply are
its ``done`` text.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from pydantic import ValidationError

from pipelines import events
from pipelines.events import (
    AUDIO_RATE,
    Finished,
    Heard,
    Message,
    Speech,
    StageError,
    Started,
    Turn,
    Usage,
    audio_tokens,
)
from server.config import LimitSettings
from server.errors import translate
from server.image_store import without_links
from server.names import ModelNames, VoiceNames
from server.realtime import wire
from server.realtime.wire import Item, SessionConfig, WireError

NO_VOICE = "No voice is loaded: replies come as text."
NO_VERDICTS = "This server does not tell verdicts."
NO_IMAGES = "This server does not draw."
PCM_ONLY = "Replies are spoken as audio/pcm at 24,000 samples a second."


@dataclass(frozen=True, slots=True)
class Sound:
    """What a spoken reply sounds like, as far as the client has it."""

    samples: int = 0
    heard: tuple[Heard, ...] = ()  # its words; what is not heard can be cut

    @property
    def milliseconds(self) -> int:
        return self.samples * 1000 // AUDIO_RATE

    @property
    def tokens(self) -> int:
        """What it counts for in the usage."""
        return audio_tokens(self.samples)


@dataclass(frozen=True, slots=True)
class Reply:
    """A response in progress."""

    id: str
    item_id: str
    out_of_band: bool
    config: wire.Response  # as announced by ``response.created``
    opened: bool = False  # its item and part are announced
    text: str = ""
    usage: Usage = field(default_factory=Usage)
    sound: Sound | None = None  # None where it is not spoken
    screening: wire.Screening | None = None  # how its messages were screened, where the client wants to know
    images: tuple[wire.Image, ...] = ()  # that belong to it
    screens: tuple[str, ...] = ()  # items that no turn has brought to screening before this one


@dataclass(frozen=True, slots=True)
class State:
    """Everything that a session knows."""

    id: str
    names: ModelNames
    limits: LimitSettings
    tenant: str = ""  # whose session this is
    voices: VoiceNames | None = None  # None where nothing can be spoken
    verdicts: bool = False  # whether clients may be told them
    draws: bool = False  # whether replies can come with pictures
    config: SessionConfig = field(default_factory=SessionConfig)
    items: tuple[Item, ...] = ()  # at most ``limits.items``, and as many replies in progress
    held: int = 0  # bytes of ``items``, at most ``limits.conversation_bytes`` and what replies add
    sounds: Mapping[str, Sound] = field(default_factory=dict)  # of items that were spoken; as many words as they have
    unscreened: Mapping[str, int] = field(default_factory=dict)  # items no turn has answered yet, each with its serial
    replies: tuple[Reply, ...] = ()  # at most ``limits.responses``, one of them in the conversation
    serial: int = 0
    draining: bool = False
    closed: bool = False

    @property
    def conversation_id(self) -> str:
        return f"conv_{self.id}"

    @property
    def active(self) -> Reply | None:
        """The response in progress in the conversation."""
        return next((reply for reply in self.replies if not reply.out_of_band), None)


# Inputs, besides the client's events


@dataclass(frozen=True, slots=True)
class Connected:
    """The socket is open."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The socket is gone."""


@dataclass(frozen=True, slots=True)
class Draining:
    """The server wants to stop: what is in progress may finish, nothing new begins."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The client sent something that is no event."""

    error: WireError


@dataclass(frozen=True, slots=True)
class Produced:
    """The pipeline has an event for a response."""

    response_id: str
    event: events.Event


@dataclass(frozen=True, slots=True)
class Failed:
    """The pipeline could not go on with a response."""

    response_id: str
    error: StageError


Input = wire.ClientEvent | Connected | Disconnected | Draining | Rejected | Produced | Failed


# Outputs, besides the server's events


@dataclass(frozen=True, slots=True)
class Begin:
    """Run this turn; what it produces belongs to ``response_id``."""

    response_id: str
    turn: Turn


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop the turn of this response."""

    response_id: str


Output = wire.ServerEvent | Begin | Stop
Step = tuple[State, list[Output]]


def advance(state: State, given: Input) -> Step:
    """One input's effect. Whatever a client sends, the outcome is events; nothing is raised."""
    if state.closed:
        return state, []
    match given:
        case Connected():
            conversation = wire.Conversation(id=state.conversation_id)
            return state, [
                wire.SessionCreated(session=_session(state)),
                wire.ConversationCreated(conversation=conversation),
            ]
        case Produced(response_id, event):
            reply = _find(state, response_id)
            return _produced(state, reply, event) if reply else (state, [])
        case Failed(response_id, error):
            reply = _find(state, response_id)
            if reply is None:
                return state, []
            if error.code == "content_filter":
                return _block(state, reply)
            return _close(state, reply, "failed", _failure(error))
        case Disconnected():
            return _disconnect(state)
        case Draining():
            return replace(state, draining=True), []
        case Rejected(error):
            return state, [_error(error, error.event_id)]
        case wire.ClientEvent():
            try:
                return _client(state, given)
            except WireError as error:
                return state, [_error(error, given.event_id)]


def _client(state: State, event: wire.ClientEvent) -> Step:
    match event:
        case wire.SessionUpdate():
            return _update(state, event)
        case wire.ItemCreate():
            return _create_item(state, event)
        case wire.ItemDelete():
            item = _item(state, event.item_id, "item_delete_invalid_item_id")
            if item.status == "in_progress":
                raise WireError("item_in_progress", "The item is still being generated; cancel its response first.")
            return _delete(state, item), [wire.ItemDeleted(item_id=event.item_id)]
        case wire.ItemRetrieve():
            item = _item(state, event.item_id, "item_retrieve_invalid_item_id")
            return state, [wire.ItemRetrieved(item=item)]
        case wire.ItemTruncate():
            return _truncate(state, event)
        case wire.ResponseCreate():
            return _create_response(state, event.response or wire.ResponseConfig())
        case wire.ResponseCancel():
            return _cancel(state, event)
        case wire.AudioAppend():
            return state, []
        case wire.AudioClear():
            return state, [wire.AudioCleared()]
        case wire.AudioCommit():
            raise WireError("input_audio_not_supported", "This server does not listen; send the user's words as text.")
        case _:  # output_audio_buffer.clear
            raise WireError("unsupported_event", f"{event.type} belongs to WebRTC, which this server does not speak.")


# The session


def _update(state: State, event: wire.SessionUpdate) -> Step:
    asked = event.session
    if asked.get("type", "realtime") != "realtime":
        raise WireError("invalid_value", "The only type of session here is 'realtime'.", param="session.type")
    whole = {key: asked[key] for key in ("tracing", "truncation", "tool_choice") if key in asked}
    merged = wire.merge(state.config.model_dump(), asked) | whole  # of free form, so there is nothing to merge
    try:
        config = SessionConfig.model_validate({key: value for key, value in merged.items() if value is not None})
    except ValidationError as error:
        raise wire.explain(error, above="session.") from None
    _named(state.names.resolve, config.model, "session.model")
    _speaker(state, config.audio.output.speaker, "session.audio.output.voice")
    warnings = []
    update: dict[str, object] = {}
    output = config.audio.output
    if config.output_modalities != ["text"] and state.voices is None:
        warnings.append(NO_VOICE)
        update["output_modalities"] = ["text"]
    if output.format.type != wire.PCM.type:
        warnings.append(PCM_ONLY)
        output = output.model_copy(update={"format": wire.PCM})
    if _said("verdicts", config.loquent) and not state.verdicts:
        warnings.append(NO_VERDICTS)
    if _said("image", config.loquent) and not state.draws:
        warnings.append(NO_IMAGES)
    if config.audio.input.turn_detection is not None:
        warnings.append("This server does not listen: turn_detection stays null.")
    listening = config.audio.input.model_copy(update={"turn_detection": None})
    update["audio"] = config.audio.model_copy(update={"input": listening, "output": output})
    config = config.model_copy(update=update)
    state = replace(state, config=config)
    told = wire.Warnings(warnings=warnings) if warnings else None
    return state, [wire.SessionUpdated(session=_session(state), loquent=told)]


def _session(state: State) -> wire.Session:
    config = state.config.model_copy(update={"model": state.names.here})
    if state.voices is not None and config.audio.output.voice is None:
        output = config.audio.output.model_copy(update={"voice": state.voices.here})
        config = config.model_copy(update={"audio": config.audio.model_copy(update={"output": output})})
    return wire.Session(id=f"sess_{state.id}", **dict(config))


def _speaker(state: State, voice: str | None, param: str) -> str:
    """The speaker that a client means by ``voice``."""
    return "" if state.voices is None else _named(state.voices.resolve, voice, param)


def _named(resolve: Callable[[str | None], str], name: str | None, param: str) -> str:
    """What a client means by ``name``; an unknown one is the client's error where the configuration wants that."""
    try:
        return resolve(name)
    except StageError as error:
        raise WireError(error.code, error.message, param=param) from None


def _disconnect(state: State) -> Step:
    outputs: list[Output] = []
    for reply in state.replies:
        state, closing = _close(state, reply, "cancelled", CANCELLED)
        outputs += [Stop(reply.id), *closing]
    return replace(state, closed=True), outputs


# Items


def _create_item(state: State, event: wire.ItemCreate) -> Step:
    item = event.item
    if item.type == "item_reference":
        raise WireError("invalid_value", "A reference is no item of its own.", param="item.type")
    _check_room(state)
    if state.held + item.size > state.limits.conversation_bytes:
        raise WireError("conversation_full", f"The conversation holds {state.held} bytes; delete some of its items.")
    if item.id is None:
        state, id = _new_id(state, "item")
        item = item.model_copy(update={"id": id})
    elif item.id in _taken_ids(state):
        raise WireError("item_create_duplicate_item_id", f"There is an item {item.id!r} already.", param="item.id")
    item = _normal(item)
    at = _place(state, event.previous_item_id)
    before = state.items[at - 1].id if at else None
    state = _splice(state, at, item)
    if item.role == "user" or item.type == "function_call_output":
        serial = state.serial + 1  # not the item's id: a client may use that again
        state = replace(state, serial=serial, unscreened={**state.unscreened, item.id or "": serial})
    return state, [
        wire.ItemAdded(previous_item_id=before, item=item),
        wire.ItemDone(previous_item_id=before, item=item),
    ]


def _splice(state: State, at: int, *added: Item, removed: int = 0) -> State:
    """The state with ``removed`` items from ``at`` on replaced by ``added``."""
    change = sum(item.size for item in added) - sum(item.size for item in state.items[at : at + removed])
    return replace(state, items=(*state.items[:at], *added, *state.items[at + removed :]), held=state.held + change)


def _delete(state: State, item: Item) -> State:
    """The state without an item, and without what is known of it."""
    state = _splice(state, state.items.index(item), removed=1)
    return replace(
        state,
        sounds={id: sound for id, sound in state.sounds.items() if id != item.id},
        unscreened={id: serial for id, serial in state.unscreened.items() if id != item.id},
    )


def _taken_ids(state: State) -> set[str | None]:
    return {item.id for item in state.items} | {reply.item_id for reply in state.replies}


def _check_room(state: State) -> None:
    pending = 1 if state.active and not state.active.opened else 0  # its item will come
    if len(state.items) + pending >= state.limits.items:
        raise WireError("conversation_full", f"A conversation has at most {state.limits.items} items; delete some.")


def _normal(item: Item) -> Item:
    """The item as the server keeps it: complete, and its parts named as the role wants it."""
    update: dict[str, object] = {"object": "realtime.item", "status": "completed"}
    if item.type == "message":
        side: Literal["input", "output"] = "output" if item.role == "assistant" else "input"
        update["content"] = [_normal_part(part, side) for part in item.content or ()]
    return item.model_copy(update=update)


def _normal_part(part: wire.Content, side: Literal["input", "output"]) -> wire.Content:
    kind = "audio" if "audio" in part.type else "text"
    return part.model_copy(update={"type": f"{side}_{kind}"})


def _place(state: State, previous: str | None) -> int:
    """Where an item behind ``previous`` goes; without one, at the end."""
    if previous is None:
        return len(state.items)
    if previous == "root":
        return 0
    for index, item in enumerate(state.items):
        if item.id == previous:
            return index + 1
    raise WireError(
        "item_create_invalid_previous_item_id",
        f"There is no item {previous!r:.140}.",
        param="previous_item_id",
    )


def _item(state: State, id: str, code: str) -> Item:
    for item in state.items:
        if item.id == id:
            return item
    raise WireError(code, f"There is no item {id!r:.140} in this conversation.", param="item_id")


def _truncate(state: State, event: wire.ItemTruncate) -> Step:
    """Cut what was not heard of a spoken reply. A reply without sound was read, so its text stays."""
    item = _item(state, event.item_id, "item_truncate_invalid_item_id")
    if item.role != "assistant":
        raise WireError("invalid_value", "Only the assistant's messages can be truncated.", param="item_id")
    if event.content_index >= max(len(item.content or ()), 1):
        raise WireError("invalid_value", "The item has no such part.", param="content_index")
    outputs: list[Output] = []
    reply = next((reply for reply in state.replies if reply.item_id == item.id and reply.sound is not None), None)
    if reply is not None:  # whoever cuts a reply that is still being spoken does not listen to the rest
        state, outputs = _close(state, reply, "cancelled", CANCELLED)
        outputs.insert(0, Stop(reply.id))
        item = _item(state, event.item_id, "item_truncate_invalid_item_id")
    sound = state.sounds.get(event.item_id, Sound())
    end = min(event.audio_end_ms, sound.milliseconds)
    if end < sound.milliseconds:
        heard = tuple(word for word in sound.heard if word.samples <= end * AUDIO_RATE // 1000)
        transcript = "".join(part.transcript or "" for part in item.content or ())
        kept = transcript[: heard[-1].characters if heard else 0]
        cut = item.model_copy(update={"content": [wire.Content(type="output_audio", transcript=kept)]})
        state = _splice(state, state.items.index(item), cut, removed=1)
        left = Sound(end * AUDIO_RATE // 1000, heard)
        state = replace(state, sounds={**state.sounds, event.item_id: left})
    truncated = wire.ItemTruncated(item_id=event.item_id, content_index=event.content_index, audio_end_ms=end)
    return state, [*outputs, truncated]


# Responses


def _create_response(state: State, asked: wire.ResponseConfig) -> Step:
    out_of_band = asked.conversation == "none"
    if state.draining:
        raise WireError("server_shutting_down", "The server is shutting down; connect again.")
    if not out_of_band and state.active:
        raise WireError(
            "conversation_already_has_active_response",
            f"The response {state.active.id} is in progress; wait for its response.done, or cancel it.",
        )
    if len(state.replies) >= state.limits.responses:
        raise WireError("too_many_responses", f"{len(state.replies)} responses are in progress, and no more may be.")
    if not out_of_band:
        _check_room(state)
    items = _input(state, asked)
    speech, audio, warnings = _speech(state, asked)
    verdicts = bool(_said("verdicts", asked.loquent, state.config.loquent))
    if verdicts and not state.verdicts:
        warnings.append(NO_VERDICTS)
    image = _said("image", asked.loquent, state.config.loquent)
    if image and not state.draws:
        warnings.append(NO_IMAGES)
    state, response_id = _new_id(state, "resp")
    state, item_id = _new_id(state, "item")
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
    messages, new = _messages(state, asked, items)
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


def _said(name: Literal["verdicts", "image"], *extensions: wire.Extension | None) -> bool | None:
    """What the first of them says that says anything about it."""
    said = (getattr(each, name) for each in extensions if each is not None)
    return next((value for value in said if value is not None), None)


def _speech(state: State, asked: wire.ResponseConfig) -> tuple[Speech | None, wire.ResponseAudio | None, list[str]]:
    """How the response is spoken if it is, what the client is told of that, and what can't be had."""
    if (asked.output_modalities or state.config.output_modalities) != ["audio"]:
        return None, None, []
    if state.voices is None:
        return None, None, [NO_VOICE]
    configured = state.config.audio.output
    own = (asked.audio and asked.audio.output) or wire.ResponseAudioOutput()
    voice = own.speaker or configured.speaker or state.voices.here
    speaker = _speaker(state, voice, "response.audio.output.voice")
    warnings = [PCM_ONLY] if own.format is not None and own.format.type != wire.PCM.type else []
    told = wire.ResponseAudio(output=wire.ResponseAudioOutput(format=wire.PCM, voice=voice))
    return Speech(speaker, configured.speed), told, warnings


def _sampling(extension: wire.Extension | None) -> wire.SamplingExtension:
    return (extension and extension.sampling) or wire.SamplingExtension()


Given = tuple[Item, bool]  # an item, and whether it is the conversation's; a client may use its id for another one


def _input(state: State, asked: wire.ResponseConfig) -> list[Given]:
    """The items that a response reads: its own input, or the conversation."""
    if asked.input is None:
        return [(item, True) for item in state.items]
    if len(asked.input) > state.limits.items:
        raise WireError("input_too_large", f"An input has at most {state.limits.items} items.", param="response.input")
    known = {item.id: item for item in state.items}
    given: list[Given] = []
    size = 0
    for item in asked.input:
        if item.type == "item_reference" and item.id not in known:
            raise WireError(
                "item_reference_invalid_item_id", f"There is no item {item.id!r} to refer to.", param="response.input"
            )
        given.append((known[item.id], True) if item.type == "item_reference" else (item, False))
        size += len(given[-1][0].words.encode())
        if size > state.limits.conversation_bytes:
            raise WireError(
                "input_too_large",
                f"The input holds more than the {state.limits.conversation_bytes} bytes of a conversation.",
                param="response.input",
            )
    return given


def _messages(
    state: State, asked: wire.ResponseConfig, items: Sequence[Given]
) -> tuple[tuple[Message, ...], tuple[int, ...]]:
    """What the model reads, the instructions first; and the indexes of what no turn has brought before."""
    instructions = state.config.instructions if asked.instructions is None else asked.instructions
    messages = [Message("system", instructions)] if instructions else []
    new: list[int] = []
    for item, own in items:
        spoken = item.role is not None and item.words and item.status != "in_progress"
        if not spoken and item.type != "function_call_output":
            continue
        serial = state.unscreened.get(item.id or "") if own else None
        if serial is not None or not own:
            new.append(len(messages))
        words = without_links(item.words) if item.role == "assistant" else item.words
        messages.append(Message(item.role or "tool", words, "" if serial is None else f"{state.id}.{serial}"))
    # The protocol lets a client ask for a reply before anybody said anything; templates want a message to answer.
    return tuple(messages) or (Message("user", ""),), tuple(new)


def _produced(state: State, reply: Reply, event: events.Event) -> Step:
    if reply.screens:  # the turn flows, so its messages were screened, or are not to be
        unscreened = {id: serial for id, serial in state.unscreened.items() if id not in reply.screens}
        reply = replace(reply, screens=())
        state = _put(replace(state, unscreened=unscreened), reply)
    match event:
        case Started(input_tokens, cached_tokens):
            usage = replace(reply.usage, input_tokens=input_tokens, cached_tokens=cached_tokens)
            return _put(state, replace(reply, usage=usage)), []
        case events.TextDelta(text, tokens) if reply.sound is not None:  # of a stage around the one that speaks
            return _spoken(state, reply, events.AudioDelta(b"", text, tokens=tokens))
        case events.TextDelta(text, tokens):
            usage = replace(reply.usage, output_tokens=reply.usage.output_tokens + tokens)
            state, reply, outputs = _open(state, replace(reply, usage=usage))
            state = _put(state, replace(reply, text=reply.text + text))
            delta = wire.TextDelta(response_id=reply.id, item_id=reply.item_id, delta=text)
            return state, [*outputs, delta]
        case events.AudioDelta():
            return _spoken(state, reply, event)
        case events.Screened():
            return _put(state, replace(reply, screening=wire.Screening(**event.to_json()))), []
        case events.Picture():
            return _drawn(state, reply, event)
        case Finished(reason, usage):
            state, reply, outputs = _open(state, replace(reply, usage=usage))
            if reason == "length":
                details = wire.StatusDetails(type="incomplete", reason="max_output_tokens")
                state, closing = _close(state, reply, "incomplete", details)
            elif reason == "content_filter":
                state, closing = _close(state, reply, "incomplete", FILTERED)
            elif reason == "cancelled":
                state, closing = _close(state, reply, "cancelled", CANCELLED)
            else:
                state, closing = _close(state, reply, "completed", None)
            return state, [*outputs, *closing]
        case _:
            return state, []


def _drawn(state: State, reply: Reply, event: events.Picture) -> Step:
    """A picture: a link in a reply that is read; a link is never spoken."""
    state, reply, outputs = _open(state, replace(reply, images=(*reply.images, wire.Image(**event.to_json()))))
    if reply.sound is None:
        text = ("\n\n" if reply.text else "") + event.link
        reply = replace(reply, text=reply.text + text)
        outputs.append(wire.TextDelta(response_id=reply.id, item_id=reply.item_id, delta=text))
    return _put(state, reply), outputs


def _spoken(state: State, reply: Reply, event: events.AudioDelta) -> Step:
    sound = reply.sound or Sound()
    sound = Sound(sound.samples + event.samples, sound.heard + event.heard)
    usage = replace(reply.usage, output_tokens=reply.usage.output_tokens + event.tokens)
    state, reply, outputs = _open(state, replace(reply, usage=usage))
    state = _put(state, replace(reply, text=reply.text + event.text, sound=sound))
    if event.text:
        outputs.append(wire.TranscriptDelta(response_id=reply.id, item_id=reply.item_id, delta=event.text))
    if event.pcm:
        delta = base64.b64encode(event.pcm).decode()
        outputs.append(wire.AudioDelta(response_id=reply.id, item_id=reply.item_id, delta=delta))
    return state, outputs


def _open(state: State, reply: Reply) -> tuple[State, Reply, list[Output]]:
    """Announce the reply's item and part, once; with the first text, so that a reply that fails early has none."""
    if reply.opened:
        return state, reply, []
    reply = replace(reply, opened=True)
    item = _reply_item(reply, "in_progress")
    outputs: list[Output] = [wire.OutputItemAdded(response_id=reply.id, item=item)]
    if not reply.out_of_band:
        before = state.items[-1].id if state.items else None
        state = _splice(state, len(state.items), item)
        outputs.append(wire.ItemAdded(previous_item_id=before, item=item))
    outputs.append(wire.PartAdded(response_id=reply.id, item_id=reply.item_id, part=_part(reply, "")))
    return _put(state, reply), reply, outputs


def _close(
    state: State,
    reply: Reply,
    status: Literal["completed", "cancelled", "failed", "incomplete"],
    details: wire.StatusDetails | None,
) -> Step:
    """End a reply: what was added is done, and then the response is."""
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
            state = _splice(state, at, item, removed=1)
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
    told = None
    if reply.screening is not None or reply.images:
        told = wire.Told(screening=reply.screening, images=list(reply.images) or None)
    outputs.append(wire.ResponseDone(response=response, loquent=told))
    return replace(state, replies=tuple(held for held in state.replies if held.id != reply.id)), outputs


def _block(state: State, reply: Reply) -> Step:
    """End a reply whose messages were refused; they leave the conversation, so that it can go on."""
    state, outputs = _close(state, reply, "incomplete", FILTERED)
    for item in [item for item in state.items if item.id in reply.screens]:
        state = _delete(state, item)
        outputs.append(wire.ItemDeleted(item_id=item.id or ""))
    return state, outputs


def _cancel(state: State, event: wire.ResponseCancel) -> Step:
    reply = _find(state, event.response_id) if event.response_id else state.active
    if reply is None:
        raise WireError("response_cancel_not_active", "There is no such response in progress.", param="response_id")
    state, closing = _close(state, reply, "cancelled", CANCELLED)
    return state, [Stop(reply.id), *closing]


CANCELLED = wire.StatusDetails(type="cancelled", reason="client_cancelled")
FILTERED = wire.StatusDetails(type="incomplete", reason="content_filter")


def _failure(error: StageError) -> wire.StatusDetails:
    kind = translate(error).body()["error"]["type"]
    return wire.StatusDetails(type="failed", error=wire.StatusError(type=kind, code=error.code, message=error.message))


def _part(reply: Reply, text: str) -> wire.Part:
    return wire.Part(text=text) if reply.sound is None else wire.Part(type="audio", transcript=text)


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


def _find(state: State, response_id: str) -> Reply | None:
    return next((reply for reply in state.replies if reply.id == response_id), None)


def _put(state: State, reply: Reply) -> State:
    return replace(state, replies=tuple(reply if held.id == reply.id else held for held in state.replies))


def _new_id(state: State, kind: str) -> tuple[State, str]:
    """An id that no item of the conversation has, whatever ids the client made up."""
    taken = _taken_ids(state)
    serial = state.serial
    while True:
        serial += 1
        id = f"{kind}_{state.id}{serial}"
        if id not in taken:
            return replace(state, serial=serial), id


def _error(error: WireError, event_id: str | None) -> wire.Error:
    body = wire.ErrorBody(
        type="invalid_request_error",
        code=error.code,
        message=error.message,
        param=error.param,
        event_id=event_id,
    )
    return wire.Error(error=body)
