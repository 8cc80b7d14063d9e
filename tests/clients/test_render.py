import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from clients.terminal.render import MarkdownStream, split_finished


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
