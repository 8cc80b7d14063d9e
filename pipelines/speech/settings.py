"""What ``[speech]`` in ``config.toml`` may say."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Scale = Annotated[float, Field(ge=0, le=2)] | Literal["voice"]


class SpeechSettings(BaseModel):
    """How replies are spoken: by which voice, and by how many at a time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: Literal["piper", "coqui"] = "piper"
    voice: Annotated[str, Field(min_length=1)] = "en_US-joe-medium"
    speaker: str = ""
    language: str = ""
    clone: str = ""
    speed: Annotated[float, Field(ge=0.25, le=4)] = 1.0
    volume: Annotated[float, Field(gt=0, le=4)] = 1.0
    noise: Scale = "voice"
    rhythm: Scale = "voice"
    pause: Annotated[float, Field(ge=0, le=5)] = 0.15
    threads: Annotated[int, Field(ge=0, le=64)] = 0
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    streams: Annotated[int, Field(ge=1)] = 16
    ahead: Annotated[float, Field(gt=0, le=60)] = 5.0
    aliases: tuple[str, ...] = (
        "alloy",
        "ash",
        "ballad",
        "cedar",
        "coral",
        "echo",
        "fable",
        "marin",
        "nova",
        "onyx",
        "sage",
        "shimmer",
        "verse",
    )
