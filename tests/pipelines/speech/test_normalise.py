"""What a voice says of written text, and where in the text each of its characters comes from."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.speech.normalise import speakable


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        (
            "It costs $5.50, 50% off, or $3.2 million.",
            "It costs 5 dollars and 50 cents, 50% off, or 3.2 million dollars.",
        ),
        ("Dr. Smith and Mr. Jones vs. Mrs. Lee", "Doctor Smith and Mister Jones versus Missus Lee"),
        ("**Bold**, *it*, `code`, ~~no~~, snake_case and 2 * 3", "Bold, it, code, no, snake_case and 2 times 3"),
        ("e.g. this, i.e. that", "for example, this, that is, that"),
        ("## Title", "Title"),
        ("- [x] done", "done"),
        ("> quoted", "quoted"),
        ("| a | b |", "a, b"),
        ("|---|:-:|", ""),
        ("See [the docs](https://a.b/c?d=1) now ![img](x.png)", "See the docs now img"),
        ("At https://www.example.com/a?b=c. Or joe@x.org", "At example.com. Or joe@x.org"),
        ("<speak>Hi <break time='1s'/>there</speak> &amp; you", "Hi there & you"),
        ("[[ nonsense ]]", "nonsense"),
        ('[**[x]**] [~~[y]~~] ["[z]"]', "x y z"),
        ("5 mſ and 7 ms", "5 mſ and 7 milliseconds"),
        ("Hello\x00world\x1b[31m\u202eabc\u200b", "Hello world [31m abc"),
        (
            "10-20 km, 2026-11-24, 555-1234",
            "10 to 20 kilometers, November twenty fourth, twenty twenty six, five five five, one two three four",
        ),
        ("Wow… nooooooo!!!!!!! ----", "Wow, nooo!!! -"),
        ("naïve café", "naïve café"),
        ("the U.S.A. and 1.2.3.4.5.6.7.8.9.10.11.12", "the U.S.A. and 1.2.3.4.5.6.7.8.9.10.11.12"),
        ("A." * 25, "A.A.A.A.A.A.A.A.A.A, A.A.A.A.A.A.A.A.A.A, A.A.A.A.A."),
        ("x.y.-" * 6 + "z", "x.y.-x.y.-x.y.-x.y.-x.y, x.y.-z"),
        ("'s" * 50, "'s" * 32 + " " + "'s" * 18),
        ("u.s.a. " * 5, "u.s.a. u.s.a. u.s.a. u, s.a. u.s.a."),
        ("Order #A-1234, § 5, 12/kg&&x", "Order number A-1234, section 5, 12/kg and x"),
        ("Boeing 747-400, a 50-50 chance, 10-2-1", "Boeing 747 400, a 50 50 chance, 10 2 1"),
        ("~5 km, ≈3 m, <5 min, >10%", "about 5 kilometers, about 3 meters, less than 5 minutes, more than 10%"),
        (
            "Inn (c. 1900), est. 1999, est. time, 6 in, 7 ft",
            "Inn (circa nineteen hundred), established nineteen ninety nine, estimated time, 6 inches, 7 feet",
        ),
        (
            "John 3:16-18, 2**8, 5x/day, 3 GHz, 1.4bn (China)",
            "John 3 16 to 18, 2 to the eight, 5 times per day, 3 gigahertz, 1.4 billion (China)",
        ),
        (
            "10\" x 12\", 30' x 40', 1 1/4 in. thick",
            "10 inches x 12 inches, 30 feet x 40 feet, one and a quarter inches thick",
        ),
        ("May 3rd - May 5th, 1 000 000, $100 CAD", "May third to May fifth, 1,000,000, 100 Canadian dollars"),
        ("a 10K run and a 30-min. wait", "a 10K run and a 30 minute wait"),
        ("sales of March 2024, 1.000.000 in all", "sales of March twenty twenty four, 1,000,000 in all"),
        ('he said "it is 5" and left', "he said it is 5 and left"),
        ("<your name> and x<y>z", "your name and x is less than y is greater than z"),
        ("😀 fun 👍🏽 ❤️", "fun"),
        ("你好世界 hello Привет", "hello"),
        ("😀🎉", ""),
        ("!!! … —", ""),
        ("", ""),
    ],
)
def test_english_is_said_as_people_read_it(text: str, spoken: str) -> None:
    assert speakable(text, "en-us").text == spoken


def test_a_voice_reads_its_own_script_and_leaves_others_out() -> None:
    assert speakable("Привет, мир! 你好", "ru").text == "Привет, мир!"
    assert speakable("你好，世界。", "cmn").text == "你好，世界。"
    assert speakable("مرحبا بالعالم", "ar").text == "مرحبا بالعالم"
    assert speakable("Dr. Smith", "de").text == "Dr. Smith", "English is expanded for English voices only"


SNIPPETS = st.sampled_from(
    ["$", "€", "5", "10", "2024", "1/2", ":30", " am", "-", "–", ".", ",", " kg", "°C", "May ", "Nov. ", "St.", "'90s",
     "%", " per ", "(555)", "call ", "v1.2", "½", " x ", "=", "<b>", "[a](b)", "VIII", "th", "Henry ", "@", "#", "/",
     "k ", "+"]
)  # fmt: skip


@given(
    st.text(max_size=120)
    | st.text("ab<>&[]()*_|$1.-#`~ \n/:https", max_size=120)
    | st.lists(SNIPPETS, max_size=20).map("".join)
)
def test_every_character_knows_where_it_comes_from_in_order(text: str) -> None:
    spoken = speakable(text, "en")
    assert len(spoken.origins) == len(spoken.text)
    assert list(spoken.origins) == sorted(spoken.origins)
    assert all(0 < origin <= len(text) for origin in spoken.origins)


def test_words_that_stay_keep_their_places() -> None:
    text = "**Hello** there, Dr. Smith, it costs $5.50 now."
    spoken = speakable(text, "en")
    for word in ("Hello", "there,", "Smith,", "costs", "now."):
        end = spoken.text.index(word) + len(word)
        assert text[: spoken.origins[end - 1]].endswith(word)
    end = spoken.text.index("cents") + len("cents")
    assert text[: spoken.origins[end - 1]].endswith("$5.50")


def test_a_pause_in_a_long_abbreviation_leaves_its_words_where_they_are() -> None:
    text = "**Say** " + "x.y. " * 12 + "end"
    spoken = speakable(text, "en")
    assert "x.y. x.y, x.y." in spoken.text
    assert text[: spoken.origins[spoken.text.index(",") - 1]] == "**Say** " + "x.y. " * 4 + "x.y"
    assert text[: spoken.origins[-1]].endswith("end")


LONG = [
    "-" * 299 + "(", "|-" * 149 + "(", "<" * 300, "[" * 300, "https://" * 37, "$1" * 150, "1-" * 150, "1/" * 150,
    "(1" * 150, "1 " * 150, "[a](" * 75, "[a](" + "(" * 290, "<a b='" * 50, "<a b " * 60, "+1" * 150, "1," * 150,
    "May 1 " * 50, "code 12 or 123 or " * 16, "1." * 150, "a@b." * 75, "<a-" * 100, "St " * 100, "1'" * 150, "=1" * 150,
    "0" * 300, "9" * 299 + "x", "I" * 300, "x/" * 150, "1:00-" * 60, "$1-" * 100, "12 A b " * 42, "A" * 300,
]  # fmt: skip


@pytest.mark.parametrize("text", LONG)
def test_nothing_makes_a_rule_search_for_long(text: str) -> None:
    """Not a timed test: rules that go back over the text again and again would run into the test's time limit."""
    for _ in range(300):
        speakable(text, "en")
