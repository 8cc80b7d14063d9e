"""The settings ``[sessions]``."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class SessionsSettings(BaseModel):
    """What becomes of a realtime session whose socket breaks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    linger: Annotated[float, Field(ge=0)] = 60.0
    replay_bytes: Annotated[int, Field(ge=1024)] = 1024 * 1024
