"""Written forms: how many of a corpus are spoken as people say them.

python -m bench.written        the share of each kind, and of the rows that no rule was written for
python -m bench.written -v     every row that differs too

A row is a kind, what is written and what people say. `{a|b}` in the latter stands for either, and " | " stands between
two whole readings; " // " is the end of a sentence within the row. Both sides are compared as words: espeak-ng reads
plain integers, decimals, ordinals and some signs by itself, and `words` writes these as espeak-ng says them.
"""

import csv
import itertools
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import results
from pipelines.speech.normalise import speakable
from pipelines.speech.sentences import SentenceSplitter

DATA = Path(__file__).parents[1] / "tests/data"
CORPUS, HELD_OUT = DATA / "written-forms.tsv", DATA / "written-forms-held-out.tsv"

SMALL = (  # noqa: SIM905
    "zero one two three four five six seven eight nine ten "
    "eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
).split()
TENS = ["zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
SCALES = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (1000, "thousand"))
ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
    "twelve": "twelfth",
}  # fmt: skip
SIGNS = {"%": "percent", "&": "and", "@": "at", "#": "hash", "+": "plus", "=": "equals", "/": "slash", "π": "pi"}
NUMBER = re.compile(r"(\d[\d,]*)(?:\.(\d+))?(st|nd|rd|th)?(?![\d,]*\d)")
CHOICE = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Form:
    """A row of the corpus."""

    kind: str
    written: str
    spoken: frozenset[tuple[str, ...]]  # each reading as words

    @property
    def language(self) -> str:
        """That of the voice which is to say it."""
        return "de" if self.kind == "german" else "en-us"


def read(path: Path) -> list[Form]:
    """The rows of a corpus."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
    return [Form(kind, written, frozenset(map(words, readings(spoken)))) for kind, written, spoken in rows]


def readings(pattern: str) -> Iterator[str]:
    """Every text that a pattern with `{a|b}` and " | " stands for."""
    choice = CHOICE.search(pattern)
    if choice is None:
        yield from pattern.split(" | ")
        return
    for each in choice[1].split("|"):
        yield from readings(pattern[: choice.start()] + each + pattern[choice.end() :])


def say(written: str, language: str) -> str:
    """What a voice is given to say, sentence by sentence."""
    splitter = SentenceSplitter()
    text = ""
    for piece in itertools.chain(splitter.feed(written), splitter.finish()):
        said = speakable(piece.text, language).text if piece.aloud else ""
        text += f"{said} {'// ' if piece.ends else ''}" if said else ""
    return text.strip().removesuffix("//").strip()


def words(text: str) -> tuple[str, ...]:
    """A text as the words that are said, numbers in words; "//" between two sentences stays."""
    text = text.lower().replace("’", "'")
    text = re.sub(r"\b([ap]) m\b", r"\1m", text)
    text = re.sub(r"\b(?:[a-z]\.){2,}", lambda found: found[0].replace(".", ""), text)  # U.S. and p.m.
    text = re.sub(r"(?<![\w.,])-(?=\d)", " minus ", text)
    text = re.sub(r"(?<=\d)-(?=\d)", " dash ", text)
    text = re.sub(r"(?<![\w.])\.(?=\d)", " point ", text)
    text = NUMBER.sub(lambda found: f" {_number(found)} ", text)
    text = re.sub(r"(?<=[a-z])\.(?=[a-z])", " dot ", text)
    text = re.sub(r"//|[%&@#+=/π]", lambda found: f" {SIGNS.get(found[0], found[0])} ", text)
    text = re.sub(r"(?!//)[^\w\s'/]|(?<!\w)'|'(?!\w)", " ", text)
    text = re.sub(rf"\b(hundred|thousand) and (?=(?:{'|'.join([*SMALL[1:], *TENS[2:]])})\b)", r"\1 ", text)
    return tuple(text.replace("_", " ").split())


def _number(found: re.Match[str]) -> str:
    whole, part, ordinal = found.groups()
    value = int(whole.replace(",", ""))
    if whole[0] == "0" and len(whole) > 1:
        said = " ".join(SMALL[int(digit)] for digit in whole if digit != ",")
    else:
        said = cardinal(value, hundreds="," not in whole)
    if part:
        return f"{said} point {' '.join(SMALL[int(digit)] for digit in part)}"
    if not ordinal:
        return said
    *first, last = said.split()
    last = ORDINALS.get(last, f"{last[:-1]}ieth" if last.endswith("y") else f"{last}th")
    return " ".join([*first, last])


def cardinal(value: int, *, hundreds: bool = False) -> str:
    """A number in words, as espeak-ng says it: 1,100 to 1,999 in hundreds where it has no comma."""
    if hundreds and 1100 <= value < 2000:
        return f"{cardinal(value // 100)} hundred {cardinal(value % 100) if value % 100 else ''}".strip()
    for scale, name in SCALES:
        if value >= scale:
            return f"{cardinal(value // scale)} {name} {cardinal(value % scale) if value % scale else ''}".strip()
    if value >= 100:
        return f"{SMALL[value // 100]} hundred {cardinal(value % 100) if value % 100 else ''}".strip()
    if value >= 20:
        return f"{TENS[value // 10]} {SMALL[value % 10] if value % 10 else ''}".strip()
    return SMALL[value]


def right(form: Form) -> bool:
    """Whether it is said as people say it."""
    return words(say(form.written, form.language)) in form.spoken


def share(forms: list[Form]) -> float:
    """Of those that are said as people say them."""
    return sum(map(right, forms)) / len(forms)


def main() -> None:
    """Measure and print."""
    corpus, held_out = read(CORPUS), read(HELD_OUT)
    kinds = sorted({form.kind for form in corpus + held_out})
    rows = [
        [kind, *(_of([form for form in forms if form.kind == kind]) for forms in (corpus, held_out))] for kind in kinds
    ]
    begun = time.perf_counter()
    rows.append(["all", _of(corpus), _of(held_out)])
    each = (time.perf_counter() - begun) / len(corpus + held_out)
    table = results.table(["kind", "right", "right of those that no rule was written for"], rows)
    whole = share(corpus + held_out)
    summary = f"{whole:.1%} are spoken as people say them; a form takes {each * 1000:.2f} ms."
    text = f"## Written forms\n\n{results.head('written')}\n\n{table}\n{summary}\n"
    results.FOLDER.mkdir(parents=True, exist_ok=True)
    results.show("written", text, {"share": 100 * whole, "held_out": 100 * share(held_out)})
    if "-v" in sys.argv[1:]:
        for form in corpus:
            if not right(form):
                print(f"{form.kind}: {form.written}\n    {' '.join(words(say(form.written, form.language)))}")


def _of(forms: list[Form]) -> str:
    return f"{sum(map(right, forms))} of {len(forms)}" if forms else ""


if __name__ == "__main__":
    main()
