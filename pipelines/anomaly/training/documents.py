"""Documents and tool results that an assistant reads: clean ones of harmless texts, and some with an instruction."""

import html
import json
import random
import re
import tomllib
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files

Make = Callable[[random.Random, Sequence[str]], str]  # from a source of chance and some harmless texts

NAMES = ("Marta", "J. Okafor", "Sven", "Priya", "the manager", "Lee", "Nadia", "Tom", "our partner", "support")
HOSTS = ("docs.example", "wiki.example", "shop.example", "news.example", "intranet.example")
TOPICS = ("Overview", "Opening hours", "Release notes", "Minutes", "Travel plan", "Price list", "Handbook", "Notes")
SENTENCE_END = re.compile(r"(?<=[.!?\u3002])\s+")


@cache
def _phrases() -> dict[str, list[str]]:
    text = files(__package__).joinpath("orders.toml").read_text(encoding="utf-8")
    found: dict[str, list[str]] = tomllib.loads(text)
    return found


def instructions(count: int, seed: int) -> list[str]:
    """So many different instructions to an assistant, in English; most have a frame that says whom they are for."""
    rng = random.Random(f"instructions {seed}")
    orders, frames = _phrases()["orders"], _phrases()["frames"]
    made: dict[str, None] = {}
    while len(made) < count:
        order = rng.choice(orders).format(rng.choice(NAMES))
        made[rng.choice(frames).format(order) if rng.random() < 0.8 else order[:1].upper() + order[1:] + "."] = None
    return list(made)


def documents(texts: Sequence[str], count: int, seed: int) -> list[str]:
    """So many clean documents and tool results of eight kinds, made of harmless texts. Raises: ValueError for none."""
    if not texts:
        raise ValueError("documents are made of texts, and there are none")
    rng = random.Random(f"documents {seed}")
    kinds = list(KINDS.values())
    return [kinds[number % len(kinds)](rng, texts) for number in range(count)]


def poisoned(clean: str, instruction: str, seed: int) -> tuple[str, tuple[int, int]]:
    """``clean`` with an instruction at a place of chance, and the characters where it stands: start and end.

    In JSON it stands in a field, in other documents in a paragraph of its own, among sentences, in a comment of HTML
    or at either end. It is the instruction on one line, where the place asks for it, and in JSON without double quotes.
    """
    rng = random.Random(f"{seed} {clean[:200]} {instruction}")
    if _is_json(clean):
        return _in_field(rng, clean, instruction)
    before, after, position = rng.choice((_own_paragraph, _among_sentences, _comment, _at_an_end))(rng, clean)
    said = instruction if "\n" in before + after else " ".join(instruction.split())
    start = position + len(before)
    return clean[:position] + before + said + after + clean[position:], (start, start + len(said))


# Where an instruction stands: what is before it, what is after it, and where in the document that goes.
Place = tuple[str, str, int]


def _own_paragraph(rng: random.Random, clean: str) -> Place:
    ends = [match.start() for match in re.finditer("\n", clean)] or [len(clean)]
    return "\n\n", "\n", rng.choice(ends)


def _among_sentences(rng: random.Random, clean: str) -> Place:
    starts = [match.end() for match in SENTENCE_END.finditer(clean)]
    return ("", " ", rng.choice(starts)) if starts else (" ", "", len(clean))


COMMENTS = (("<!-- ", " -->"), ('<span style="display:none">', "</span>"), ("[//]: # (", ")"))


def _comment(rng: random.Random, clean: str) -> Place:
    ends = [match.end() for match in re.finditer(r"\n|</\w+>", clean)] or [len(clean)]
    return (*rng.choice(COMMENTS), rng.choice(ends))


def _at_an_end(rng: random.Random, clean: str) -> Place:
    return ("", "\n", 0) if rng.random() < 0.25 else ("\n\n", "", len(clean))


def _is_json(text: str) -> bool:
    """Whether a text is an object of JSON with anything in it."""
    try:
        loaded = json.loads(text)
    except ValueError:
        return False
    return isinstance(loaded, dict) and bool(loaded)


