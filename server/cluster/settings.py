"""What ``[ray]`` in ``config.toml`` may say."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1024)]
Count = Annotated[int, Field(ge=1, le=10_000)]


def _range(given: tuple[int, int]) -> tuple[int, int]:
    if given[0] > given[1]:
        raise ValueError("is the least and the most, such as [1, 4]")
    return given


Range = Annotated[tuple[Count, Count], AfterValidator(_range)]


class RaySettings(BaseModel):
    """How many replicas there are of each kind on Ray Serve, and what each one takes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gateways: Range = (1, 4)
    gateway_requests: Count = 1000
    gateway_cpus: Share = 1.0
    engines: Range = (1, 4)
    engine_cpus: Share = 1.0
    engine_gpus: Share = 0.0
