"""Which stages there are: a package of ours with a ``part`` module, and what other distributions offer.

An installed distribution offers a stage as an entry point of the group ``loquent.stages``, which names its ``part``
function; see ``docs/stages.md``.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import pipelines
from pipelines.part import MakePart

GROUP = "loquent.stages"
SERVICES = ("listening",)  # parts that are no stage of a turn


class StageUnavailableError(ValueError):
    """There is no such stage, or it can't be used; the message says what there is."""


def built_in() -> tuple[str, ...]:
    """The stages that come with the server."""
    packages = [module.name for module in pkgutil.iter_modules(pipelines.__path__) if module.ispkg]
    return tuple(name for name in packages if name not in SERVICES and _has_part(name))


def _has_part(package: str) -> bool:
    """Whether it has a ``part`` module; it is not imported, because some need PyTorch for their first line."""
    folders = [str(Path(path, package)) for path in pipelines.__path__]
    return any(module.name == "part" for module in pkgutil.iter_modules(folders))


def offered() -> Mapping[str, EntryPoint]:
    """The stages that other distributions offer, by name; one of ours can't be replaced."""
    ours = built_in()
    return {entry.name: entry for entry in entry_points(group=GROUP) if entry.name not in ours}


def check(name: str) -> None:
    """Raises: StageUnavailableError where there is no stage of this name, naming the nearest."""
    known = (*built_in(), *offered())
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(sorted(known))}."
        raise StageUnavailableError(f"there is no stage {name!r}. {hint}")


def maker(name: str) -> MakePart:
    """The function that makes the part of a stage or a service.

    Raises: StageUnavailableError where it can't be imported.
    """
    if name not in SERVICES:
        check(name)
    try:
        if name in (*SERVICES, *built_in()):
            make: MakePart = importlib.import_module(f"pipelines.{name}.part").part
            return make
        loaded: MakePart = offered()[name].load()
        return loaded
    except (ImportError, AttributeError) as error:
        raise StageUnavailableError(f"the stage {name!r} can't be loaded: {error}") from error
