"""``loquent screen``: what the server's anomaly detector says of texts, one a line."""

import http.client
import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from clients.terminal.connection import ClientError, Target
from clients.terminal.http import post

TOGETHER = 16  # texts of one request
BYTES = 32 * 1024  # of one request, about; a longer text goes alone


def screen(target: Target, texts: Iterable[str], *, as_json: bool) -> None:
    """Print a verdict for each text that is not empty.

    Raises: ClientError that says what to do.
    """
    console, errors = Console(), Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("screening"), MofNCompleteColumn(), TimeElapsedColumn())
    hidden = not errors.is_terminal or console.is_terminal  # a bar only where no verdicts run down the same terminal
    with Progress(*columns, console=errors, transient=True, disable=hidden) as bar:
        task = bar.add_task("", total=None)
        for batch in _batches(texts):
            for text, result in zip(batch, _screened(target, batch), strict=True):
                _print(console, text, result, as_json=as_json)
                bar.update(task, advance=1)
            sys.stdout.flush()


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        if not text.strip():
            continue
        length = len(text.encode(errors="replace"))
        if batch and (len(batch) == TOGETHER or size + length > BYTES):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += length
    if batch:
        yield batch


def _screened(target: Target, texts: list[str]) -> list[dict[str, Any]]:
    body: dict[str, Any] = {"input": texts}
    if target.model:
        body["model"] = target.model
    with post(target, "/v1/moderations", body) as response:
        try:
            return list(json.loads(response.read())["results"])
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            raise ClientError("The server's answer could not be read; its log may say why.") from error


def _print(console: Console, text: str, result: dict[str, Any], *, as_json: bool) -> None:
    verdict = result["loquent"]
    if as_json:
        print(json.dumps({"text": text, "flagged": result["flagged"]} | verdict, ensure_ascii=False))
        return
    action, p_value = str(verdict["action"]), float(verdict["p_value"])
    line = Text(f"{action:<8} {p_value:<8.2g} ", style="bold red" if result["flagged"] else "green")
    line.append(" ".join(text.split())[:100], style="default")
    console.print(line, soft_wrap=True)
    if result["flagged"]:
        console.print(Text("         " + "; ".join(_reasons(verdict)), style="dim"), soft_wrap=True)


def _reasons(verdict: dict[str, Any]) -> Iterator[str]:
    for cause in verdict["causes"]:
        if cause != "checks":
            yield f"{cause} p={verdict['heads'][cause]['p_value']:.2g}"
    for finding in verdict["findings"]:
        yield f"{finding['check']}: {finding['detail']}"
    for deviation in verdict["deviations"]:
        yield f"{deviation['feature']} {deviation['deviations']:+.1f} deviations"
