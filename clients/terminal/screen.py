"""``loquent screen``: the anomaly detector's verdicts on texts, one per line."""

import http.client
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from clients.target import Target
from clients.terminal.http import post
from clients.terminal.output import print_json
from loquent import LoquentError, RefusedError

TOGETHER = 16  # texts of one request
BYTES = 32 * 1024  # of one request's texts as JSON, about; a longer text goes alone
REFUSED = (400, 413)  # statuses that are caused by the text itself


def screen(target: Target, texts: Iterable[str], *, as_json: bool, options: Mapping[str, bool]) -> None:
    """Print a verdict for each text that is not empty; ``options`` are those under ``loquent`` of the request.

    Raises: LoquentError; also at the end, when the server refused a text.
    """
    console, errors = Console(), Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("screening"), MofNCompleteColumn(), TimeElapsedColumn())
    hidden = not errors.is_terminal or console.is_terminal  # a bar only where verdicts don't go to the same terminal
    with Progress(*columns, console=errors, transient=True, disable=hidden, redirect_stdout=False) as bar:
        task = bar.add_task("", total=None)
        refused = 0
        for batch in _batches(texts):
            for text, result in _results(target, batch, options):
                refused += isinstance(result, RefusedError)
                _print(console, text, result, as_json=as_json)
                bar.update(task, advance=1)
            sys.stdout.flush()
    if refused:
        raise LoquentError(f"The server refused {refused} of the texts.")


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        if not text.strip():
            continue
        length = len(json.dumps(text, ensure_ascii=False).encode())  # a control character takes six bytes
        if batch and (len(batch) == TOGETHER or size + length > BYTES):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += length
    if batch:
        yield batch


def _results(
    target: Target, batch: list[str], options: Mapping[str, bool]
) -> Iterator[tuple[str, dict[str, Any] | RefusedError]]:
    """Each text with its result; where the server refuses a batch, each text is sent alone."""
    try:
        yield from zip(batch, _screened(target, batch, options), strict=True)
    except RefusedError as error:
        if error.status not in REFUSED:
            raise
        if len(batch) == 1:
            yield batch[0], error
            return
        for text in batch:
            yield from _results(target, [text], options)


def _screened(target: Target, texts: list[str], options: Mapping[str, bool]) -> list[dict[str, Any]]:
    body: dict[str, Any] = {"input": texts, "loquent": dict(options)}
    if target.model:
        body["model"] = target.model
    with post(target, "/v1/moderations", body) as response:
        try:
            return list(json.loads(response.read())["results"])
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            raise LoquentError("The server's answer could not be read; its log may say why.") from error


def _print(console: Console, text: str, result: dict[str, Any] | RefusedError, *, as_json: bool) -> None:
    if isinstance(result, RefusedError):
        if as_json:
            print_json({"text": text, "error": {"code": result.code, "message": str(result)}}, sys.stdout)
            return
        console.print(_line("refused", "-", text, "bold yellow"), soft_wrap=True)
        console.print(Text(f"         {result}", style="dim"), soft_wrap=True)
        return
    verdict = result["loquent"]
    if as_json:
        print_json({"text": text, "flagged": result["flagged"]} | verdict, sys.stdout)
        return
    action, p_value = str(verdict["action"]), float(verdict["p_value"])
    style = "bold red" if result["flagged"] else "green"
    console.print(_line(action, f"{p_value:.2g}", text, style), soft_wrap=True)
    if "explanation" in verdict:
        for sentence in verdict["explanation"]:
            console.print(Text(f"         {sentence}", style="dim"), soft_wrap=True)
    elif result["flagged"]:
        console.print(Text("         " + "; ".join(_reasons(verdict)), style="dim"), soft_wrap=True)


def _line(action: str, p_value: str, text: str, style: str) -> Text:
    line = Text(f"{action:<8} {p_value:<8} ", style=style)
    return line.append(" ".join(text.split())[:100], style="default")


def _reasons(verdict: dict[str, Any]) -> Iterator[str]:
    for cause in verdict["causes"]:
        if cause != "checks":
            yield f"{cause} p={verdict['heads'][cause]['p_value']:.2g}"
    for finding in verdict["findings"]:
        yield f"{finding['check']}: {finding['detail']}"
    for deviation in verdict["deviations"]:
        yield f"{deviation['feature']} {deviation['deviations']:+.1f} deviations"
