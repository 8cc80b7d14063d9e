"""The user's audio: what a client sends of it, and what is heard in it."""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import replace

from pipelines.events import StageError
from pipelines.listening import events
from pipelines.listening.audio import RATES, WIDTHS, at_audio_rate
from pipelines.listening.events import Hears
from pipelines.listening.interface import RATE, Request, Transcript
from pipelines.listening.turns import Policy
from server.realtime import wire
from server.realtime.session.inputs import ClearAudio, CommitAudio, Hear, Output, Silence, Step, Stop
from server.realtime.session.items import truncate_to
from server.realtime.session.replies import close_reply, failure_of
from server.realtime.session.responses import begin_waiting, create_response
from server.realtime.session.state import State, find_item, make_room, new_id, splice
from server.realtime.wire import Item, WireError

DETECTED = wire.StatusDetails(type="cancelled", reason="turn_detected")
SHORTEST_MS = 100  # of audio that a client may commit
SILENT_SILENCE_MS = 200  # of silence behind speech that sounds complete
PATIENCE_MS = {"low": 8000, "medium": 4000, "auto": 4000, "high": 2000}  # of silence behind speech that does not
LOGPROBS = "item.input_audio_transcription.logprobs"
STILL_THERE = "The user has said nothing for a while. Ask briefly whether they are still there."
NOT_HEARD = StageError("invalid_request", "no_speech", "No speech was heard in the audio.")
NOT_RECOGNISED = StageError("internal", "transcription_failed", "The speech could not be recognised.")


def hears_of(state: State) -> Hears:
    """How the session's audio is to be heard."""
    given = state.config.audio.input
    transcription = given.transcription
    spoken = _language(transcription) if transcription else ""
    words = ", ".join(transcription.keywords or ()) if transcription else ""
    prompt = " ".join(each for each in (words, (transcription.prompt or "") if transcription else "") if each)
    return Hears(
        _policy(given.turn_detection),
        given.format.type,
        Request(spoken, spoken or "en", prompt, LOGPROBS in (state.config.include or ())),
        looks=state.transcribes or bool(transcription and transcription.delay),
        longest_ms=int(state.limits.audio_seconds * 1000),
    )


def _language(transcription: wire.Transcription) -> str:
    """The language that the session names: "de" of "de-AT", "" for the one that is heard."""
    named = transcription.language or next(iter(transcription.languages or ()), "")
    return named.lower().replace("_", "-").split("-")[0]


def _policy(detection: wire.TurnDetection | None) -> Policy | None:
    if detection is None:
        return None
    interrupts = detection.interrupt_response is not False
    if detection.type == "semantic_vad":
        patience = PATIENCE_MS[detection.eagerness or "auto"]
        return Policy("semantic_vad", silence_ms=SILENT_SILENCE_MS, patience_ms=patience, interrupts=interrupts)
    return Policy(
        threshold=0.5 if detection.threshold is None else detection.threshold,
        prefix_ms=300 if detection.prefix_padding_ms is None else detection.prefix_padding_ms,
        silence_ms=500 if detection.silence_duration_ms is None else detection.silence_duration_ms,
        idle_ms=detection.idle_timeout_ms,
        interrupts=interrupts,
    )


def with_audio(state: State, item: Item) -> Item:
    """An item with its audio, as far as it is still stored: the user's, 24,000 samples a second."""
    pcm = state.audio.get(item.id or "")
    if pcm is None or not item.content:
        return item
    audio = base64.b64encode(at_audio_rate(pcm)).decode()
    return item.model_copy(update={"content": [item.content[0].model_copy(update={"audio": audio})]})


def append_audio(state: State, event: wire.AudioAppend) -> Step:
    """More of the user's audio. Raises: WireError where it can't be read, and once where it is too long."""
    try:
        data = binascii.a2b_base64(event.audio, strict_mode=True)
    except ValueError:
        raise WireError("invalid_value", "audio is not base64.", param="audio") from None
    kind = state.config.audio.input.format.type
    length = len(data) * 1000 // (RATES[kind] * WIDTHS[kind])
    longest = int(state.limits.audio_seconds * 1000)
    if state.config.audio.input.turn_detection is None and state.uncommitted + length > longest:
        if state.full:
            return state, []
        # One error until the client commits or clears: it may go on sending for long.
        text = f"The audio is longer than {longest // 1000} s; commit or clear it. What comes before that is dropped."
        return replace(state, full=True), [wire.Error.of(WireError("input_audio_too_long", text), event.event_id)]
    return replace(state, uncommitted=state.uncommitted + length), [Hear(data)]


