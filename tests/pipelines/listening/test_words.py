"""What words mean over a reply: its echo, somebody behind the echo, an order to stop."""

import pytest

from pipelines.listening.echoes import likeness
from pipelines.listening.interface import Transcript
from pipelines.listening.settings import ListeningSettings
from pipelines.listening.words import Meaning, Said, Vocabulary

SETTINGS = ListeningSettings()
WORDS = Vocabulary.of(SETTINGS.stop_words, SETTINGS.agreement)
EGG = "To boil an egg, put it into hot water for six minutes and then rinse it with cold water."
BEES = "Bees dance in order to tell each other where there are flowers and how far away they are."
MUSEUM = "You could visit the museum in the morning and walk along the river in the afternoon."
LEAVES = "Leaves turn yellow in autumn because the tree takes the green pigment back before winter."
NAME = "The name comes from an old word for a small hill, and it is spelled with two letters l."
PARCEL = "Your parcel was sent yesterday and should arrive between ten and twelve tomorrow."


def meaning(heard: str, said: str, logprob: float = -0.3, certainty: float = 0.94) -> Meaning:
    return WORDS.meaning(Transcript(heard, "en", logprob, 0.05), Said(said), certainty)


# What Whisper base heard of these replies in the bundled voice, 12 dB weaker.
@pytest.mark.parametrize(
    ("heard", "said"),
    [
        ("the boiling egg.", EGG),
        ("Be stance in order.", BEES),
        ("Least turn yellow.", LEAVES),
        ("You could visit the museum in", MUSEUM),
        ("please turn yellow and autumn because", LEAVES),
        ("The main comes from an old word for a small hill.", NAME),
    ],
)
def test_an_echo_in_other_words_is_an_echo(heard: str, said: str) -> None:
    assert meaning(heard, said) is Meaning.ECHO


@pytest.mark.parametrize(
    ("heard", "said"),
    [
        ("Please turn yellow and autumn because the tree takes the green. What about tomorrow?", LEAVES),
        ("You could visit the museum in the morning and walk along the river. No, that is not what I meant.", MUSEUM),
        ("The main comes from an old word for a small hill, and a need help with something else.", NAME),
        ("Your parcel was sent yesterday and should arrive between ten and not London.", PARCEL),
    ],
)
def test_somebody_who_speaks_over_an_echo_is_heard(heard: str, said: str) -> None:
    assert meaning(heard, said) is Meaning.SOMETHING


@pytest.mark.parametrize(
    ("heard", "logprob"),
    [("Your parcel was sent yesterday and should arrive at Queen Tain", -0.64), ("Be stance in order to tell", -0.55)],
)
def test_uncertain_words_at_the_end_of_an_echo_are_its_own(heard: str, logprob: float) -> None:
    said = PARCEL if heard.startswith("Your") else BEES
    assert meaning(heard, said, logprob) is Meaning.ECHO


@pytest.mark.parametrize(
    "heard", ["What about tomorrow?", "How much does it cost?", "Tell me about something else.", "Who said that?"]
)
@pytest.mark.parametrize("said", [EGG, BEES, MUSEUM, LEAVES, NAME, PARCEL])
def test_what_somebody_asks_is_no_echo(heard: str, said: str) -> None:
    assert meaning(heard, said) is Meaning.SOMETHING


@pytest.mark.parametrize(("heard", "logprob"), [("Stop!", -1.12), ("Cancel", -1.43), ("Wait.", -1.4)])
def test_an_order_that_is_clearly_spoken_stops_though_it_is_recognised_with_doubt(heard: str, logprob: float) -> None:
    assert meaning(heard, EGG, logprob, certainty=0.92) is Meaning.STOP
    assert meaning(heard, EGG, logprob, certainty=0.6) is Meaning.NOTHING


def test_likeness_is_that_of_the_best_piece() -> None:
    assert likeness("egg", "toboilanegg") == 1.0
    assert likeness("eggs", "toboilanegg") == 0.5
    assert likeness("xyz", "toboilanegg") == -1.0
    assert likeness("", "toboilanegg") == 0.0
    assert likeness("egg", "") == -1.0


@pytest.mark.parametrize(
    ("heard", "said"), [("Be stance and open.", BEES), ("That is too", EGG), ("Be stance and order.", BEES)]
)
def test_doubtful_words_that_are_somewhat_like_the_reply_are_not_believed(heard: str, said: str) -> None:
    assert meaning(heard, said, -0.69) is Meaning.ECHO


@pytest.mark.parametrize("heard", ["No.", "Why?", "Paris?"])
def test_a_short_word_is_no_echo_because_its_letters_occur(heard: str) -> None:
    assert meaning(heard, "I know that the sparrows fly high in spring.") is Meaning.SOMETHING


@pytest.mark.parametrize(("heard", "logprob"), [("Emma Maychem.", -0.95), ("Amanda", -1.05), ("Actual", -0.9)])
def test_one_or_two_words_in_doubt_do_not(heard: str, logprob: float) -> None:
    assert meaning(heard, EGG, logprob, certainty=0.92) is Meaning.NOTHING
