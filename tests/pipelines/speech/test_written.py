"""Written forms: a corpus of them is spoken as people say it, and ordinary prose is left as it is."""

import re

import pytest

from bench.written import CORPUS, HELD_OUT, Form, cardinal, read, readings, right, say, share, words
from pipelines.speech.normalise import speakable
from pipelines.speech.voices.phonemizer import Phonemizer
from pipelines.speech.written.numbers import decade, digits, ordinal, roman, year

FORMS = read(CORPUS)
UNSEEN = read(HELD_OUT)


def wrong(forms: list[Form]) -> list[str]:
    return [f"{form.written} → {say(form.written, form.language)}" for form in forms if not right(form)]


def test_written_forms_are_spoken_as_people_say_them() -> None:
    assert len(FORMS + UNSEEN) >= 400
    assert share(FORMS + UNSEEN) >= 0.97, wrong(FORMS)


def test_forms_that_no_rule_was_written_for_are_too() -> None:
    assert len(UNSEEN) / len(FORMS + UNSEEN) >= 1 / 3
    assert share(UNSEEN) >= 0.95


def test_the_faults_that_were_found_first_are_mended() -> None:
    found_first = [form for form in FORMS if form.kind == "given"]
    assert len(found_first) == 32
    assert not wrong(found_first)


@pytest.mark.parametrize(
    "text",
    [
        "I may march in May, and the cat sat in the sun.",
        "He came in a minute, at home, with no one in sight.",
        "We met in Paris, and I am fine.",
        "She is in, and so is he.",
        "It was a good time in the mid of the week.",
        "They had five and a half apples, or six.",
        "This is the first of three.",
        "Act now and mark my words, part of it is true.",
        "Is he a gen, a sec, or a min man?",
        "I said no. So did he.",
        "What a day it was, I am sure!",
        "The model gpt-4o and the smollm2-135m-instruct one.",
        "He ran 10 miles in 2 hours and 5 minutes.",
        "There are 3 people in 5 rooms, and 12 in all.",
        "9 in 10 agree that 5 is enough.",
        "There are 3 in, 2 out, and 300 K a year at 123 W 4th.",
        "I like vitamin c. 5 of it is enough, says the temp.",
        "I have 1,234 books and 0.5 of a plan.",
    ],
)
def test_ordinary_prose_is_left_as_it_is(text: str) -> None:
    assert speakable(text, "en-us").text == text


@pytest.mark.parametrize("text", ["Es kostet 5 € am 3. Mai.", "10 km à 9h30, c'est 1/2.", "Son $5, a las 10:30."])
def test_rules_for_english_leave_other_languages_alone(text: str) -> None:
    for language in ("de", "fr-fr", "es"):
        assert speakable(text, language).text == text


def test_a_number_that_is_read_digit_by_digit_is_heard_digit_by_digit() -> None:
    text = "Call 555-1234 now."
    spoken = speakable(text, "en")
    assert spoken.text == "Call five five five, one two three four now."
    ends = [found.end() for found in re.finditer(r"\S+", spoken.text)]
    assert [text[: spoken.origins[end - 1]] for end in ends] == [
        "Call", "Call 5", "Call 55", "Call 555", "Call 555-1", "Call 555-12", "Call 555-123", "Call 555-1234",
        "Call 555-1234 now.",
    ]  # fmt: skip


def test_words_around_what_is_written_out_keep_their_places() -> None:
    text = 'From 9:00 to 5 p.m. on Elm St. it costs $5 a night, says [Ann](http://x.org/a_(b) "T") here.'
    spoken = speakable(text, "en")
    for word in ("From", "to", "Elm", "costs", "night,", "Ann", "here."):
        end = spoken.text.index(word) + len(word)
        assert text[: spoken.origins[end - 1]].endswith(word)


def test_numbers_in_words() -> None:
    assert [year(value) for value in (1066, 1800, 1905, 1999, 2000, 2005, 2026)] == [
        "ten sixty six", "eighteen hundred", "nineteen oh five", "nineteen ninety nine", "two thousand",
        "two thousand five", "twenty twenty six",
    ]  # fmt: skip
    assert [ordinal(value) for value in (1, 12, 20, 42, 100)] == [
        "first", "twelfth", "twentieth", "forty second", "one hundredth",
    ]  # fmt: skip
    assert [decade(value) for value in (60, 1800, 1990, 2000)] == [
        "sixties", "eighteen hundreds", "nineteen nineties", "two thousands",
    ]  # fmt: skip
    assert digits("+1 (55) 20") == "one, five five, two zero"
    assert [roman(numeral) for numeral in ("XIV", "LVIII", "IIII", "VX")] == [14, 58, 0, 0]
    assert cardinal(1_002_345) == "one million two thousand three hundred forty five"


def test_the_corpus_is_compared_as_words() -> None:
    assert sorted(set(readings("{a|b {c|d}} x"))) == ["a x", "b c x", "b d x"]
    said = words("It's 1,250 at 3.05%, the 21st; 1999 p.m. U.S. -5 a@b.org")
    assert " ".join(said) == (
        "it's one thousand two hundred fifty at three point zero five percent the twenty first "
        "nineteen hundred ninety nine pm us minus five a at b dot org"
    )


def sounds(phonemes: list[list[str]]) -> str:
    """What is heard of them but for stress, pauses and vowels that a neighbouring word weakens."""
    text = "".join("".join(group) for group in phonemes)
    for weak, strong in (
        ("ɾ", "t"),
        ("ᵻ", "ɪ"),
        ("i", "ɪ"),
        ("ɐ", "ə"),
        ("ʌ", "ə"),
        ("æ", "ə"),
        ("oː", "ɔ"),
        ("ʊ", "u"),
    ):
        text = text.replace(weak, strong)
    return re.sub(r"[^\w]|[ˈˌːʲ]", "", text)


def test_words_that_are_compared_are_what_espeak_says() -> None:
    """The comparison writes numbers and signs as espeak-ng says them; here its own phonemes are compared."""
    forms = [form for form in FORMS if form.language == "en-us" and right(form)]
    reader = Phonemizer("en-us", ())
    try:
        differ = []
        for form in forms:
            said = say(form.written, form.language).replace(" // ", " ")
            expected = [
                re.sub(r"(?<!\bi) am\b", " AM", " ".join(word for word in reading if word != "//"))
                for reading in sorted(form.spoken)[:200]
            ]
            one, *others = map(sounds, reader.phonemes([said, *expected]))
            if one not in others:
                differ.append(said)
    finally:
        reader.close()
    assert len(differ) <= 0.03 * len(forms), differ


def test_the_half_of_the_day_is_spelled_and_not_taken_for_a_verb() -> None:
    reader = Phonemizer("en-us", ())
    try:
        for text in ("We meet at 6:30 am.", "At 10:05 a.m. we go.", "It is 12:00 AM now.", "Be there at 9am, please."):
            (phonemes,) = reader.phonemes([speakable(text, "en-us").text])
            assert "eɪˈɛm" in "".join("".join(group) for group in phonemes), text
    finally:
        reader.close()
