"""What ``[speech]`` in ``config.toml`` may say."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Scale = Annotated[float, Field(ge=0, le=2)] | Literal["voice"]
AUTO = "auto"  # the language of each sentence
BUNDLED = "en_US-joe-medium"
BUNDLED_KOKORO = "kokoro-82m"


class SpeechSettings(BaseModel):
    """How replies are spoken: by which voice, and by how many at a time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: Literal["piper", "kokoro", "coqui"] = "piper"
    voice: Annotated[str, Field(min_length=1)] = BUNDLED
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
    waiting: Annotated[int, Field(ge=0)] = 256
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
    voices: dict[str, str] = {
        "alloy": "af_alloy",
        "ash": "am_michael",
        "ballad": "bm_george",
        "cedar": "am_fenrir",
        "coral": "af_bella",
        "echo": "am_echo",
        "fable": "bm_fable",
        "marin": "af_heart",
        "nova": "af_nova",
        "onyx": "am_onyx",
        "sage": "af_sarah",
        "shimmer": "af_sky",
        "verse": "am_puck",
    }

    @model_validator(mode="before")
    @classmethod
    def _bundled(cls, given: Any) -> Any:
        """The bundled voice of an engine is the engine's: Kokoro can't load Piper's."""
        if isinstance(given, dict) and given.get("engine") == "kokoro" and given.get("voice", BUNDLED) == BUNDLED:
            return given | {"voice": BUNDLED_KOKORO}
        return given

    @model_validator(mode="after")
    def _detected(self) -> "SpeechSettings":
        if self.language == AUTO and self.engine != "kokoro":
            raise ValueError(f'language = "auto" is for engine = "kokoro": the voice of {self.engine} has one language')
        return self
