"""What ``[anomaly]`` in ``config.toml`` may say."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipelines.anomaly.text import LONGEST
from pipelines.anomaly.verdict import Action, Cause

Mild = Literal["allow", "flag", "deflect"]


class AnomalySettings(BaseModel):
    """The checks of every input: how strict they are, and what follows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["shadow", "enforce"] = "shadow"
    detector: str = ""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
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

    def action(self, cause: Cause) -> Action:
        """What follows when this says that a message is not normal."""
        action: Action = getattr(self, cause)
        return action
