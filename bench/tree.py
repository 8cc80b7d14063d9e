"""Figures over this project's own files, and the bounds that they must keep: ``make check`` runs it.

python -m bench.tree
"""

import ast
import graphlib
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grimp
from rich.console import Console
from rich.table import Table

PACKAGES = ("server", "pipelines", "clients")
MEDIAN_LINES = 120  # of a file
MOST_LINES = 400  # of a file
MOST_FUNCTION_LINES = 60

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Definition:
    """A function or class, or a module itself."""

    path: Path
    name: str
    node: ast.Module | ast.ClassDef | Function
    public: bool

    @property
    def lines(self) -> int:
        """From its first line to its last."""
        if isinstance(self.node, ast.Module):
            return len(self.path.read_text(encoding="utf-8").splitlines())
        return (self.node.end_lineno or self.node.lineno) - self.node.lineno + 1

    @property
    def documented(self) -> bool:
        """Whether it has a docstring; what overrides or implements something needs none of its own."""
        return ast.get_docstring(self.node) is not None

    @property
    def typed(self) -> bool:
        """Whether every argument and the result have a type."""
        if not isinstance(self.node, Function):
            return True
        given = self.node.args
        arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
        own = [each for each in arguments if each is not None and each.arg not in ("self", "cls")]
        return self.node.returns is not None and all(each.annotation is not None for each in own)


def definitions(path: Path) -> Iterator[Definition]:
    """The module, its classes and functions, and their methods; nothing within a function."""
    module = ast.parse(path.read_text(encoding="utf-8"))
    yield Definition(path, path.as_posix(), module, public=True)
    yield from _within(path, module, public=True)


def _within(path: Path, node: ast.Module | ast.ClassDef, *, public: bool) -> Iterator[Definition]:
    for each in node.body:
        if isinstance(each, ast.ClassDef | Function):
            shown = public and not each.name.startswith("_")
            yield Definition(path, f"{path.as_posix()}:{each.lineno} {each.name}", each, shown)
            if isinstance(each, ast.ClassDef):
                yield from _within(path, each, public=shown)


def cycle() -> list[str]:
    """Modules that import each other in a circle, imports within functions and for types included; none if none do."""
    graph = grimp.build_graph(*PACKAGES, "loquent", include_external_packages=False, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def main() -> int:
    """Print the figures; returns 1 where a bound is not kept."""
    found = [each for name in PACKAGES for path in sorted(Path(name).rglob("*.py")) for each in definitions(path)]
    files = [each for each in found if isinstance(each.node, ast.Module) and each.lines]
    functions = [each for each in found if isinstance(each.node, Function)]
    public = [each for each in found if each.public and (each.lines or not isinstance(each.node, ast.Module))]
    median = statistics.median(each.lines for each in files)
    circle = cycle()
    faults = [f"the median file has {median:.0f} lines, over {MEDIAN_LINES}"] if median > MEDIAN_LINES else []
    faults += [f"{each.name}: {each.lines} lines, over {MOST_LINES}" for each in files if each.lines > MOST_LINES]
    faults += [
        f"{each.name}: {each.lines} lines, over {MOST_FUNCTION_LINES}"
        for each in functions
        if each.lines > MOST_FUNCTION_LINES
    ]
    faults += [f"{each.name}: no docstring" for each in public if not each.documented]
    faults += [f"{each.name}: not typed" for each in found if not each.typed]
    faults += [f"an import cycle: {' → '.join(circle)}"] if circle else []
    table = Table("figure", "value", box=None, pad_edge=False)
    table.add_row("files, lines", f"{len(files)}, {sum(each.lines for each in files)}")
    table.add_row("median, largest file", f"{median:.0f}, {max(each.lines for each in files)}")
    lengths = [each.lines for each in functions]
    table.add_row("median, longest function", f"{statistics.median(lengths):.0f}, {max(lengths)}")
    table.add_row("public names documented", f"{sum(each.documented for each in public) / len(public):.1%}")
    table.add_row("names typed", f"{sum(each.typed for each in found) / len(found):.1%}")
    table.add_row("import cycles", "none" if not circle else "some")
    console = Console()
    console.print(table)
    for fault in faults:
        console.print(fault, markup=False, soft_wrap=True)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
