"""The report of a training: tables and pictures, as HTML with the PNG files beside it."""

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.anomaly.calibrate import ALL
from pipelines.anomaly.detector import Detector
from pipelines.anomaly.training.results import ALIKE

if TYPE_CHECKING:
    from pipelines.anomaly.training.results import Result
    from pipelines.anomaly.training.train import Trained

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:1rem 0}"
    "td,th{padding:.25rem .75rem;border-bottom:1px solid #ddd;text-align:left}"
    "td.n{text-align:right;font-variant-numeric:tabular-nums}.no{color:#b00020;font-weight:600}img{max-width:100%}"
)


def write(folder: Path, trained: "Trained", about: Mapping[str, Any]) -> Path:
    """Write ``report.html`` and its pictures; returns its path."""
    from matplotlib.figure import Figure

    detector, curves, result = trained.detector, trained.curves, trained.result

    pictures = []

    def picture(name: str, caption: str, figure: Figure) -> None:
        figure.savefig(folder / f"{name}.png", dpi=110, bbox_inches="tight")
        pictures.append((f"{name}.png", caption))

    figure = Figure(figsize=(9, 3.4))
    for axes, (head, losses) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        axes.plot([loss for loss, _ in losses], label="trained on")
        axes.plot([loss for _, loss in losses], label="held out, without chance")
        axes.set(title=f"{head} head", xlabel="epoch", ylabel="negative ELBO, nats")
        axes.legend()
    figure.tight_layout()
    picture("losses", "How training went", figure)
    if result is not None:
        picture(
            "roc",
            "Found against false alarms, all heads together; the line is at the configured share",
            _roc(detector, result),
        )
        picture("latent", "The semantic head's latent space, along its two main directions", _latent(result))
    sections = [_settings(detector, about), *([_rows(result), _areas(result)] if result is not None else [])]
    images = "".join(
        f'<h2>{html.escape(caption)}</h2><img src="{name}" alt="{html.escape(caption)}">' for name, caption in pictures
    )
    title = f"Anomaly detector: {html.escape(detector.name)}"
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        f"<h1>{title}</h1>{''.join(sections)}{images}</html>\n"
    )
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _roc(detector: Detector, result: "Result") -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5))
    axes = figure.subplots()
    for kind, (false, found) in result.curves.items():
        axes.plot(false, found, label=kind)
    axes.axvline(detector.alpha, color="grey", linestyle=":")
    axes.set(xscale="log", xlim=(0.002, 1), ylim=(0, 1.02), xlabel="false alarms", ylabel="found")
    axes.legend(loc="lower right")
    return figure


def _latent(result: "Result") -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5))
    axes = figure.subplots()
    for label in dict.fromkeys(result.labels):
        points = result.latent[[each == label for each in result.labels]]
        axes.scatter(points[:, 0], points[:, 1], s=8, alpha=0.6, label=label)
    axes.legend()
    return figure


def _settings(detector: Detector, about: Mapping[str, Any]) -> str:
    pools, levels = detector.calibration.pools, detector.calibration.levels
    heads = [
        (head, f"{share:.2f}", f"{share * detector.alpha:.4f}", str(len(pools[head, ALL])), str(len(levels[head])))
        for head, share in detector.calibration.shares.items()
    ]
    facts = [(str(name), str(value)) for name, value in about.items()]
    return (
        "<h2>What it was made from</h2>"
        + table(("", ""), facts)
        + f"<h2>Heads</h2><p>False alarms allowed: {detector.alpha:.3g}, shared among the heads.</p>"
        + table(("head", "share", "its p-value must be at most", "calibration scores", "levels"), heads)
    )


def _rows(result: "Result") -> str:
    return "<h2>Measured on messages that were not trained on</h2>" + table(
        ("measure", "share", "95 %", "of", "must reach"),
        [
            (row.measure, f"{row.share:.3f}", f"{row.interval[0]:.3f} to {row.interval[1]:.3f}", str(row.of), goal(row))
            for row in result.rows
        ],
        wrong=[not row.met for row in result.rows],
    )


def goal(row: Any) -> str:
    """What a row must reach, in words."""
    parts = [f"≥ {row.least:g}" if row.least is not None else "", f"≤ {row.most:g}" if row.most is not None else ""]
    return " and ".join(part for part in parts if part)