def clear_audio(state: State) -> Step:
    """Forget the user's audio since the last turn."""
    return replace(state, uncommitted=0, full=False, speech=None, partial=""), [ClearAudio(), wire.AudioCleared()]


def commit_audio(state: State) -> Step:
    """The client ends the user's turn. Raises: WireError where there is too little audio."""
    if state.uncommitted < SHORTEST_MS:
        raise WireError(
            "input_audio_buffer_commit_empty",
            f"The buffer holds {state.uncommitted} ms of audio, and a turn needs {SHORTEST_MS} ms.",
        )
    state, item_id, outputs = _add_item(replace(state, uncommitted=0, full=False))
    serial = state.serial
    state = replace(state, pending={**state.pending, item_id: serial})
    return state, [CommitAudio(serial), *outputs]


def take_report(state: State, report: events.Report) -> Step:
    """What follows from what was heard."""
    match report:
        case events.SpeechStarted(at, interrupts, unheard):
            return _started(state, at, unheard if interrupts else None)
        case events.SpeechStopped(at):
            state, id = _speech_id(state)
            return state, [wire.SpeechStopped(audio_end_ms=at, item_id=id)]
        case events.SpeechDropped():
            return replace(state, speech=None, partial="", uncommitted=0), []
        case events.Partial(text):
            return _partial(state, text)
        case events.Ended():
            return _ended(state, report)
        case events.Transcribed(serial, pcm, transcript):
            item_id = next((id for id, each in state.pending.items() if each == serial), None)
            return (state, []) if item_id is None else _transcribed(state, item_id, pcm, transcript)
        case events.Idle(begin, end):
            return _idle(state, begin, end)


def _speech_id(state: State) -> tuple[State, str]:
    """The id of the item that the user's speech will be."""
    if state.speech is not None:
        return state, state.speech
    state, id = new_id(state, "item")
    return replace(state, speech=id), id


def _started(state: State, at: int, unheard: int | None) -> Step:
    """Speech has begun; with ``unheard`` it interrupts what is said, of which so many milliseconds were not played."""
    state, id = _speech_id(state)
    outputs: list[Output] = [wire.SpeechStarted(audio_start_ms=at, item_id=id)]
    if unheard is None:
        return state, outputs
    spoken = state.last_spoken
    if (reply := state.active) is not None:
        state, closing = close_reply(state, reply, "cancelled", DETECTED)
        outputs += [Stop(reply.id), *closing]
    outputs.append(Silence())
    if spoken is not None and unheard and (item := find_item(state, spoken)) is not None:
        sound = state.sounds.get(spoken)
        if sound is not None:
            end = max(sound.milliseconds - unheard, 0)
            state, truncated = truncate_to(state, item, end)
            outputs.append(truncated)
    return state, outputs


def _partial(state: State, text: str) -> Step:
    """Words that are certain while the user still speaks; they only ever grow."""
    if not text.startswith(state.partial) or state.config.audio.input.transcription is None:
        return state, []
    state, id = _speech_id(state)
    delta = text[len(state.partial) :]
    return replace(state, partial=text), [wire.TranscriptionDelta(item_id=id, delta=delta)] if delta else []


def _add_item(state: State) -> tuple[State, str, list[Output]]:
    """Append the user's audio as an item, whose words are not there yet. Raises: WireError where there is no room."""
    state, gone = make_room(state)
    state, id = _speech_id(state)
    item = Item.model_construct(  # a client's would need its words
        id=id,
        object="realtime.item",
        type="message",
        status="completed",
        role="user",
        content=[wire.Content.model_construct(type="input_audio")],
    )
    before = state.items[-1].id if state.items else None
    serial = state.serial + 1
    state = replace(splice(state, len(state.items), item), serial=serial, speech=None)
    return (
        state,
        id,
        [
            *(wire.ItemDeleted(item_id=each) for each in gone),
            wire.AudioCommitted(previous_item_id=before, item_id=id),
            wire.ItemAdded(previous_item_id=before, item=item),
            wire.ItemDone(previous_item_id=before, item=item),
        ],
    )


