"""``loquent models``: lists and installs the models that ship in packages."""

import threading
from argparse import ArgumentParser, Namespace
from pathlib import Path

from server.commands.failure import Exit, Failure

HELP = "List and install the models that ship in packages; convert a Piper voice for Coqui."
EPILOG = "Example: loquent models convert en_US-joe-medium joe-coqui/ writes a checkpoint that Coqui itself can load."


def add_options(parser: ArgumentParser) -> None:
    """The action and the model."""
    parser.add_argument("action", choices=("list", "install", "convert"))
    parser.add_argument(
        "name", nargs="?", help="the model to install, or the voice to convert: a name or an .onnx file"
    )
    parser.add_argument("folder", nargs="?", help="where the converted voice goes; a new folder")


def run(asked: Namespace) -> int:
    """List, install or convert. Raises: Failure."""
    from pipelines.downloads.fetch import PackageError
    from pipelines.speech.voices.interface import VoiceError

    if asked.action == "list":
        show()
        return Exit.OK
    if not asked.name:
        raise Failure(Exit.USAGE, "which one? `loquent models list` shows them.")
    if asked.action == "convert" and not asked.folder:
        raise Failure(Exit.USAGE, f"where to? try: loquent models convert {asked.name} {asked.name}-coqui")
    try:
        if asked.action == "convert":
            convert(asked.name, asked.folder)
        else:
            install(asked.name)
    except (PackageError, VoiceError) as error:
        raise Failure(Exit.RUN_TIME, str(error)) from None
    return Exit.OK


def show() -> None:
    """Print a table of the models, and what each is, which a narrow terminal has no column for."""
    from rich.console import Console
    from rich.table import Table

    from pipelines.downloads.cache import cache_folder
    from pipelines.downloads.catalogue import PACKAGES

    table, about = Table(box=None, pad_edge=False), Table(box=None, pad_edge=False, show_header=False)
    for column in ("name", "role", "size", "licence", "installed"):
        table.add_column(column, no_wrap=column != "licence", min_width=10 if column == "licence" else None)
    for package in PACKAGES.values():
        installed = "yes" if package.installed else "no"
        size = f"{package.megabytes} MB"
        table.add_row(package.name, package.role, size, package.licence, installed)
        about.add_row(package.name, package.about)
    console = Console()
    console.print(table)
    console.print()
    console.print(about)
    console.print(f"\nstored in {cache_folder()}", soft_wrap=True)


def install(name: str) -> None:
    """Fetch a model. Raises: PackageError when the name is unknown or the download fails."""
    from pipelines.downloads.catalogue import PACKAGES
    from pipelines.downloads.fetch import PackageError
    from pipelines.downloads.fetch import install as install_package
    from server.commands.progress import display

    if name not in PACKAGES:
        raise PackageError(f"there is no model {name!r}; there are: {', '.join(sorted(PACKAGES))}")
    package = PACKAGES[name]
    with display() as progress:
        for step in install_package(package, threading.Event()):
            progress(step)
    print(f"{name} is installed: {package.path}")


def convert(voice: str, folder: str) -> None:
    """Write a Piper voice as a Coqui checkpoint. Raises: PackageError, VoiceError when the voice can't be converted."""
    from pipelines.downloads.cache import new_folder
    from pipelines.downloads.catalogue import PACKAGES
    from pipelines.downloads.fetch import install as install_package
    from pipelines.downloads.progress import Progress
    from pipelines.speech.settings import SpeechSettings
    from pipelines.speech.voices.available import why_silent
    from pipelines.speech.voices.interface import VoiceError
    from server.commands.progress import display

    if missing := why_silent(SpeechSettings(engine="coqui")):
        raise VoiceError(missing)
    from pipelines.speech.voices.coqui_convert import convert as convert_voice

    target = Path(folder)
    if target.exists():
        raise VoiceError(f"{target} exists already; name a new folder.")
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
