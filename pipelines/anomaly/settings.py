"""What ``[anomaly]`` in ``config.toml`` may say."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipelines.anomaly.calibrate import HeadName
from pipelines.anomaly.text import LONGEST
from pipelines.anomaly.verdict import Action, Cause, Verdict, worst

Mild = Literal["allow", "flag", "deflect"]


class AnomalySettings(BaseModel):
    """The checks of every input: how strict they are, and what follows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["shadow", "enforce"] = "shadow"
    detector: str = ""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    certain: Annotated[float, Field(gt=0, le=1)] = 0.2
    checks: Action = "flag"
    surface: Action = "flag"
    letters: Action = "flag"
    order: Action = "flag"
    injection: Action = "deflect"
    semantic: Mild = "flag"
    documents: Action = "flag"
    deflection: Annotated[str, Field(min_length=1)] = "I'm sorry, I can't help with that. Is there something else?"
    on_failure: Literal["open", "closed"] = "open"
    deadline: Annotated[float, Field(gt=0)] = 2.0
    longest: Annotated[int, Field(ge=1, le=LONGEST)] = LONGEST
    rate: Annotated[int, Field(ge=1)] = 30
    repeats: Annotated[int, Field(ge=1)] = 5
    verdicts: bool = False

    def action(self, verdict: Verdict, shares: Mapping[HeadName, float]) -> Action:
        """What follows a verdict, where the heads have these shares of alpha; one that is less than certain flags."""
        return worst([self._of(cause, verdict, shares) for cause in verdict.causes])

    def _of(self, cause: Cause, verdict: Verdict, shares: Mapping[HeadName, float]) -> Action:
        action: Action = getattr(self, cause)
        if cause == "checks" or verdict.p(cause) <= self.alpha * shares.get(cause, 1.0) * self.certain:
            return action
        return "flag" if action in ("deflect", "block") else action
