"""The settings ``[web]``."""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class WebSettings(BaseModel):
    """What browsers get of the server besides its protocol."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    page: bool | Literal["auto"] = "auto"
    widget: bool = True
