"""What the detector says of a message."""

from collections.abc import Sequence
from dataclasses import dataclass
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
class Verdict:
    """A message's verdict, and why. It holds nothing of the message itself."""

    causes: tuple[Cause, ...]  # what says that the message is not normal, at the configured share of false alarms
    p_value: float  # of the message, all heads together
    judgements: tuple[Judgement, ...]
    findings: tuple[Finding, ...] = ()
    deviations: tuple[Deviation, ...] = ()  # the largest ones
    nearest: str = ""  # id of the normal message that is most like it
    similarity: float = 0.0  # cosine, to that message
    reconstruction: float = 0.0  # nats, of the semantic head's VAE
    divergence: float = 0.0  # nats, likewise: Kullback-Leibler, of the latent from its prior

    @property
    def anomalous(self) -> bool:
        return bool(self.causes)

    def p(self, head: HeadName) -> float:
        """One head's p-value."""
        return next((each.p_value for each in self.judgements if each.head == head), 1.0)

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
            "nearest": {"id": self.nearest, "similarity": round(self.similarity, 4)},
            "reconstruction_error": round(self.reconstruction, 3),
            "kl_divergence": round(self.divergence, 3),
        }


def worst(actions: Sequence[Action]) -> Action:
    """The strictest of several actions; ``allow`` of none."""
    return max(actions, key=ACTIONS.index, default="allow")
