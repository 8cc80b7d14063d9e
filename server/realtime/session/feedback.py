"""What users think of replies."""

from server.realtime import wire
from server.realtime.session.inputs import Step
from server.realtime.session.items import known_item
from server.realtime.session.state import State, find_item, splice
from server.realtime.wire import WireError


def give_feedback(state: State, event: wire.GiveFeedback) -> Step:
    """Put the feedback on its item, in place of what was there. Raises: WireError."""
    item = known_item(state, event.item_id, "item_feedback_invalid_item_id")
    if item.type != "message" or item.role != "assistant":
        raise WireError("invalid_value", "Only the assistant's messages can be rated.", param="item_id")
    if item.status == "in_progress":  # its end makes the item anew
        raise WireError("item_in_progress", "The item is still being generated; rate it when it is done.")
    if event.comment and event.rating is None:
        raise WireError("invalid_value", "A comment needs a rating.", param="comment")
    notes = None
    if event.rating is not None:
        notes = wire.ItemNotes(feedback=wire.Feedback(rating=event.rating, comment=event.comment or None))
    recorded = wire.FeedbackRecorded(item_id=event.item_id, rating=event.rating)
    if item.loquent == notes:
        return state, [recorded]
    rated = item.model_copy(update={"loquent": notes})
    if event.comment:
        _check_room(state, rated.size - item.size)
    return splice(state, state.items.index(item), rated, removed=1), [recorded]


def rating_of(state: State, item_id: str) -> wire.Rating | None:
    """How the user rates an item."""
    item = find_item(state, item_id)
    return item.loquent.feedback.rating if item and item.loquent and item.loquent.feedback else None


def _check_room(state: State, size: int) -> None:
    """Raises: WireError ``conversation_full``. A rating without a comment always fits: each item has but one."""
    if state.held + size > state.limits.conversation_bytes:
        text = f"The conversation holds {state.held} bytes: there is no room for a comment. Send the rating alone."
        raise WireError("conversation_full", text, param="comment")
