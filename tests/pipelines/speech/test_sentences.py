"""The splitter: the same sentences however the text was cut, and together they are the text."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.speech.sentences import LONGEST, Piece, SentenceSplitter

ALPHABET = "ab A.!?…,;:。，！।؟`~\n 1-—*_\"')]\u200d\u0301😀👍🏽é<>|#"
TEXTS = st.text(ALPHABET, max_size=80) | st.text(max_size=60) | st.lists(
    st.sampled_from(
        ["Dr. ", "e.g. ", "3.5 ", "Hello, ", "you and me ", "Yes! ", "```\n", "x = 1\n", "No. ", "5 ", "a@b.org ", "… ",
         "\n\n", "1. ",
         "am 3. Mai ", "St. ", "Nov. 2", "5 min. ", "p.m. EST ", "May 3, 20", "9–5 ",
         "你好。", "क्या? ", "مرحبا؟ ", "word " * 30, "x" * 400, "**bold.** ", "U.S. "]
    ),
    max_size=12,
).map("".join)  # fmt: skip


def split(text: str, cuts: list[int] | None = None) -> list[Piece]:
    splitter = SentenceSplitter()
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts or ()), len(text)]
    pieces = [piece for a, b in pairwise(places) for piece in splitter.feed(text[a:b])]
    return [*pieces, *splitter.finish()]


def sentences(text: str) -> list[str]:
    return [piece.text.strip() for piece in split(text) if piece.aloud]


@given(TEXTS, st.lists(st.integers(0, 2000), max_size=30))
def test_cuts_change_nothing_and_no_character_is_lost(text: str, cuts: list[int]) -> None:
    whole = split(text)
    assert split(text, cuts) == whole
    assert split(text, list(range(len(text)))) == whole
    assert "".join(piece.text for piece in whole) == text
    assert all(0 < len(piece.text) <= LONGEST for piece in whole)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("I met Dr. Smith and Mrs. Jones. They left.", ["I met Dr. Smith and Mrs. Jones.", "They left."]),
        ("It costs 3.5 dollars. Fine.", ["It costs 3.5 dollars.", "Fine."]),
        ("Use e.g. this one. Or i.e. that.", ["Use e.g. this one.", "Or i.e. that."]),
        ("Open from 9 a.m. to 5 p.m. Then closed.", ["Open from 9 a.m. to 5 p.m.", "Then closed."]),
        ("Mail joe@x.org or see example.com. Thanks.", ["Mail joe@x.org or see example.com.", "Thanks."]),
        ("J. R. R. Tolkien wrote it. Yes.", ["J. R. R. Tolkien wrote it.", "Yes."]),
        ("See No. 5 first. No. That is wrong.", ["See No. 5 first.", "No.", "That is wrong."]),
        ("Wait… what? Hm... No.", ["Wait… what?", "Hm...", "No."]),
        ('"Really?" he said. "Yes." She left.', ['"Really?" he said.', '"Yes."', "She left."]),
        ("**Bold.** Next.", ["**Bold.**", "Next."]),
        ("1. First item\n2. Second item", ["1. First item", "2. Second item"]),
        ("Great! 😀 Next.", ["Great!", "😀 Next."]),
        ("你好。今天好！「走吧。」他说。", ["你好。", "今天好！", "「走吧。」", "他说。"]),
        ("नमस्ते। कैसे हैं?", ["नमस्ते।", "कैसे हैं?"]),
        ("كيف حالك؟ بخير.", ["كيف حالك؟", "بخير."]),
        ("Line one\n\nLine two", ["Line one", "Line two"]),
        ("It opened on Nov. 24, see Fig. 3. Fine.", ["It opened on Nov. 24, see Fig. 3.", "Fine."]),
        ("I saw him in Sept. It was warm.", ["I saw him in Sept.", "It was warm."]),
        ("Stir for 5 min. Then wait 2 min. 30 sec. more.", ["Stir for 5 min.", "Then wait 2 min. 30 sec. more."]),
        ("It is 6 ft. 2 in. tall. He came in. 5 came.", ["It is 6 ft. 2 in. tall.", "He came in.", "5 came."]),
        ("It is at 3:30 p.m. (EST) in Apt. 4. Fine.", ["It is at 3:30 p.m. (EST) in Apt. 4.", "Fine."]),
        ("Call tel. 555-1234 now. Bye.", ["Call tel. 555-1234 now.", "Bye."]),
        ("I live on Main St. The house is red.", ["I live on Main St.", "The house is red."]),
        ("St. Mary and St. Patrick came.", ["St. Mary and St. Patrick came."]),
        ("Martin Luther King Jr. Day is near.", ["Martin Luther King Jr. Day is near."]),
        ("At 9 a.m. EST. He left at 5 p.m. She stayed.", ["At 9 a.m. EST.", "He left at 5 p.m.", "She stayed."]),
        ("Er kam am 3. Mai. Sie kam am 24. Dezember.", ["Er kam am 3. Mai.", "Sie kam am 24. Dezember."]),
        ("Sie wohnt in der 2. Etage. Es ist 5. Gut so.", ["Sie wohnt in der 2. Etage.", "Es ist 5.", "Gut so."]),
        ("I have 5. August is near.", ["I have 5.", "August is near."]),
    ],
)  # fmt: skip
def test_sentences_end_where_a_reader_pauses(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def test_code_blocks_are_kept_and_not_read_aloud() -> None:
    pieces = split("Do this:\n```python\nprint('Hi. There.')\n```\nDone.\n~~~\nx. Y\n")
    assert [piece.text for piece in pieces if not piece.aloud] == [
        "```python\n", "print('Hi. There.')\n", "```\n", "~~~\n", "x. Y\n",
    ]  # fmt: skip
    assert [piece.text.strip() for piece in pieces if piece.aloud] == ["Do this:", "Done."]


def test_the_first_sentence_may_end_at_a_clause_and_later_ones_do_not() -> None:
    text = "The sea is wide and deep, and nobody knows it. The sky is wide and high, and everybody sees it."
    first, second, third = split(text)
    assert (first.text, first.ends) == ("The sea is wide and deep,", False)
    assert (second.text, second.ends) == (" and nobody knows it.", True)
    assert third.text.strip().startswith("The sky is wide and high, and")


@pytest.mark.parametrize("whole", ["The shop is open every day from 9–5", "It will all be ready on May 3, 2026"])
def test_the_first_clause_does_not_end_within_a_range_or_a_date(whole: str) -> None:
    assert [piece.text for piece in split(f"{whole}, as we said.")] == [f"{whole},", " as we said."]


def test_a_sentence_is_given_as_soon_as_what_follows_makes_it_certain() -> None:
    splitter = SentenceSplitter()
    assert splitter.feed("It is done.") == []
    assert splitter.feed(" ") == []
    assert splitter.feed("N") == [Piece("It is done.")]
    assert splitter.feed("ow a line\n") == [Piece(" Now a line\n")]


def test_run_on_text_is_cut_at_clauses_or_spaces_and_never_inside_a_character() -> None:
    assert all(piece.text.endswith(",") for piece in split("so it goes on and on and on, " * 100)[:-1])
    assert all(piece.text.startswith(" ") or not number for number, piece in enumerate(split("word " * 1000)[:-1]))
    family = "👩\u200d👩\u200d👧"
    for piece in split(family * 200):
        assert not piece.text.startswith("\u200d")
        assert not piece.text.endswith("\u200d")
