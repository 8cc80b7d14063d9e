"""What the detector says of a message."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pipelines.anomaly.calibrate import HeadName
from pipelines.anomaly.checks import Finding

Cause = HeadName | Literal["checks"]
Action = Literal["allow", "flag", "deflect", "block"]
ACTIONS: tuple[Action, ...] = ("allow", "flag", "deflect", "block")  # from the mildest on


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one head says: a score, and how often a normal message has such a score or a higher one."""

    head: HeadName
    score: float
    p_value: float


@dataclass(frozen=True, slots=True)
class Deviation:
    """A surface feature that is unlike what is normal."""

    feature: str
    value: float
    deviations: float  # standard deviations from the mean of normal messages


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a text, in characters of it as it is embedded: normalised, without ornaments.

    Of a long document that is embedded in pieces, what lies before the piece counts as it came.
    """

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A normal message that is like the one which was judged."""

    id: str
    similarity: float  # cosine
    text: str = ""  # its beginning; "" where it is an operator's own, whose words are stored nowhere


@dataclass(frozen=True, slots=True)
class Verdict:
    """A message's verdict, and why. It holds nothing of the message itself."""

    causes: tuple[Cause, ...]  # what says that the message is not normal, at the configured share of false alarms
    p_value: float  # of the message, all heads together
    judgements: tuple[Judgement, ...]
    findings: tuple[Finding, ...] = ()
    deviations: tuple[Deviation, ...] = ()  # the largest ones
    neighbours: tuple[Neighbour, ...] = ()  # the nearest one first
    reconstruction: float = 0.0  # nats, of the semantic head's VAE
    divergence: float = 0.0  # nats, likewise: Kullback-Leibler, of the latent from its prior
    languages: tuple[str, ...] = ()  # ISO 639-1, those that it may be in, the likeliest first
    known: bool = True  # enough messages of such a language calibrate; else those of its script do
    segment: Segment | None = None  # what reads like instructions to the assistant, where that is found

    @property
    def anomalous(self) -> bool:
        """Whether anything was found."""
        return bool(self.causes)

    def p(self, head: HeadName) -> float:
        """One head's p-value."""
        return next((each.p_value for each in self.judgements if each.head == head), 1.0)

    def moved(self, by: int) -> "Verdict":
        """The same of a text that begins so many characters earlier."""
        if self.segment is None or not by:
            return self
        return replace(self, segment=Segment(self.segment.start + by, self.segment.end + by))

    def to_json(self) -> dict[str, Any]:
        """For clients and for people, as JSON has it."""
        return {
            "anomalous": self.anomalous,
            "causes": list(self.causes),
            "p_value": round(self.p_value, 6),
            "heads": {
                each.head: {"p_value": round(each.p_value, 6), "score": round(each.score, 4)}
                for each in self.judgements
            },
            "findings": [{"check": each.check, "detail": each.detail} for each in self.findings],
            "deviations": [
                {"feature": each.feature, "value": round(each.value, 4), "deviations": round(each.deviations, 2)}
                for each in self.deviations
            ],
            "nearest": [
                {"id": each.id, "similarity": round(each.similarity, 4)} | ({"text": each.text} if each.text else {})
                for each in self.neighbours
            ],
            "reconstruction_error": round(self.reconstruction, 3),
            "kl_divergence": round(self.divergence, 3),
            "languages": list(self.languages),
            "language_known": self.known,
            **({"segment": {"start": self.segment.start, "end": self.segment.end}} if self.segment else {}),
        }


def worst(actions: Sequence[Action]) -> Action:
    """The strictest of several actions; ``allow`` of none."""
    return max(actions, key=ACTIONS.index, default="allow")
