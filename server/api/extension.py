"""Parameters that only this server has, under the key ``loquent``."""

import json
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from server.backend import Backend
from server.errors import ApiError


class LoquentExtension(BaseModel):
    """Parameters that only this server has."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    session: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    verdicts: bool = False
    image: bool | None = None
    task: Annotated[str, Field(max_length=64)] | None = None
    gather: Annotated[float, Field(ge=0, le=1)] = 0.0

    def session_of(self, tenant: str) -> str:
        """The conversation's name, which no other tenant's equals; "" where there is none."""
        return json.dumps([tenant, self.session]) if self.session else ""

    def check(self, backend: Backend) -> None:
        """Raises: ApiError 400 for what this server can't do."""
        if self.verdicts and not backend.reports_verdicts:
            text = "loquent.verdicts: this server does not report verdicts."
            raise ApiError(400, "unsupported_parameter", text, "loquent.verdicts")
        if self.image and not backend.draws:
            text = "loquent.image: this server does not draw."
            raise ApiError(400, "unsupported_parameter", text, "loquent.image")
