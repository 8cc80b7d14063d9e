"""The turn logic of a realtime session: a pure function from a state and an input to a new state and its outputs.

``advance`` touches no socket, no model and no clock. Its invariants hold for inputs in any order: every ``added`` gets
its ``done``, every ``response.created`` gets exactly one ``response.done``, and the deltas of a reply add up to its
``done`` text.
"""

from server.realtime.session.inputs import (
    Begin,
    ClearAudio,
    CommitAudio,
    Configure,
    Connected,
    Disconnected,
    Draining,
    Expired,
    Failed,
    Hear,
    Heard,
    Input,
    Output,
    Produced,
    Rejected,
    Restored,
    Silence,
    Stop,
)
from server.realtime.session.state import Sound, State
from server.realtime.session.transition import advance

__all__ = [
    "Begin",
    "ClearAudio",
    "CommitAudio",
    "Configure",
    "Connected",
    "Disconnected",
    "Draining",
    "Expired",
    "Failed",
    "Hear",
    "Heard",
    "Input",
    "Output",
    "Produced",
    "Rejected",
    "Restored",
    "Silence",
    "Sound",
    "State",
    "Stop",
    "advance",
]
