"""The settings ``[web]``."""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class WebSettings(BaseModel):
    """What browsers get of the server besides its protocol."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    page: bool | Literal["auto"] = "auto"
    widget: bool = True

    def serves_page(self, *, loopback: bool) -> bool:
        """Whether the first page is served; ``loopback``: only this machine can reach the server."""
        return loopback if self.page == "auto" else self.page
