import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from clients.terminal.render import MarkdownStream, split_finished
from tests.clients.terminal_screen import TerminalScreen


@pytest.mark.parametrize(
    ("text", "finished", "tail"),
    [
        ("", "", ""),
        ("one line", "", "one line"),
        ("one\ntwo\n", "", "one\ntwo\n"),
        ("one\n\n", "", "one\n\n"),
        ("one\n\nt", "one\n\n", "t"),
        ("one\n\ntwo\n\nthree", "one\n\ntwo\n\n", "three"),
        ("```\na\n\nb", "", "```\na\n\nb"),
        ("```\na\n\nb\n```\n\nnext", "```\na\n\nb\n```\n\n", "next"),
        ("~~~\n```\n\n~~~\n\nnext", "~~~\n```\n\n~~~\n\n", "next"),
        ("- a\n\n- b", "", "- a\n\n- b"),
        ("1. a\n\n2", "", "1. a\n\n2"),
        ("- a\n\n  more", "", "- a\n\n  more"),
        ("- a\n\nb", "- a\n\n", "b"),
    ],
)
def test_a_block_is_finished_when_another_has_begun_behind_it(text: str, finished: str, tail: str) -> None:
    assert split_finished(text) == (finished, tail)


MARKDOWN = st.lists(
    st.sampled_from(["word ", "\n", "\n\n", "```", "~~~", "- ", "1. ", "# ", "    ", "*x*"]), max_size=25
)


@given(MARKDOWN)
def test_nothing_is_lost_between_the_finished_and_the_tail(pieces: list[str]) -> None:
    text = "".join(pieces)
    finished, tail = split_finished(text)
    assert finished + tail == text


@given(MARKDOWN)
def test_what_was_finished_stays_finished(pieces: list[str]) -> None:
    text, before = "", ""
    for piece in pieces:
        text += piece
        finished = split_finished(text)[0]
        assert finished.startswith(before)
        before = finished


def rendered(pieces: list[str], *, terminal: bool = False) -> str:
    out = io.StringIO()
    console = Console(file=out, width=60, force_terminal=terminal, color_system=None, legacy_windows=False)
    with MarkdownStream(console) as stream:
        for piece in pieces:
            stream.write(piece)
    return out.getvalue()


def test_every_block_is_printed_once() -> None:
    text = "First paragraph.\n\n```python\nprint(1)\n\nprint(2)\n```\n\n- one\n- two\n\nLast."
    shown = rendered(list(text))
    for words in ("First paragraph.", "print(1)", "print(2)", "one", "two", "Last."):
        assert shown.count(words) == 1


def test_on_a_terminal_finished_blocks_are_never_drawn_again() -> None:
    text = "First paragraph.\n\nSecond paragraph.\n\nThird."
    shown = rendered(list(text), terminal=True)
    behind = shown[shown.index("Second") :]
    assert "First paragraph." not in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", behind)


TALL = {
    "a list": [f"- Item {n}.\n" for n in range(1, 61)],
    "a numbered list": [f"{n}. Item {n}.\n" for n in range(1, 61)],
    "code": ["```python\n", *(f"print('Item {n}.')\n" for n in range(1, 61)), "```\n"],
    "a paragraph": [f"Item {n}. " + "more " * 20 for n in range(1, 61)],
    "a list between paragraphs": ["Before.\n\n", *(f"- Item {n}.\n" for n in range(1, 61)), "\n", "After.\n"],
}


@pytest.mark.parametrize("rows", [24, 2])
@pytest.mark.parametrize("kind", list(TALL))
def test_a_reply_taller_than_the_terminal_is_shown_once(kind: str, rows: int) -> None:
    out = io.StringIO()
    console = Console(
        file=out, width=80, height=rows, force_terminal=True, color_system=None, legacy_windows=False, _environ={}
    )
    screen = TerminalScreen(rows, 80)
    console.print("The prompt.")
    with MarkdownStream(console) as stream:
        for piece in TALL[kind]:
            stream.write(piece)
            stream._live.refresh()
    screen.feed(out.getvalue())
    text = " ".join(screen.lines)
    assert re.findall(r"Item \d+\.|The prompt\.|Before\.|After\.", text) == re.findall(
        r"Item \d+\.|The prompt\.|Before\.|After\.", "The prompt." + "".join(TALL[kind])
    )


def test_while_a_tall_reply_streams_its_last_lines_are_seen() -> None:
    out = io.StringIO()
    console = Console(file=out, width=80, height=24, force_terminal=True, color_system=None, _environ={})
    with MarkdownStream(console) as stream:
        for piece in TALL["a list"]:
            stream.write(piece)
        stream._live.refresh()
        screen = TerminalScreen(24, 80)
        screen.feed(out.getvalue())
    shown = re.findall(r"Item \d+", " ".join(screen.lines))
    assert shown == [f"Item {n}" for n in range(38, 61)]
