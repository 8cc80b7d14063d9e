"""Which word is said when."""

from hypothesis import given
from hypothesis import strategies as st

from pipelines.speech.timing import even_word_ends, word_ends
from pipelines.speech.voices.interface import WordEnd


def test_words_end_where_the_pauses_of_the_phonemes_are() -> None:
    phonemes = list("wʌn tuː θɹiː")
    ends = [10 * (place + 1) for place in range(len(phonemes))]
    assert word_ends("one two three", phonemes, ends, len) == (WordEnd(3, 30), WordEnd(7, 70), WordEnd(13, 120))


def test_words_that_are_said_as_one_share_its_time_by_their_phonemes() -> None:
    phonemes = list("ʌvðə kæt")  # of the cat
    ends = [10 * (place + 1) for place in range(len(phonemes))]
    first, second, last = word_ends("of the cat", phonemes, ends, {"of": 2, "the": 2, "cat": 3}.__getitem__)
    assert 10 <= first.sample <= 30
    assert second.sample == 40
    assert last == WordEnd(10, 80)


def test_a_word_that_is_said_as_several_ends_with_the_last_of_them() -> None:
    phonemes = list("ɪn naɪntiːn naɪn tiː")
    ends = list(range(1, len(phonemes) + 1))
    words = word_ends("in 1999 tea", phonemes, ends, {"in": 2, "1999": 13, "tea": 3}.__getitem__)
    assert [word.sample for word in words] == [2, 16, 20]


@given(st.text("ab c", max_size=30), st.text("ab c", max_size=40), st.integers(0, 5000))
def test_whatever_the_phonemes_every_word_ends_in_order(text: str, phonemes: str, samples: int) -> None:
    ends = [samples * (place + 1) // max(len(phonemes), 1) for place in range(len(phonemes))]
    words = word_ends(text, list(phonemes), ends, len)
    for given_words in (words, even_word_ends(text, samples)):
        assert [word.sample for word in given_words] == sorted(word.sample for word in given_words)
        assert all(0 <= word.sample <= samples for word in given_words)
    assert len(even_word_ends(text, samples)) == len(text.split())
    assert len(words) in (0, len(text.split()))
