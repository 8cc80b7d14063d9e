"""How a session wants to be heard, and what its ears report, in the order in which it happened."""

from dataclasses import dataclass, field
from typing import Literal

from pipelines.listening.interface import Request, Transcript
from pipelines.listening.turns import Policy

Encoding = Literal["audio/pcm", "audio/pcmu", "audio/pcma"]


@dataclass(frozen=True, slots=True)
class Hears:
    """How a session's audio is heard."""

    policy: Policy | None  # None: the client says when a turn ends
    encoding: Encoding = "audio/pcm"
    request: Request = field(default_factory=Request)
    looks: bool = False  # whether words are reported while they are spoken
    longest_ms: int = 120_000  # of a turn


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """The user has begun to speak, and means it where a reply is heard."""

    at: int  # milliseconds of the session's audio
    interrupts: bool  # whether the reply in progress, or what is still heard of the last one, is to stop
    unheard: int = 0  # milliseconds of sound that were sent and not played


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """The user has stopped to speak."""

    at: int  # milliseconds of the session's audio


@dataclass(frozen=True, slots=True)
class SpeechDropped:
    """What had started was no speech, or said nothing."""


@dataclass(frozen=True, slots=True)
class Partial:
    """What is certain so far of the words that are being spoken."""

    text: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The user's turn is over."""

    begin: int  # milliseconds of the session's audio
    end: int
    pcm: bytes  # mono, 16 bits a sample, little-endian, RATE
    transcript: Transcript | None  # None: it can't be recognised
    order: bool = False  # it was nothing but an order to stop the reply, and that was done


@dataclass(frozen=True, slots=True)
class Transcribed:
    """The words of a turn that the client ended."""

    serial: int  # the client's commit
    pcm: bytes  # as ``Ended`` has it
    transcript: Transcript | None  # None: it can't be recognised


@dataclass(frozen=True, slots=True)
class Idle:
    """The user has said nothing for long."""

    begin: int
    end: int


Report = SpeechStarted | SpeechStopped | SpeechDropped | Partial | Ended | Transcribed | Idle
