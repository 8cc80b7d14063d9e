"""What a client needs that comes back after more events than the server holds."""

from collections.abc import Mapping
from dataclasses import dataclass

from server.realtime import wire
from server.realtime.session.feedback import rating_of
from server.realtime.session.settings import session_of
from server.realtime.session.state import State

RESPONSES = 8  # of a session, that are remembered


@dataclass(frozen=True, slots=True)
class Announced:
    """A response, and the serials of the events that announced its beginning and its end."""

    created: int
    response: wire.Response
    done: int = 0  # 0: it is in progress
    loquent: wire.ResponseExtension | None = None


def catch_up(
    state: State,
    items: Mapping[str, int],
    responses: Mapping[str, Announced],
    rated: Mapping[str, int],
    after: int,
    until: int,
) -> list[wire.ServerEvent]:
    """The events that stand for those behind ``after``, which the client has, up to ``until``.

    ``items`` has the serials with which items were acknowledged, ``rated`` those of their feedback. The
    first event says that some are missing.
    """
    events: list[tuple[int, wire.ServerEvent]] = []
    before: str | None = None
    for item in state.items:
        serial = items.get(item.id or "", 0)
        if after < serial <= until:
            events.append((serial, wire.ItemAdded(previous_item_id=before, item=item)))
            events.append((serial, wire.ItemDone(previous_item_id=before, item=item)))
        before = item.id
    for each in responses.values():
        if after < each.created <= until:
            begun = each.response.model_copy(update={"status": "in_progress", "status_details": None, "output": []})
            events.append((each.created, wire.ResponseCreated(response=begun)))
        if after < each.done <= until:
            events.append((each.done, wire.ResponseDone(response=each.response, loquent=each.loquent)))
    for id, serial in rated.items():
        if after < serial <= until:
            events.append((serial, wire.FeedbackRecorded(item_id=id, rating=rating_of(state, id))))
    present = [item.id for item in state.items if item.id is not None]
    resumed = wire.SessionNotes(resumed=wire.Resumed(complete=False, items=present))
    first = wire.SessionUpdated(session=session_of(state), loquent=resumed)
    return [first, *(event for _, event in sorted(events, key=lambda pair: pair[0]))]
