"""The turn logic of a realtime session: a pure function from a state and an input to a state and what to do.

``advance`` touches no socket, no model and no clock. Its promises, whatever comes in whatever order: every ``added``
gets its ``done``, ``response.done`` comes exactly once for every ``response.created``, and the deltas of a reply are
its ``done`` text.
"""

from server.realtime.session.inputs import (
    Begin,
    Connected,
    Disconnected,
    Draining,
    Failed,
    Input,
    Output,
    Produced,
    Rejected,
    Stop,
)
from server.realtime.session.state import Sound, State
from server.realtime.session.transition import advance

__all__ = [
    "Begin",
    "Connected",
    "Disconnected",
    "Draining",
    "Failed",
    "Input",
    "Output",
    "Produced",
    "Rejected",
    "Sound",
    "State",
    "Stop",
    "advance",
]
