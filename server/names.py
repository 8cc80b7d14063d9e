"""The names that clients call models by."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipelines.events import StageError


def public_name(model: str) -> str:
    """The public name of a configured model or voice; a path is reduced to its last part."""
    path = Path(model).expanduser()
    if not path.exists():
        return model
    return path.stem if path.suffix.lower() in (".gguf", ".onnx") else path.resolve().name


@dataclass(frozen=True, slots=True)
class ModelNames:
    """The loaded model's name, and its aliases."""

    here: str
    aliases: tuple[str, ...] = ()
    unknown: Literal["default", "error"] = "default"

    def resolve(self, asked: str | None) -> str:
        """The model that ``asked`` refers to. Raises: StageError ``model_not_found`` with ``unknown = "error"``."""
        if asked in (None, "", self.here) or asked in self.aliases or self.unknown == "default":
            return self.here
        raise StageError(
            "invalid_request",
            "model_not_found",
            f"There is no model {asked!r:.100} here; there is {self.here!r}.",
            param="model",
        )


@dataclass(frozen=True, slots=True)
class VoiceNames:
    """The loaded voice's name, its speakers, and its aliases."""

    here: str
    speakers: tuple[str, ...]
    aliases: tuple[str, ...]
    unknown: Literal["default", "error"] = "default"

    def resolve(self, asked: str | None) -> str:
        """The speaker that ``asked`` refers to, "" for the configured one.

        Raises: StageError ``voice_not_found`` with ``unknown = "error"``.
        """
        if asked in self.speakers:
            return asked or ""
        if asked in (None, "", self.here) or asked in self.aliases or self.unknown == "default":
            return ""
        known = ", ".join((self.here, *self.speakers))
        raise StageError(
            "invalid_request", "voice_not_found", f"There is no voice {asked!r:.100} here; there are {known}."
        )
