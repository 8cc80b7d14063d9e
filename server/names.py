"""The names that clients call models by."""

from dataclasses import dataclass
from pathlib import Path

from pipelines.events import StageError
from server.config import ModelsSettings


def public_name(model: str) -> str:
    """What clients are told of ``[chat] model``: of a path its last part only."""
    path = Path(model).expanduser()
    if not path.exists():
        return model
    return path.stem if path.suffix == ".gguf" else path.resolve().name


@dataclass(frozen=True, slots=True)
class ModelNames:
    """What is here, and what else means it."""

    here: str
    settings: ModelsSettings

    def resolve(self, asked: str | None) -> str:
        """The model that ``asked`` means. Raises: StageError ``model_not_found`` where the configuration wants that."""
        if asked in (None, "", self.here) or asked in self.settings.aliases or self.settings.unknown == "default":
            return self.here
        raise StageError(
            "invalid_request",
            "model_not_found",
            f"There is no model {asked!r:.100} here; there is {self.here!r}.",
            param="model",
        )
