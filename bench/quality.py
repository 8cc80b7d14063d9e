"""What narrow numbers cost: perplexity, and how often the likeliest token is float32's, on a fixed text.

Run with ``make bench``. The text is this project's licence.
"""

import argparse
from pathlib import Path
from unittest.mock import patch

import torch
from rich.progress import track
from torch import Tensor

from bench import results
from bench.results import Figures
from bench.servers import prepared
from pipelines import kernels
from pipelines.chat.model.gguf import read
from pipelines.chat.model.gguf_model import tokenizer
from pipelines.chat.model.interface import Segment
from pipelines.chat.model.load import load
from pipelines.chat.settings import ChatSettings

TEXT = Path("LICENSE")
WINDOW = 1024  # tokens read from an empty slot
PIECE = 64  # tokens a step, as when prompts are read beside streams
EXACT = {
    "float32": ChatSettings(dtype="float32"),
    "bfloat16, exact": ChatSettings(dtype="bfloat16", weights="exact"),
}
PACKED = ChatSettings(dtype="bfloat16", weights="auto")


def logits(file: Path, settings: ChatSettings, windows: list[list[int]]) -> Tensor:
    """The logits behind every token of every window but its last, (N, V)."""
    model = load(file, settings)
    rows = [
        model.forward([Segment(0, at, window[at : at + PIECE], len(window[at : at + PIECE]))]).float()
        for window in track(windows, settings.dtype)
        for at in range(0, len(window), PIECE)
    ]
    ends = torch.tensor([len(window) for window in windows]).cumsum(0) - 1
    kept = torch.ones(int(ends[-1]) + 1, dtype=torch.bool)
    kept[ends] = False
    return torch.cat(rows)[kept]


def main() -> None:
    """Measure every form of the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    file = prepared()
    tokens: list[int] = tokenizer(read(file))(TEXT.read_text(), verbose=False)["input_ids"]
    windows = [tokens[at : at + WINDOW] for at in range(0, len(tokens), WINDOW)]
    wanted = torch.tensor([token for window in windows for token in window[1:]])
    rows: list[list[str]] = []
    figures: Figures = {}
    exact: Tensor | None = None
    forms = {f"bfloat16, auto, {form.name.lower()}": form for form in kernels.forms()}
    for name in (*EXACT, *forms):
        with patch.object(kernels, "forms", lambda name=name: [forms[name]] if name in forms else []):
            given = logits(file, EXACT.get(name, PACKED), windows)
        exact = given if exact is None else exact
        perplexity = float(torch.nn.functional.cross_entropy(given, wanted).exp())
        alike = float((given.argmax(-1) == exact.argmax(-1)).float().mean())
        error = float((given - exact).norm() / exact.norm())
        rows.append([name, f"{perplexity:.2f}", f"{alike:.1%}", f"{error:.1%}"])
        figures |= {f"{name}/perplexity": perplexity, f"{name}/alike": alike, f"{name}/error": error}
    columns = ["weights", "perplexity", "likeliest token as in float32", "logits off by"]
    title = f"## What narrow numbers cost, {len(wanted)} tokens of {TEXT}"
    results.show("quality", f"{title}\n\n{results.head('quality')}\n\n{results.table(columns, rows)}", figures)


if __name__ == "__main__":
    main()
