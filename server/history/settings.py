"""The ``[history]`` section of the configuration."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from server.history.location import check


class HistorySettings(BaseModel):
    """Where conversations are stored, so that they survive the process."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: Annotated[str, AfterValidator(check), Field(repr=False)] = "none"
    days: Annotated[float, Field(ge=0, le=36500)] = 30.0
    patience: Annotated[float, Field(gt=0)] = 30.0
    queue_bytes: Annotated[int, Field(ge=1024)] = 16 * 1024 * 1024
