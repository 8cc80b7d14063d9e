"""Every server event by its type, and how one is written."""

from server.realtime.wire import heard, server, session
from server.realtime.wire.server import ServerEvent

SERVER_EVENTS: dict[str, type[ServerEvent]] = {
    event.model_fields["type"].default: event
    for event in (
        server.Error,
        session.SessionCreated,
        session.SessionUpdated,
        server.ConversationCreated,
        server.ItemAdded,
        server.ItemDone,
        server.ItemDeleted,
        server.ItemRetrieved,
        server.ItemTruncated,
        server.FeedbackRecorded,
        server.AudioCleared,
        heard.SpeechStarted,
        heard.SpeechStopped,
        heard.AudioCommitted,
        heard.TimeoutTriggered,
        heard.TranscriptionDelta,
        heard.TranscriptionCompleted,
        heard.TranscriptionFailed,
        server.ResponseCreated,
        server.ResponseDone,
        server.RateLimits,
        server.OutputItemAdded,
        server.OutputItemDone,
        server.PartAdded,
        server.PartDone,
        server.TextDelta,
        server.TextDone,
        server.AudioDelta,
        server.AudioDone,
        server.TranscriptDelta,
        server.TranscriptDone,
        server.ArgumentsDelta,
        server.ArgumentsDone,
    )
}


def dump(event: ServerEvent, event_id: str) -> str:
    """The event as JSON text. ``event_id`` must need no escaping."""
    return f'{{"event_id":"{event_id}",{event.model_dump_json()[1:]}'