def _areas(result: "Result") -> str:
    return "<h2>Area under the ROC curve, of meaning alone</h2>" + table(
        ("class", "VAE", "five nearest normal messages", "must reach"),
        [
            (each.measure, f"{each.vae:.3f}", f"{each.nearest:.3f}", "" if each.least is None else f"≥ {each.least:g}")
            for each in result.areas
        ],
        wrong=[each.least is not None and each.vae < each.least for each in result.areas],
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], wrong: Sequence[bool] = ()) -> str:
    """An HTML table; ``wrong`` marks rows that miss their goal."""
    body = "".join(
        f"<tr{' class=no' if n < len(wrong) and wrong[n] else ''}>"
        + "".join(f"<td{'' if not place else ' class=n'}>{html.escape(cell)}</td>" for place, cell in enumerate(row))
        + "</tr>"
        for n, row in enumerate(rows)
    )
    return f"<table><tr>{''.join(f'<th>{html.escape(cell)}</th>' for cell in head)}</tr>{body}</table>"


def markdown(result: "Result") -> str:
    """The measured rows as a Markdown table, for the model card."""
    lines = ["| measure | share | 95 % (Wilson) | of | must reach |", "| --- | --- | --- | --- | --- |"]
    for row in result.rows:
        low, high = row.interval
        mark = "" if row.met else " **missed**"
        lines.append(f"| {row.measure} | {row.share:.3f}{mark} | {low:.3f} to {high:.3f} | {row.of} | {goal(row)} |")
    lines += [
        "",
        "| area under the ROC curve, meaning alone | VAE | 5 nearest | must reach |",
        "| --- | --- | --- | --- |",
    ]
    for area in result.areas:
        must = "" if area.least is None else f"≥ {area.least:g}"
        lines.append(f"| {area.measure} | {area.vae:.3f} | {area.nearest:.3f} | {must} |")
    return "\n".join(lines) + "\n"


TIMES = "ten"  # that the bundled detector's table was made
CARD = """# The bundled anomaly detector

Five heads over one message, calibrated by split conformal prediction: how its characters are distributed (a VAE over
21 features), how usual its letters and the order of its words are (counts; the order of English words alone), whether
it is an injection or a jailbreak (five small networks on the embeddings of the whole and of its sentences, beside a
linear model of their words and letters), and what it means (a VAE on the embedding). A sixth head judges documents and
tools' results, segment by segment, for instructions to the assistant (networks and a linear model of their own). The
embeddings are multilingual-e5-small's. Letters, order and characters are judged without what is pasted (codes, logs,
data, programs), meaning and instructions without codes. Deterministic checks stand beside them.

P-values of letters, order, characters and meaning are taken against messages of the same length, script and language,
those of languages with few messages with caution; p-values of instructions against messages of the same length.

## Data and licences

{data}

Divided sources are trained on (60 %), calibrated with (25 %), and looked at while the design was chosen (5 %); the
rest judges. These sources only judge: {judging}. The file `lookalikes.txt` is trained on, `lookalikes_test.txt` judges;
both were written for this project by the same authors, which flatters the result. What is pasted comes from a
generator that nothing was trained on, whose shapes were known to those who wrote the patterns. Most languages of
"injection, other languages" were told by a program.

## Figures

Measured by `loquent train anomaly`, with {alpha:g} false alarms allowed. Classes of made-up anomalies come from
generators that no choice was made with. Messages nearer than {alike:g} (cosine) to one that was trained on do not count
as unseen. The table was made {times} times while the design was chosen, single rows of it more often, and what it
missed was read; shares and thresholds were chosen on it: expect less on other people's messages.

{table}
"Flagged" and "found" is by any head or check; "blocked" and "deflected" follow the default policy of `config.toml`,
which acts only on what a head is certain of.

## Limits

- Instructions in words that it has not seen get through, and so do many that hide in documents. It is one layer, not a
  wall.
- Few injections in Arabic, Dutch and Polish were to be had: their rows say little.
- It does not know what is harmful, false or offensive.
- The share of false alarms holds for messages like those it was calibrated with. Train it on your own traffic:
  `loquent train anomaly --normal my_messages.jsonl`.

## To make it again

`loquent train anomaly --out pipelines/anomaly/bundled`, with seed {seed}. What other processors round otherwise may
move the third decimal.
"""


def card(detector: Detector, about: Mapping[str, Any], result: "Result") -> str:
    """The model card of the bundled detector."""
    data = "\n".join(f"- {each}" for each in str(about["packages"]).split(", "))
    return CARD.format(
        data=data,
        judging=about["only judge"],
        alpha=detector.alpha,
        alike=ALIKE,
        times=TIMES,
        table=markdown(result),
        seed=about["seed"],
    )
