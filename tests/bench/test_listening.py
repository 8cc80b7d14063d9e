"""What the bench of listening computes by itself: errors of words, mixtures, splices, and waits."""

import numpy as np
import pytest

from bench.heard.measures import Pause, Waiting, errors, last_sound, mixed, power, soonest, spliced, spoken
from bench.heard.speakers import loud, quietest
from bench.heard.talk import Answer
from pipelines.events import AUDIO_RATE


def tone(seconds: float, level: float = 0.5) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    times = np.arange(round(seconds * AUDIO_RATE)) / AUDIO_RATE
    return (level * np.sin(2 * np.pi * 440 * times)).astype(np.float32)


@pytest.mark.parametrize(
    ("said", "heard", "count"),
    [
        ("a b c", "a b c", 0),
        ("a b c", "a x c", 1),
        ("a b c", "a c", 1),
        ("a b c", "a b x c", 1),
        ("a b c", "", 3),
        ("", "a b", 2),
        ("a b c d", "b c d a", 2),
    ],
)
def test_errors_are_words_replaced_left_out_and_added(said: str, heard: str, count: int) -> None:
    assert errors(said.split(), heard.split()) == count


def test_numbers_case_and_punctuation_are_no_errors() -> None:
    assert spoken("It costs 200 dollars, doesn't it?") == spoken("it costs two hundred dollars does not it")
    assert spoken("Gleis 9, bitte!", "de") == ["gleis", "neun", "bitte"]
    assert spoken("Ma sœur", "fr") == spoken("ma soeur", "fr")


def test_money_in_signs_is_the_same_as_in_words() -> None:
    assert spoken("We agreed on $150.") == spoken("we agreed on one hundred and fifty dollars")


@pytest.mark.parametrize("decibels", [0.0, 10.0, 20.0])
def test_noise_is_so_much_weaker_than_the_speech(decibels: float) -> None:
    speech, noise = tone(2.0), 3 * np.random.default_rng(0).standard_normal(AUDIO_RATE).astype(np.float32)
    added = mixed(speech, noise, decibels) - speech
    assert len(added) == len(speech)
    assert 10 * np.log10(power(speech) / power(added)) == pytest.approx(decibels, abs=0.2)


def test_silence_counts_for_nothing_in_the_power_of_speech() -> None:
    speech = tone(1.0)
    assert power(np.concatenate([speech, np.zeros(5 * AUDIO_RATE, np.float32)])) == pytest.approx(
        power(speech), rel=0.02
    )


def test_a_splice_has_its_pause_and_all_of_its_parts() -> None:
    whole = spliced(tone(0.5), tone(0.7), pause=0.3)
    assert len(whole) == round(1.5 * AUDIO_RATE)
    assert last_sound(whole[: round(0.79 * AUDIO_RATE)]) == pytest.approx(0.5, abs=0.01)


def test_a_cut_lies_in_the_quietest_place_near_it() -> None:
    audio = np.concatenate([tone(1.0), np.zeros(AUDIO_RATE // 25, np.float32), tone(1.0)])
    assert 1.0 <= quietest(audio, round(0.96 * AUDIO_RATE)) / AUDIO_RATE <= 1.04


def test_what_is_spoken_is_as_loud_as_it_should_be() -> None:
    assert 10 * np.log10(power(loud(tone(1.0, 0.01), -20.0))) == pytest.approx(-20.0, abs=0.1)


PAUSES = (
    Pause(0.5, ((0.2, 0.9), (0.6, 0.9))),
    Pause(1.5, ((0.2, 0.1), (0.6, 0.1))),
    Pause(None, ((0.2, 0.6), (0.6, 0.95))),
    Pause(None, ((0.2, 0.2), (0.6, 0.2)), sentence=True),
)


def test_a_turn_ends_with_a_score_or_when_patience_does() -> None:
    way = Waiting(threshold=0.5, patience=2.0)
    assert [way.wait(pause) for pause in PAUSES] == [0.2, 2.0, 0.2, 2.0]


def test_words_that_end_a_sentence_shorten_the_patience() -> None:
    assert Waiting(0.5, 2.0, share=0.25).wait(PAUSES[3]) == 0.5


def test_a_way_is_judged_by_what_it_cuts_and_how_long_it_waits() -> None:
    assert list(Waiting(0.5, 2.0).judge(PAUSES)) == pytest.approx([0.5, 1.1])
    assert list(Waiting(2.0, 0.4).judge(PAUSES)) == pytest.approx([1.0, 0.4])


def test_the_soonest_way_is_one_that_cuts_little_enough() -> None:
    ways = [Waiting(2.0, 0.4), Waiting(2.0, 1.0), Waiting(2.0, 2.0)]
    found = soonest(PAUSES, ways, 0.5)
    assert found is not None
    assert found[0].patience == 1.0
    assert soonest(PAUSES, ways[:1], 0.5) is None


def test_sound_that_comes_after_the_last_was_played_is_an_underrun() -> None:
    second = AUDIO_RATE
    assert Answer(sounds=[(0.0, second), (0.9, second), (1.9, second)]).underruns() == 0
    assert Answer(sounds=[(0.0, second), (1.2, second), (1.5, second)]).underruns() == 1