def _ended(state: State, report: events.Ended) -> Step:
    """The user's turn is over, and its words are there. An order to stop was done, and wants no answer."""
    transcript = report.transcript
    try:
        state, id, outputs = _add_item(replace(state, uncommitted=0))
    except WireError as error:
        return replace(state, speech=None, partial=""), [wire.Error.of(error)]
    state, words = _transcribed(state, id, report.pcm, transcript)
    outputs += words
    detection = state.config.audio.input.turn_detection
    answers = detection is not None and detection.create_response is not False
    heard = transcript is not None and bool(transcript.text)
    if state.transcribes or state.draining or not (heard and answers) or report.order:
        return state, outputs
    if state.active is not None:  # it was not interrupted, by the client's wish: the answer comes behind it
        return replace(state, owed=True), outputs
    state, begun = answer(state)
    return state, [*outputs, *begun]


def answer(state: State, instructions: str | None = None) -> Step:
    """Begin a response to what was said."""
    try:
        return create_response(replace(state, owed=False), wire.ResponseConfig(instructions=instructions))
    except WireError as error:
        return replace(state, owed=False), [wire.Error.of(error)]


def _transcribed(state: State, item_id: str, pcm: bytes, transcript: Transcript | None) -> Step:
    """The words of an item are there, or will never be."""
    pending = {id: serial for id, serial in state.pending.items() if id != item_id}
    sent, state = state.partial, replace(state, pending=pending, partial="")
    item = find_item(state, item_id)
    failure = NOT_RECOGNISED if transcript is None else None if transcript.text else NOT_HEARD
    outputs: list[Output] = []
    if item is not None:
        text = transcript.text if transcript is not None else ""
        heard = item.model_copy(update={"content": [wire.Content(type="input_audio", transcript=text)]})
        state = splice(state, state.items.index(item), heard, removed=1)
        serial = state.serial + 1
        unscreened: Mapping[str, int] = {**state.unscreened, item_id: serial} if text else state.unscreened
        state = replace(state, serial=serial, unscreened=unscreened, audio=_stored(state, item_id, pcm))
    if state.config.audio.input.transcription is not None:
        outputs = _words(item_id, transcript, sent, len(pcm)) if failure is None else [_failed(item_id, failure)]
    state, begun = begin_waiting(state, item_id, failure)
    return state, [*outputs, *begun]


def _stored(state: State, item_id: str, pcm: bytes) -> Mapping[str, bytes]:
    """The audio of items, with this one's, of which the oldest goes when there is too much."""
    stored = {**state.audio, item_id: pcm}
    while sum(map(len, stored.values())) > state.limits.audio_bytes:
        stored.pop(next(iter(stored)))
    return stored


def _words(item_id: str, transcript: Transcript | None, sent: str, size: int) -> list[Output]:
    assert transcript is not None  # noqa: S101 - that is a failure
    text = transcript.text
    logprobs = [
        wire.TokenLogprob(token=token.text, logprob=token.logprob, bytes=list(token.text.encode()))
        for token in transcript.tokens
    ] or None
    rest = text[len(sent) :] if text.startswith(sent) else ""
    deltas: list[Output] = [wire.TranscriptionDelta(item_id=item_id, delta=rest, logprobs=logprobs)] if rest else []
    usage = wire.DurationUsage(seconds=round(size / 2 / RATE, 3))
    completed = wire.TranscriptionCompleted(item_id=item_id, transcript=text, usage=usage, logprobs=logprobs)
    return [*deltas, completed]


def _failed(item_id: str, failure: StageError) -> wire.TranscriptionFailed:
    details = failure_of(failure).error
    assert details is not None  # noqa: S101 - a failure has one
    error = wire.TranscriptionError(type=details.type, code=details.code, message=details.message)
    return wire.TranscriptionFailed(item_id=item_id, error=error)


def _idle(state: State, begin: int, end: int) -> Step:
    """The user has said nothing for long: an item says so, and the assistant asks."""
    if state.active is not None or state.transcribes or state.draining:
        return state, []
    try:
        state, id, outputs = _add_item(state)
    except WireError:
        return state, []
    item = find_item(state, id)
    assert item is not None  # noqa: S101 - it was added just now
    silent = item.model_copy(update={"content": [wire.Content(type="input_audio", transcript="")]})
    state = splice(state, state.items.index(item), silent, removed=1)
    timeout = wire.TimeoutTriggered(audio_start_ms=begin, audio_end_ms=end, item_id=id)
    instructions = f"{state.config.instructions}\n{STILL_THERE}".strip()
    state, begun = answer(state, instructions)
    return state, [timeout, *outputs, *begun]
