import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.chat.engine.detokenizer import Detokenizer, StopMatcher


def decode_bytes(tokens: Sequence[int]) -> str:
    """A tokenizer of bytes: the hardest case, in which every character beyond ASCII is cut."""
    return bytes(tokens).decode("utf-8", errors="replace")


class Pieces:
    """A tokenizer whose tokens are runs of bytes, cut anywhere."""

    def __init__(self, text: str, cuts: Sequence[int]) -> None:
        raw = text.encode()
        edges = [0, *sorted({cut % (len(raw) + 1) for cut in cuts}), len(raw)]
        self.pieces = [raw[a:b] for a, b in itertools.pairwise(edges) if a < b]

    def decode(self, tokens: Sequence[int]) -> str:
        return b"".join(self.pieces[token] for token in tokens).decode("utf-8", errors="replace")


TEXTS = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\ufffd"), max_size=60)


@given(TEXTS, st.lists(st.integers(0, 10_000), max_size=60))
def test_the_pieces_are_the_text_and_hold_whole_characters_however_it_was_cut(text: str, cuts: list[int]) -> None:
    source = Pieces(text, cuts)
    detokenizer = Detokenizer(source.decode)
    shown = [detokenizer.push(token) for token in range(len(source.pieces))]
    assert "".join(shown) + detokenizer.flush() == text
    assert not any("\ufffd" in piece for piece in shown)


@given(st.text(max_size=40).map(lambda text: text.encode("utf-8", "ignore")))
def test_every_character_is_shown_with_the_byte_that_completes_it(raw: bytes) -> None:
    detokenizer = Detokenizer(decode_bytes)
    shown = ""
    for end, byte in enumerate(raw, start=1):
        shown += detokenizer.push(byte)
        assert shown == raw[:end].decode("utf-8", errors="ignore")


@given(st.binary(max_size=40))
def test_what_was_shown_stays_and_broken_bytes_lose_at_most_an_open_end(raw: bytes) -> None:
    detokenizer = Detokenizer(decode_bytes)
    shown = "".join(detokenizer.push(byte) for byte in raw) + detokenizer.flush()
    whole = raw.decode("utf-8", errors="replace")
    assert whole.startswith(shown)
    assert not whole[len(shown) :].strip("\ufffd")


def test_a_character_that_never_ends_is_not_shown() -> None:
    detokenizer = Detokenizer(decode_bytes)
    assert [detokenizer.push(byte) for byte in "a€".encode()[:-1]] == ["a", "", ""]
    assert detokenizer.flush() == ""


def test_a_tokenizer_that_drops_a_leading_space_keeps_it_within_the_text() -> None:
    words = ["▁Hello", "▁world", "!"]
    detokenizer = Detokenizer(lambda tokens: "".join(words[t] for t in tokens).replace("▁", " ").removeprefix(" "))
    assert [detokenizer.push(token) for token in range(3)] == ["Hello", " world", "!"]


def matched(stops: Sequence[str], pieces: Sequence[str]) -> tuple[list[str], bool]:
    matcher = StopMatcher(stops)
    shown = []
    for piece in pieces:
        shown.append(matcher.push(piece))
        if matcher.stopped:
            return shown, True
    return [*shown, matcher.flush()], False


@pytest.mark.parametrize(
    ("stops", "pieces", "shown", "stopped"),
    [
        ((), ["a", "b"], ["a", "b", ""], False),
        (("END",), ["say E", "N", "D more"], ["say ", "", ""], True),
        (("END",), ["say E", "N", "emy"], ["say ", "", "ENemy", ""], False),
        (("END",), ["the E"], ["the ", "E"], False),
        (("ab", "b"), ["xab"], ["x"], True),
        (("\n\n",), ["one\n", "two\n", "\nthree"], ["one", "\ntwo", ""], True),
        (("aab",), ["aaa", "b"], ["a", ""], True),
    ],
)
def test_stop_strings(stops: tuple[str, ...], pieces: list[str], shown: list[str], stopped: bool) -> None:
    assert matched(stops, pieces) == (shown, stopped)


@given(st.text("abc", max_size=30), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3), st.integers(1, 5))
def test_a_stop_string_ends_the_text_where_it_first_appears_however_it_was_cut(
    text: str, stops: list[str], size: int
) -> None:
    shown, stopped = matched(stops, [text[at : at + size] for at in range(0, len(text), size)])
    ends = [end for stop in stops if (end := text.find(stop)) >= 0]
    assert stopped == bool(ends)
    if not ends:
        assert "".join(shown) == text
    else:
        # The earliest stop that is complete when its piece arrives; a piece may complete two at once.
        assert text.startswith("".join(shown))
        assert len("".join(shown)) in ends
        assert not any(stop in "".join(shown) for stop in stops)