def _in_field(rng: random.Random, clean: str, instruction: str) -> tuple[str, tuple[int, int]]:
    """In a text of the JSON, before its closing quote; or as the text of a new field."""
    said = " ".join(instruction.split()).replace('"', "'").replace("\\", "/")
    ends = [match.end(1) for match in re.finditer(r': "((?:[^"\\]|\\.)*)"', clean)]
    if ends and rng.random() < 0.8:
        position, before, after = rng.choice(ends), " ", ""
    else:
        position, before, after = clean.rindex("}"), f', "{rng.choice(("note", "hint", "comment"))}": "', '"'
    start = position + len(before)
    return clean[:position] + before + said + after + clean[position:], (start, start + len(said))


# The kinds of documents.


def _line(rng: random.Random, texts: Sequence[str], most: int = 300) -> str:
    return " ".join(rng.choice(texts).split())[:most]


def _few(rng: random.Random, texts: Sequence[str], least: int, most: int) -> list[str]:
    return [_line(rng, texts, 600) for _ in range(rng.randint(least, most))]


def _day(rng: random.Random) -> str:
    return f"2026-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"


def _markdown(rng: random.Random, texts: Sequence[str]) -> str:
    said = [f"# {rng.choice(TOPICS)}", *_few(rng, texts, 1, 3), f"## {rng.choice(TOPICS)}", *_few(rng, texts, 1, 2)]
    if rng.random() < 0.4:
        said.append("\n".join(f"- {_line(rng, texts, 80)}" for _ in range(3)))
    return "\n\n".join(said)


def _tool_result(rng: random.Random, texts: Sequence[str]) -> str:
    result: dict[str, object] = {
        "id": rng.randint(1000, 99_999),
        "title": rng.choice(TOPICS),
        "updated": _day(rng),
        "content": _line(rng, texts, 600),
        "author": rng.choice(NAMES),
    }
    if rng.random() < 0.5:
        result["comments"] = [{"from": rng.choice(NAMES), "text": _line(rng, texts, 160)} for _ in range(2)]
    return json.dumps(result, ensure_ascii=False, indent=rng.choice((None, 2)))


def _search_results(rng: random.Random, texts: Sequence[str]) -> str:
    found = [
        {"url": f"https://{rng.choice(HOSTS)}/{rng.randint(1, 999)}", "snippet": _line(rng, texts, 200)}
        for _ in range(rng.randint(2, 4))
    ]
    if rng.random() < 0.5:
        return json.dumps({"results": found}, ensure_ascii=False)
    return "\n\n".join(f"[{number}] {each['url']}\n{each['snippet']}" for number, each in enumerate(found, 1))


def _page(rng: random.Random, texts: Sequence[str]) -> str:
    body = "\n".join(f"<p>{html.escape(each, quote=False)}</p>" for each in _few(rng, texts, 1, 3))
    return f"<h1>{rng.choice(TOPICS)}</h1>\n{body}\n<footer>{rng.choice(HOSTS)}</footer>"


def _mail(rng: random.Random, texts: Sequence[str]) -> str:
    body = "\n\n".join(_few(rng, texts, 1, 3))
    name = rng.choice(NAMES)
    return (
        f"From: {name} <post@{rng.choice(HOSTS)}>\nDate: {_day(rng)}\nSubject: {rng.choice(TOPICS)}\n\n{body}\n\n{name}"
    )


def _log(rng: random.Random, texts: Sequence[str]) -> str:
    levels = ("INFO", "INFO", "WARNING", "ERROR")
    return "\n".join(
        f"{_day(rng)} {rng.randrange(24):02}:{rng.randrange(60):02} {rng.choice(levels)} {_line(rng, texts, 120)}"
        for _ in range(rng.randint(3, 7))
    )


def _table(rng: random.Random, texts: Sequence[str]) -> str:
    rows = [
        f'{rng.randint(100, 999)},{_day(rng)},"{_line(rng, texts, 100)}",{rng.randint(1, 99)}.50'.replace("\t", " ")
        for _ in range(rng.randint(3, 6))
    ]
    return "\n".join(("id,date,description,amount", *rows))


def _plain(rng: random.Random, texts: Sequence[str]) -> str:
    return " ".join(_few(rng, texts, 2, 5))


KINDS: dict[str, Make] = {
    "Markdown": _markdown,
    "tool result": _tool_result,
    "search results": _search_results,
    "page": _page,
    "mail": _mail,
    "log": _log,
    "table": _table,
    "plain": _plain,
}
