"""What ``[ray]`` in ``config.toml`` may say."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

PartKind = Literal["embedding", "image", "speech"]  # that may have replicas of their own: a range and its cpus below

Share = Annotated[float, Field(ge=0, le=1024)]
Seconds = Annotated[float, Field(gt=0, le=86400)]
Count = Annotated[int, Field(ge=1, le=10_000)]


def _range(given: tuple[int, int]) -> tuple[int, int]:
    if given[0] > given[1]:
        raise ValueError("is the least and the most, such as [1, 4]")
    return given


def _range_or_none(given: tuple[int, int]) -> tuple[int, int]:
    if given[0] == 0 < given[1]:
        raise ValueError("is [0, 0], inside the gateways, or at least one and at most so many, such as [1, 4]")
    return _range(given)


Range = Annotated[tuple[Count, Count], AfterValidator(_range)]
CountOrNone = Annotated[int, Field(ge=0, le=10_000)]
RangeOrNone = Annotated[tuple[CountOrNone, CountOrNone], AfterValidator(_range_or_none)]


class RaySettings(BaseModel):
    """How many replicas there are of each kind on Ray Serve, and what each one takes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gateways: Range = (1, 4)
    gateway_requests: Count = 1000
    gateway_cpus: Share = 1.0
    engines: Range = (1, 4)
    engine_cpus: Share = 1.0
    engine_gpus: Share = 0.0
    speech: RangeOrNone = (0, 0)
    speech_cpus: Share = 1.0
    embedding: RangeOrNone = (0, 0)
    embedding_cpus: Share = 1.0
    image: RangeOrNone = (0, 0)
    image_cpus: Share = 1.0
    remove_after: Seconds = 300.0
