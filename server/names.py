"""The names that clients call models by."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
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
    """The name of an endpoint's model, and its aliases; ``*`` in an alias stands for any characters."""

    here: str
    aliases: tuple[str, ...] = ()
    unknown: Literal["default", "error"] = "default"
    others: tuple[str, ...] = ()  # models of the same endpoint that no alias means

    def known(self, asked: str) -> bool:
        """Whether the name is a model's own or an alias."""
        return asked in self.own or any(fnmatchcase(asked, alias) for alias in self.aliases)

    @property
    def own(self) -> tuple[str, ...]:
        """The own names of the endpoint's models."""
        return self.here, *self.others

    @property
    def exact(self) -> tuple[str, ...]:
        """The models' own names and the aliases that are no patterns."""
        return *self.own, *(alias for alias in self.aliases if not set(alias) & set("*?["))

    def resolve(self, asked: str | None) -> str:
        """The model that ``asked`` refers to. Raises: StageError ``model_not_found`` with ``unknown = "error"``."""
        if asked in self.others:
            return asked
        if not asked or self.known(asked) or self.unknown == "default":
            return self.here
        taken = ", ".join((*self.own, *self.aliases))
        raise StageError(
            "invalid_request",
            "model_not_found",
            f"There is no model {asked!r:.100} here. Names that are taken here: {taken}.",
            param="model",
        )

    def chosen(self, asked: str | None) -> "ModelNames":
        """The same names, of which ``asked`` is here for all that follows. Raises: as ``resolve``."""
        here = self.resolve(asked)
        return replace(self, here=here, others=tuple(name for name in self.own if name != here))


@dataclass(frozen=True, slots=True)
class VoiceNames:
    """The loaded voice's name, its speakers, its aliases, and the aliases of speakers."""

    here: str
    speakers: tuple[str, ...]
    aliases: tuple[str, ...]
    unknown: Literal["default", "error"] = "default"
    voices: Mapping[str, str] = field(default_factory=dict)  # from an alias to a speaker, if the voice has that one

    def resolve(self, asked: str | None) -> str:
        """The speaker that ``asked`` refers to, "" for the configured one.

        Raises: StageError ``voice_not_found`` with ``unknown = "error"``.
        """
        for name in (asked, self.voices.get(asked or "")):
            if name in self.speakers:
                return name or ""
        if asked in (None, "", self.here) or asked in self.aliases or self.unknown == "default":
            return ""
        known = ", ".join((self.here, *self.speakers))
        raise StageError(
            "invalid_request", "voice_not_found", f"There is no voice {asked!r:.100} here; there are {known}."
        )
