"""What ``[image]`` in ``config.toml`` may say."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pipelines.image.formats import LARGEST, SMALLEST, weight
from pipelines.redis_url import check

LARGEST_WEIGHT = weight(LARGEST)  # fewer would leave no room for a single one of the largest

When = Literal["asked", "mood", "never"]
StyleName = Literal["flat", "soft", "3d", "any"]


class ImageSettings(BaseModel):
    """When a reply comes with a picture, and what pictures are like."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    when: When = "asked"
    weights: str = ""
    style: StyleName = "any"
    size: Annotated[int, Field(ge=SMALLEST, le=LARGEST)] = 256
    line: Annotated[str, Field(min_length=1)] = "Here is a picture for you."
    asked_similarity: Annotated[float, Field(ge=0, le=1)] = 0.62
    mood_similarity: Annotated[float, Field(ge=0, le=1)] = 0.55
    deadline: Annotated[float, Field(gt=0)] = 2.0
    waiting: Annotated[int, Field(ge=LARGEST_WEIGHT)] = 64
    kept_bytes: Annotated[int, Field(ge=8 * 1024 * 1024)] = 64 * 1024 * 1024
    expires: Annotated[float, Field(gt=0)] = 3600.0
    store: Annotated[str, AfterValidator(check), Field(repr=False)] = ""
