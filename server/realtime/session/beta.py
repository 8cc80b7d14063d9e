"""Tells clients of the retired beta protocol, which wait for events that are never sent, from others."""

from typing import Literal

from server.realtime import wire
from server.realtime.session.state import State

REFUSAL = wire.WireError(
    "beta_api_shape_disabled",
    "The Realtime Beta API is no longer supported. Please use /v1/realtime for the GA API.",
)
CLOSE_CODE = 4000
BETA_ONLY = frozenset(
    {
        "modalities",
        "voice",
        "input_audio_format",
        "output_audio_format",
        "input_audio_transcription",
        "input_audio_noise_reduction",
        "turn_detection",
        "temperature",
        "max_response_output_tokens",
    }
)


def shape_of(state: State, event: wire.ClientEvent) -> Literal["ga", "beta"] | None:
    """The protocol that an event shows its client to speak; None where it fits both.

    A client's first settings decide: some that speak GA put a beta field into later events.
    """
    given: frozenset[str]
    match event:
        case wire.SessionUpdate():
            given = frozenset(event.session)
            ga = "type" in given
        case wire.ResponseCreate():
            given = event.response.fields_given if event.response else frozenset()
            ga = bool(given & {"output_modalities", "audio"})
        case _:
            return None
    if ga:
        return "ga"
    return "beta" if given & BETA_ONLY or state.beta_header else None
