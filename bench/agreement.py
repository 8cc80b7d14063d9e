"""The packed forms of the weights beside llama.cpp on the same file: perplexity, and how often the likeliest token is
that of the file's de-quantised values in float32.

Run with ``make bench``. llama.cpp's own tool computes its log-likelihoods, and those of the file de-quantised; Loquent
prefills the same tokens. The text is this project's licence; as that tool does, only the second half of each window
counts.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor

from bench import results
from bench.peers import Missing, llama_options, llama_tool
from bench.results import Figures, table
from bench.servers import MODEL, gguf, prepared
from pipelines import kernels
from pipelines.chat.model.interface import Segment
from pipelines.chat.settings import ChatSettings

TEXT = Path("LICENSE")
MODELS = (MODEL, "qwen2.5-coder-0.5b-instruct")
WINDOW = 512  # tokens
WINDOWS = 3
PIECE = 64  # tokens a step, as when prompts are prefilled beside streams
SECONDS = 600.0
DEPTH = 16.0  # below the likeliest token, where the tool cuts log-likelihoods off
MAGIC = b"_logits_"
HEAD = 4  # numbers of 16 bits before each row: its scale and its lowest value, as two floats


@dataclass(frozen=True)
class Given:
    """A text's tokens (windows, window), and of each counted one the log-likelihoods and what came next."""

    tokens: Tensor
    likelihoods: Tensor  # (N, V)

    @property
    def wanted(self) -> Tensor:
        """The tokens that came, (N)."""
        return self.tokens[:, self.tokens.shape[1] // 2 + 1 :].flatten()

    @property
    def perplexity(self) -> float:
        """Of the text."""
        return float(torch.nn.functional.nll_loss(self.likelihoods, self.wanted).exp())

    def agreement(self, other: "Given") -> float:
        """The share of tokens of which both find the same one the likeliest."""
        return float((self.likelihoods.argmax(-1) == other.likelihoods.argmax(-1)).float().mean())


def parsed(path: Path) -> Given:
    """What llama.cpp's perplexity tool wrote: 16 bits a log-likelihood."""
    data = path.read_bytes()
    if data[: len(MAGIC)] != MAGIC:
        raise ValueError(f"{path} holds no log-likelihoods")
    window, vocabulary, windows = np.frombuffer(data, np.int32, 3, len(MAGIC))
    at = len(MAGIC) + 12
    tokens = np.frombuffer(data, np.int32, window * windows, at).reshape(windows, window)
    rows = np.frombuffer(data, np.uint16, offset=at + tokens.nbytes).reshape(-1, HEAD + 2 * ((vocabulary + 1) // 2))
    factors = rows[:, :HEAD].copy().view(np.float32)
    likelihoods = rows[:, HEAD : HEAD + vocabulary] * factors[:, :1] + factors[:, 1:]
    return Given(torch.from_numpy(tokens.astype(np.int64)), torch.from_numpy(likelihoods))


def tool(name: str, *options: object) -> None:
    """Run one of llama.cpp's programs. Raises: CalledProcessError."""
    command, environment = llama_tool(name)
    command += map(str, options)
    with results.LOG.open("ab") as log:
        subprocess.run(command, check=True, env=os.environ | environment, stdout=log, stderr=log, timeout=SECONDS)


def theirs(file: Path, folder: Path) -> Given:
    """What llama.cpp makes of the text with this file."""
    target = folder / "likelihoods"
    size = ("-c", WINDOW, "--chunks", WINDOWS)
    tool("llama-perplexity", "-m", file, "-f", TEXT, *size, *llama_options(), "--kl-divergence-base", target)
    return parsed(target)


def exact(file: Path, folder: Path) -> Given:
    """The same with the file's values de-quantised to float32."""
    target = folder / "exact.gguf"
    tool("llama-quantize", "--allow-requantize", file, target, "f32")
    try:
        return theirs(target, folder)
    finally:
        target.unlink()


@torch.inference_mode()
def ours(model: str, form: kernels.Form, tokens: Tensor) -> Given:
    """What Loquent makes of the same tokens, with weights packed in this form."""
    from pipelines.chat.model.load import load

    with patch.object(kernels, "forms", lambda: [form]):
        served = load(prepared(model), ChatSettings(model=model, dtype="bfloat16", weights="auto"))
        rows = []
        for window in tokens.tolist():
            logits = torch.cat([
                served.forward([Segment(0, at, window[at : at + PIECE], PIECE)]).float()
                for at in range(0, WINDOW, PIECE)
            ])  # fmt: skip
            rows.append(logits[WINDOW // 2 : -1].log_softmax(-1))
    likelihoods = torch.cat(rows)
    return Given(tokens, likelihoods.maximum(likelihoods.amax(-1, keepdim=True) - DEPTH))


def measure(model: str, figures: Figures) -> Iterator[list[str]]:
    """The rows of a model: model, form, perplexity, to llama.cpp's, likeliest token as in float32."""
    file = gguf(model)
    with tempfile.TemporaryDirectory(prefix="loquent-bench-") as name:
        reference, peer = exact(file, Path(name)), theirs(file, Path(name))
    forms = {f"Loquent, {form.name.lower()}": ours(model, form, peer.tokens) for form in kernels.forms()}
    for name, given in {"float32": reference, "llama.cpp": peer, **forms}.items():
        ratio, greedy = given.perplexity / peer.perplexity, given.agreement(reference)
        yield [model, name, f"{given.perplexity:.3f}", f"{ratio:.4f} ×", f"{greedy:.1%}"]
        if name in forms:  # the worst of them
            key = f"{model}/"
            figures[key + "perplexity"] = max(ratio, figures.get(key + "perplexity", ratio))
            beyond = greedy - peer.agreement(reference)
            figures[key + "greedy"] = min(beyond, figures.get(key + "greedy", beyond))


def main() -> None:
    """Compare every model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="from the catalogue, or GGUF files")
    asked = parser.parse_args()
    results.FOLDER.mkdir(parents=True, exist_ok=True)
    figures: Figures = {}
    rows: list[list[str]] = []
    with Progress(transient=True) as progress:
        for model in progress.track(asked.models, description="comparing"):
            try:
                rows += measure(model, figures)
            except Missing as error:
                sys.exit(f"llama.cpp can't be had: {error}")
    columns = ["model", "weights", "perplexity", "to llama.cpp's", "likeliest token as in float32"]
    count = WINDOWS * (WINDOW - WINDOW // 2 - 1)
    title = f"# The packed forms beside llama.cpp, {count} tokens of {TEXT}"
    results.show("agreement", f"{title}\n\n{results.head('agreement')}\n\n{table(columns, rows)}", figures)


if __name__ == "__main__":
    main()
