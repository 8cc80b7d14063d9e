"""What ``[listening]`` in ``config.toml`` may say."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Milliseconds = Annotated[int, Field(ge=0, le=60_000)]


class ListeningSettings(BaseModel):
    """How speech is heard, and when it interrupts a reply."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = "whisper-base"
    threads: Annotated[int, Field(ge=1, le=64)] = 1
    streams: Annotated[int, Field(ge=1)] = 16
    file_seconds: Annotated[float, Field(ge=1, le=36_000)] = 1800.0
    interrupt_ms: Milliseconds = 500
    grace_ms: Milliseconds = 1000
    stop_words: tuple[str, ...] = ("stop", "wait", "hold on", "be quiet", "shut up", "cancel")
    agreement: tuple[str, ...] = (
        *("mm", "mhm", "mm-hm", "mm-hmm", "hm", "hmm", "uh", "uh-huh", "um", "ah", "oh", "huh", "ha", "haha"),
        *(
            "yeah",
            "yes",
            "yep",
            "ok",
            "okay",
            "right",
            "sure",
            "i see",
            "got it",
            "exactly",
            "true",
            "no way",
            "really",
        ),
        *("cool", "wow", "great", "nice"),
    )
