"""The turn-taking machine, without models: frames and answers in, decisions out."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.listening import turn_taking
from pipelines.listening.interface import FRAME, RATE, Transcript
from pipelines.listening.settings import ListeningSettings
from pipelines.listening.turns import (
    Await,
    Decision,
    Dropped,
    Ended,
    Idled,
    Judge,
    Partly,
    Policy,
    Recognise,
    Started,
    Turns,
    milliseconds,
)
from pipelines.listening.words import Vocabulary

SETTINGS = ListeningSettings()
WORDS = Vocabulary.of(SETTINGS.stop_words, SETTINGS.agreement)
SURE = -0.1


@dataclass
class Talk:
    """One stream of audio on paper: says what is heard, answers what is asked, and collects what is decided."""

    policy: Policy = field(default_factory=Policy)
    words: str | None = "What is the capital of France?"  # every question's answer; None: not recognised
    logprob: float = SURE
    complete: float = 1.0  # the answer to whether a turn is over
    reply: bool = False  # a reply is being said
    answers: bool = True
    turns: Turns = field(init=False)
    decisions: list[Decision] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.turns = Turns(self.policy, WORDS)

    def voice(self, ms: int, probability: float = 0.95) -> "Talk":
        for _ in range(round(ms / 32)):
            unheard = 5 * RATE if self.reply else 0
            self.follow(turn_taking.hear(self.turns, probability, -20.0, unheard))
        return self

    def silence(self, ms: int) -> "Talk":
        return self.voice(ms, 0.02)

    def replying(self, text: str = "The steam engine changed the world.") -> "Talk":
        self.reply = True
        self.turns = turn_taking.sounded(turn_taking.replying(self.turns, active=True), text)
        return self.silence(2000)

    def finished(self) -> "Talk":
        """The reply has been said."""
        self.reply = False
        self.turns = turn_taking.replying(self.turns, active=False)
        return self

    def follow(self, step: turn_taking.Step) -> None:
        self.turns, decisions = step
        for decision in decisions:
            self.decisions.append(decision)
            if isinstance(decision, Judge):
                self.follow(turn_taking.judged(self.turns, decision.generation, self.complete))
            if isinstance(decision, Recognise) and self.answers:
                self.answer(decision.generation)

    def answer(self, generation: int) -> None:
        transcript = None if self.words is None else Transcript(self.words, "en", self.logprob, 0.02)
        self.follow(turn_taking.recognised(self.turns, generation, transcript))

    def all(self, *kinds: type) -> list[Decision]:
        return [decision for decision in self.decisions if isinstance(decision, kinds)]

    @property
    def outcome(self) -> list[str]:
        return [type(decision).__name__ for decision in self.all(Started, Ended, Dropped, Idled)]


def test_speech_is_announced_and_ends_with_its_words_after_the_silence() -> None:
    talk = Talk().silence(1000).voice(1500).silence(480)
    assert talk.outcome == ["Started"]
    talk.silence(64)
    assert talk.outcome == ["Started", "Ended"]
    (ended,) = talk.all(Ended)
    assert isinstance(ended, Ended)
    assert ended.transcript is not None
    assert ended.transcript.text == "What is the capital of France?"
    assert milliseconds(ended.end - ended.begin) == pytest.approx(1500 + 300, abs=64)


def test_a_pause_that_is_shorter_than_the_silence_ends_no_turn() -> None:
    talk = Talk().voice(600).silence(400).voice(600).silence(600)
    assert talk.outcome == ["Started", "Ended"]


def test_a_click_is_no_speech() -> None:
    assert Talk().silence(200).voice(64).silence(2000).decisions == []


def test_speech_without_words_is_dropped() -> None:
    assert Talk(words="").voice(500).silence(600).outcome == ["Started", "Dropped"]


@pytest.mark.parametrize("words", ["Thank you for watching!", "[Music]", "♪ ♪", "you", "bye bye bye bye bye"])
def test_words_that_are_imagined_in_noise_are_dropped(words: str) -> None:
    assert Talk(words=words, logprob=-0.95).voice(500, 0.7).silence(600).outcome == ["Started", "Dropped"]


@pytest.mark.parametrize(
    "words",
    [
        "What is the use of my own vessels? " * 9,
        "We are in the same place, " * 12,
        "Hehehehehehehehehehehehehehehehehehehehehe",
        "I don't know what I'm talking about. " * 5,
    ],
)
def test_words_that_repeat_themselves_are_dropped(words: str) -> None:
    assert Talk(words=words, logprob=-0.3).voice(4000).silence(600).outcome == ["Started", "Dropped"]


@pytest.mark.parametrize(
    "words", ["I said no, no, no, not that one.", "One, two, three, four, five, six, seven, eight."]
)
def test_a_person_may_repeat_a_word(words: str) -> None:
    assert Talk(words=words, logprob=-0.3).voice(4000).silence(600).outcome == ["Started", "Ended"]


@pytest.mark.parametrize(
    ("certainty", "logprob"), [(0.50, -0.35), (0.56, -0.94), (0.66, -0.90), (0.59, -1.05), (0.75, -0.62), (0.48, -1.09)]
)
def test_uncertain_words_of_what_is_hardly_speech_are_dropped(certainty: float, logprob: float) -> None:
    talk = Talk(words="The world is going to be better.", logprob=logprob).voice(200).voice(3000, certainty)
    assert talk.silence(600).outcome == ["Started", "Dropped"]


@pytest.mark.parametrize(
    ("certainty", "logprob"), [(0.76, -0.38), (0.78, -0.23), (0.80, -0.50), (0.79, -0.16), (0.85, -0.73), (0.93, -1.0)]
)
def test_words_in_noise_are_heard_where_they_are_certain(certainty: float, logprob: float) -> None:
    talk = Talk(words="The world is going to be better.", logprob=logprob).voice(3000, certainty)
    assert talk.silence(600).outcome == ["Started", "Ended"]


def test_imagined_words_of_an_earlier_segment_are_no_part_of_a_turn() -> None:
    talk = Talk(words="I'm sorry.", logprob=-3.5).voice(9000).silence(300)
    talk.logprob = SURE
    talk.words = "What is the capital of France?"
    talk.voice(1500).silence(600)
    (ended,) = talk.all(Ended)
    assert isinstance(ended, Ended)
    assert ended.transcript is not None
    assert ended.transcript.text == "What is the capital of France?"


def test_a_long_crowd_of_which_no_segment_is_believed_is_dropped() -> None:
    talk = Talk(words="I'm sorry.", logprob=-3.5).voice(9000, 0.6).silence(300).voice(9000, 0.6).silence(600)
    assert talk.outcome == ["Started", "Dropped"]


def test_a_thank_you_that_was_said_is_heard() -> None:
    assert Talk(words="Thank you.").voice(500).silence(600).outcome == ["Started", "Ended"]


@pytest.mark.parametrize("certainty", [0.85, 0.92])
def test_a_short_answer_that_is_clearly_spoken_is_heard(certainty: float) -> None:
    assert Talk(words="Okay.", logprob=-0.97).voice(380, certainty).silence(600).outcome == ["Started", "Ended"]


def test_words_that_cannot_be_recognised_end_the_turn_without_any() -> None:
    talk = Talk(words=None).voice(500).silence(600)
    assert talk.outcome == ["Started", "Ended"]
    assert [decision.transcript for decision in talk.decisions if isinstance(decision, Ended)] == [None]


def test_nothing_more_is_heard_before_the_words_of_a_turn_are_there() -> None:
    talk = Talk(answers=False).voice(500).silence(512)
    (wait,) = talk.all(Await)
    assert talk.outcome == ["Started"]
    assert isinstance(wait, Await)
    talk.answer(wait.generation)
    assert talk.outcome == ["Started", "Ended"]


def test_the_words_are_asked_for_before_the_silence_has_ended_the_turn() -> None:
    talk = Talk().voice(800).silence(224)
    assert [decision.end for decision in talk.decisions if isinstance(decision, Recognise)] == [talk.turns.now]
    assert talk.outcome == ["Started"]


def test_a_late_answer_about_earlier_speech_is_no_answer_about_this() -> None:
    talk = Talk(answers=False).replying().voice(320)
    (look,) = (decision for decision in talk.decisions if isinstance(decision, Recognise))
    talk.turns = turn_taking.cleared(talk.turns)
    talk.voice(200)
    talk.words = "Stop!"
    talk.answer(look.generation)
    assert talk.all(Started) == []


class TestOverAReply:
    """Speech while a reply is being said."""

    @pytest.mark.parametrize("words", ["Mm-hmm.", "M.M.H.M.", "Yeah.", "Okay, right.", "Uh-huh", "I see."])
    def test_agreement_stops_nothing(self, words: str) -> None:
        talk = Talk(words=words).replying().voice(600).silence(800)
        assert talk.outcome == ["Dropped"]

    def test_a_cough_stops_nothing(self) -> None:
        assert Talk(words="Ha!", logprob=-1.6).replying().voice(400, 0.7).silence(800).outcome == ["Dropped"]

    def test_the_replys_own_words_stop_nothing(self) -> None:
        talk = Talk(words="steam engine changed the word").replying().voice(2500).silence(800)
        assert talk.outcome == ["Dropped"]

    def test_speech_that_lasts_and_means_something_stops_it(self) -> None:
        talk = Talk(words="What about Germany").replying().voice(400)
        assert talk.outcome == []
        talk.voice(200)
        (started,) = (decision for decision in talk.decisions if isinstance(decision, Started))
        assert started.interrupts
        assert abs(started.at - 2 * RATE) <= 4 * FRAME
        assert talk.silence(600).outcome == ["Started", "Ended"]

    def test_it_stops_as_soon_as_it_has_lasted_where_its_words_are_known_before(self) -> None:
        talk = Talk(words="What about Germany").replying().voice(288)
        asked = len(talk.all(Recognise))
        talk.answers = False
        talk.voice(192)
        assert talk.outcome == []
        talk.voice(32)
        assert talk.outcome == ["Started"]
        assert len(talk.all(Recognise)) <= asked + 1

    def test_what_was_heard_in_its_first_moments_is_not_remembered(self) -> None:
        talk = Talk(words="What about Germany")
        talk.reply = True
        talk.turns = turn_taking.sounded(turn_taking.replying(talk.turns, active=True), "To boil an egg.")
        talk.voice(800)
        talk.answers = False
        assert talk.voice(1000).outcome == []
        talk.answers = True
        assert talk.voice(300).outcome == ["Started"]

    def test_a_short_question_stops_it_once_it_is_over(self) -> None:
        talk = Talk(words="And Paris?").replying().voice(300).silence(128)
        assert talk.all(Started) != []

    @pytest.mark.parametrize("words", ["Stop!", "Wait, please", "Okay, stop", "Hold on"])
    def test_an_order_to_stop_stops_it_at_once(self, words: str) -> None:
        talk = Talk(words=words, logprob=-0.9).replying().voice(288)
        assert talk.outcome == ["Started"]

    def test_a_stop_that_the_reply_says_itself_stops_nothing(self) -> None:
        talk = Talk(words="the next bus stop").replying("Get off at the next bus stop.").voice(700).silence(700)
        assert talk.outcome == ["Dropped"]

    def test_its_first_moments_count_only_for_an_order_to_stop(self) -> None:
        talk = Talk(words="and then").silence(500)
        talk.reply = True
        talk.turns = turn_taking.sounded(turn_taking.replying(talk.turns, active=True), "Well,")
        assert talk.voice(300).silence(700).outcome == ["Dropped"]
        stopping = Talk(words="wait").silence(500)
        stopping.reply = True
        stopping.turns = turn_taking.sounded(turn_taking.replying(stopping.turns, active=True), "Well,")
        assert stopping.voice(300).outcome == ["Started"]

    def test_words_that_last_count_in_its_first_moments_too(self) -> None:
        talk = Talk(words="in Paris and in Rome").silence(500)
        talk.reply = True
        talk.turns = turn_taking.sounded(turn_taking.replying(talk.turns, active=True), "Well,")
        assert talk.voice(700).silence(700).outcome == ["Started", "Ended"]

    @pytest.mark.parametrize(
        ("words", "order"),
        [
            ("Stop!", True),
            ("Stop it, please.", True),
            ("Wait a moment.", True),
            ("Stop, stop!", True),
            ("No.", False),
            ("Stop. What about Rome?", False),
        ],
    )
    def test_an_order_to_stop_is_known_as_such(self, words: str, order: bool) -> None:
        talk = Talk(words=words).replying().voice(600).silence(700)
        assert [decision.order for decision in talk.decisions if isinstance(decision, Ended)] == [order]

    def test_without_a_reply_nothing_is_an_order_to_stop_it(self) -> None:
        talk = Talk(words="Stop.").voice(600).silence(700)
        assert [decision.order for decision in talk.decisions if isinstance(decision, Ended)] == [False]

    def test_speech_is_announced_at_once_where_it_is_not_to_interrupt(self) -> None:
        talk = Talk(Policy(interrupts=False)).replying().voice(128)
        assert [decision.interrupts for decision in talk.decisions if isinstance(decision, Started)] == [False]

    def test_an_answer_as_the_reply_ends_is_a_turn(self) -> None:
        talk = Talk(words="Yes.").replying().voice(300)
        talk.reply = False
        talk.turns = turn_taking.replying(talk.turns, active=False)
        assert talk.silence(700).outcome == ["Started", "Ended"]


class TestSemantic:
    """Turns that end where they sound complete."""

    policy = Policy("semantic_vad", silence_ms=200, patience_ms=4000)

    def test_a_complete_turn_ends_soon(self) -> None:
        assert Talk(self.policy).voice(800).silence(256).outcome == ["Started", "Ended"]

    def test_an_incomplete_one_waits_for_more(self) -> None:
        talk = Talk(self.policy, "I would like to", complete=0.1).voice(800).silence(2000)
        assert talk.outcome == ["Started"]
        assert talk.voice(500).outcome == ["Started"]

    def test_but_not_for_ever(self) -> None:
        talk = Talk(self.policy, "I would like to", complete=0.1).voice(800).silence(3900)
        assert talk.outcome == ["Started"]
        assert talk.silence(200).outcome == ["Started", "Ended"]

    def test_one_whose_words_end_a_sentence_waits_less(self) -> None:
        talk = Talk(self.policy, "What is it?", complete=0.1).voice(800).silence(900)
        assert talk.outcome == ["Started"]
        assert talk.silence(200).outcome == ["Started", "Ended"]

    @pytest.mark.parametrize(
        "words",
        [
            "I would like to book a table for.",
            "My mother is going to live with us, because.",
            "If it rains tomorrow.",
            "So I went to the shop...",
        ],
    )
    def test_one_that_sounds_complete_waits_where_its_words_want_more(self, words: str) -> None:
        talk = Talk(self.policy, words, complete=0.98).voice(800).silence(1800)
        assert talk.outcome == ["Started"]
        assert talk.silence(300).outcome == ["Started", "Ended"]

    @pytest.mark.parametrize(
        "words", ["What is this for?", "Turn the light on.", "When was it?", "If it rains, we stay."]
    )
    def test_it_does_not_where_its_words_want_none(self, words: str) -> None:
        assert Talk(self.policy, words, complete=0.98).voice(800).silence(256).outcome == ["Started", "Ended"]

    def test_its_words_come_late_and_want_more(self) -> None:
        talk = Talk(self.policy, "I would like to.", complete=0.98, answers=False).voice(800).silence(256)
        wait = talk.all(Await)[0]
        assert isinstance(wait, Await)
        talk.answer(wait.generation)
        assert talk.outcome == ["Started"]
        talk.answers = True
        assert talk.voice(500).silence(1800).outcome == ["Started"]
        assert talk.silence(300).outcome == ["Started", "Ended"]

    def test_it_is_considered_again_as_the_silence_lasts(self) -> None:
        talk = Talk(self.policy, "I would like to", complete=0.1).voice(800).silence(1500)
        assert len(talk.all(Judge)) > 2
        talk.complete = 0.9
        assert talk.silence(500).outcome == ["Started", "Ended"]


def test_words_that_two_looks_agree_on_are_certain() -> None:
    talk = Talk(words="I would like").voice(1200)
    assert talk.all(Partly) == []
    talk.words = "I would like to know"
    talk.voice(1000)
    assert talk.all(Partly) == [Partly("I would like")]


def test_long_speech_is_recognised_in_segments_that_pauses_end() -> None:
    talk = Talk(words="One.")
    for _ in range(5):
        talk.voice(9000).silence(300)
    talk.silence(700)
    (ended,) = talk.all(Ended)
    assert isinstance(ended, Ended)
    assert ended.transcript is not None
    assert ended.transcript.text == "One. One. One. One. One."
    longest = max(ask.end - ask.begin for ask in talk.decisions if isinstance(ask, Recognise))
    assert longest < 12 * RATE


def test_speech_without_a_pause_is_cut_before_a_recogniser_hears_no_more() -> None:
    talk = Talk(words="On and on.").voice(70_000).silence(700)
    asks = [decision for decision in talk.decisions if isinstance(decision, Recognise)]
    assert max(ask.end - ask.begin for ask in asks) <= 24 * RATE + FRAME
    assert talk.outcome == ["Started", "Ended"]


def test_speech_that_never_ends_is_ended() -> None:
    talk = Talk(Policy(longest_ms=30_000), words="On and on.").voice(31_000)
    assert talk.outcome[:2] == ["Started", "Ended"]


def test_long_silence_behind_a_reply_is_reported_once() -> None:
    talk = Talk(Policy(idle_ms=5000)).silence(12_000)
    assert talk.outcome == [], "nothing was said yet"
    talk.replying().finished().silence(4900)
    assert talk.outcome == []
    talk.silence(200)
    assert talk.outcome == ["Idled"]
    talk.replying().finished().silence(12_000)
    assert talk.outcome == ["Idled"], "the user was asked once"
    talk.voice(500).silence(600).replying().finished().silence(5100)
    assert talk.outcome == ["Idled", "Started", "Ended", "Idled"]


def test_a_reply_is_no_silence() -> None:
    talk = Talk(Policy(idle_ms=5000)).replying().silence(8000)
    assert talk.outcome == []


Happening = tuple[str, int]


@given(
    st.lists(
        st.tuples(st.sampled_from(["voice", "silence", "reply", "quiet", "clear", "answer"]), st.integers(1, 60)),
        max_size=40,
    ),
    st.sampled_from([Policy(), TestSemantic.policy, Policy(idle_ms=1000, longest_ms=5000), Policy(interrupts=False)]),
    st.sampled_from(["Hello there.", "", "Stop", "yeah", None]),
    st.booleans(),
)
def test_whatever_is_heard_each_turn_that_begins_ends_once(
    happenings: Iterable[Happening], policy: Policy, words: str | None, answers: bool
) -> None:
    talk = Talk(policy, words=words, complete=0.7, answers=answers)
    waiting = 0
    begun = False
    for what, count in happenings:
        match what:
            case "voice" | "silence":
                for _ in range(count):
                    if (wait := next(iter(talk.all(Await)[waiting:]), None)) is not None:
                        waiting = len(talk.all(Await))
                        assert isinstance(wait, Await)
                        if not answers:
                            talk.answer(wait.generation)
                    (talk.voice if what == "voice" else talk.silence)(32)
            case "reply":
                talk.reply = True
                talk.turns = turn_taking.sounded(turn_taking.replying(talk.turns, active=True), "Some words.")
            case "quiet":
                talk.reply = False
                talk.turns = turn_taking.silenced(talk.turns)
            case "clear":
                if begun_turn(talk):
                    talk.decisions.append(Dropped(announced=True, why="cleared"))
                talk.turns = turn_taking.cleared(talk.turns)
            case "answer":
                talk.answer(talk.turns.generation)
    for decision in talk.decisions:
        if isinstance(decision, Started):
            assert not begun, "a turn begins once"
            begun = True
        elif isinstance(decision, Ended) or (isinstance(decision, Dropped) and decision.announced):
            assert begun, "only what has begun ends"
            begun = False


def begun_turn(talk: Talk) -> bool:
    """Whether an announced turn is in progress."""
    return talk.turns.speech is not None and talk.turns.speech.announced
