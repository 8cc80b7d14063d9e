"""The transitions of ``Turns``: each takes it and one thing that happened, and gives it back with what follows."""

from dataclasses import replace

from pipelines.listening.interface import FRAME, Transcript
from pipelines.listening.turns import (
    AGAIN,
    BEGIN,
    COMPLETE,
    FIRST_LOOK,
    LONGEST_SEGMENT,
    MOST_ECHOES,
    NEXT_LOOK,
    PARTIAL,
    PAUSE,
    RELEASE,
    SEGMENT,
    SENTENCE,
    SHORT_PAUSE,
    TAIL,
    UNFINISHED,
    Await,
    Decision,
    Dropped,
    Ended,
    Idled,
    Judge,
    Partly,
    Policy,
    Recognise,
    Speech,
    Started,
    Turns,
    samples,
)
from pipelines.listening.unfinished import unfinished
from pipelines.listening.words import Meaning, Said, imagined

Step = tuple[Turns, list[Decision]]


def hear(turns: Turns, probability: float, level: float, unheard: int = 0) -> Step:
    """One frame: the probability of speech in it, its level, and how many samples of a reply are still to be heard."""
    turns = replace(turns, now=turns.now + FRAME, unheard=unheard)
    speech = turns.speech
    if speech is None:
        return _quiet(turns, probability)
    if probability >= turns.policy.threshold - RELEASE:
        return _voice(turns, speech, probability, level)
    return _pause(turns, speech)


def _quiet(turns: Turns, probability: float) -> Step:
    """Nobody was speaking before this frame."""
    if probability < turns.policy.threshold:
        return _idle(replace(turns, run=0))
    run = turns.run + FRAME
    if run < BEGIN:
        return replace(turns, run=run), []
    begun = turns.now - run
    begin = max(begun - samples(turns.policy.prefix_ms), 0)
    speech = Speech(
        begun,
        turns.now,
        turns.generation,
        voiced=run,
        certainty=probability * run / FRAME,
        segment=begin,
        looked=begun,
    )
    turns = replace(turns, run=0, replied=False, reported=False)
    if turns.policy.interrupts and turns.audible:
        return replace(turns, speech=speech), []  # it must first mean something
    return replace(turns, speech=replace(speech, announced=True)), [Started(begun, interrupts=False)]


def _idle(turns: Turns) -> Step:
    if turns.audible:
        return replace(turns, quiet_since=turns.now), []
    wanted = turns.policy.idle_ms
    quiet = turns.now - turns.quiet_since
    if wanted is None or turns.reported or not turns.replied or quiet < samples(wanted):
        return turns, []
    return replace(turns, reported=True), [Idled(turns.quiet_since, turns.now)]


def _voice(turns: Turns, speech: Speech, probability: float, level: float) -> Step:
    """The speech goes on, perhaps behind a pause."""
    decisions: list[Decision] = []
    if speech.generation and turns.now - speech.last > FRAME:
        speech, decisions = _resumed(speech)
    speech = replace(
        speech, last=turns.now, voiced=speech.voiced + FRAME, certainty=speech.certainty + probability, judged=0
    )
    if turns.now - speech.segment > LONGEST_SEGMENT - TAIL and (not speech.quietest[1] or level <= speech.quietest[0]):
        speech = replace(speech, quietest=(level, turns.now - FRAME // 2))
    turns = replace(turns, speech=speech)
    if turns.now - speech.begun >= samples(turns.policy.longest_ms) or turns.now - speech.segment >= LONGEST_SEGMENT:
        turns, more = _cut(turns, speech)
        return turns, [*decisions, *more]
    if speech.meant and not speech.announced and _lasts(turns, speech):
        turns, more = _announced(turns, speech)
        return turns, [*decisions, *more]
    first, following = (PARTIAL, PARTIAL) if speech.announced else (FIRST_LOOK, NEXT_LOOK << speech.echoes)
    looked_at = turns.now - speech.looked
    if looked_at >= (first if speech.looked == speech.begun else following):
        turns, ask = _ask(turns, replace(speech, looked=turns.now), urgent=not speech.announced)
        return turns, [*decisions, ask]
    return turns, decisions


def _resumed(speech: Speech) -> tuple[Speech, list[Decision]]:
    """The pause was none at the end of the turn. The words before a pause in long speech are final."""
    heard = speech.heard
    fresh = replace(speech, generation=0, heard=None, answered=False, complete=False, judged=0)
    if heard is None or speech.last - speech.segment < SEGMENT:
        return fresh, []
    heard = _believed(speech, heard)
    before = heard if speech.before is None else speech.before + heard
    decisions: list[Decision] = [Partly(before.text)] if speech.announced and before.text else []
    return replace(
        fresh, before=before, segment=speech.last, partial="", sent=before.text, quietest=(0.0, 0)
    ), decisions


def _cut(turns: Turns, speech: Speech) -> Step:
    """Speech without a pause: its words are asked for up to the quietest frame, or the turn ends by force."""
    ends = turns.now - speech.begun >= samples(turns.policy.longest_ms)
    at = turns.now if ends or not speech.quietest[1] else speech.quietest[1]
    turns, ask = _ask(turns, replace(speech, last=turns.now), urgent=True, end=at)
    assert turns.speech is not None  # noqa: S101 - it was put there just now
    speech = replace(turns.speech, closing=ends, generation=turns.generation, last=at)
    return replace(turns, speech=speech), [ask, Await(turns.generation)]


def _ask(turns: Turns, speech: Speech, *, urgent: bool, end: int | None = None) -> tuple[Turns, Recognise]:
    generation = turns.generation + 1
    over = end is not None or turns.now > speech.last
    ask = Recognise(
        generation, speech.segment, turns.now if end is None else end, urgent, thorough=over and speech.announced
    )
    return replace(turns, speech=speech, generation=generation), ask


def _pause(turns: Turns, speech: Speech) -> Step:
    """A frame of silence behind speech."""
    silence = turns.now - speech.last
    decisions: list[Decision] = []
    semantic = turns.policy.kind == "semantic_vad"
    if not speech.generation and silence >= (SHORT_PAUSE if semantic or not speech.announced else PAUSE):
        turns, ask = _ask(turns, speech, urgent=True)
        speech = replace(speech, generation=turns.generation)
        turns = replace(turns, speech=speech)
        decisions.append(ask)
    if (
        semantic
        and silence >= PAUSE
        and not speech.complete
        and turns.now - max(speech.judged, speech.last) >= (AGAIN if speech.judged else PAUSE)
    ):
        speech = replace(speech, judged=turns.now)
        decisions.append(Judge(speech.generation, max(speech.begun - samples(turns.policy.prefix_ms), 0), turns.now))
    longest = samples(_silence_ms(turns.policy, speech))
    turns = replace(turns, speech=speech)
    if silence < longest or (semantic and decisions):
        return turns, decisions
    return _close(turns, speech, decisions)


def _silence_ms(policy: Policy, speech: Speech) -> int:
    """The silence that ends this turn."""
    if policy.kind == "server_vad":
        return policy.silence_ms
    heard = speech.heard
    more = heard is not None and unfinished(heard.text, heard.language)
    if speech.complete:
        return policy.patience_ms // UNFINISHED if more else policy.silence_ms
    ends = heard is not None and not more and heard.text.endswith((".", "?", "!", "。", "？", "！"))
    return policy.patience_ms // SENTENCE if ends else policy.patience_ms


def _close(turns: Turns, speech: Speech, decisions: list[Decision]) -> Step:
    """The silence ends the turn, as soon as its words are there."""
    if not speech.generation:  # the silence that ends a turn is shorter than a pause
        turns, ask = _ask(turns, speech, urgent=True)
        speech = replace(speech, generation=turns.generation)
        decisions = [*decisions, ask]
    speech = replace(speech, closing=True)
    turns = replace(turns, speech=speech)
    if not speech.answered:
        return turns, [*decisions, Await(speech.generation)]
    turns, ending = _finish(turns, speech)
    return turns, [*decisions, *ending]


def judged(turns: Turns, generation: int, probability: float) -> Step:
    """Whether the turn sounds as if it were over."""
    speech = turns.speech
    if speech is None or speech.generation != generation or probability < COMPLETE:
        return turns, []
    speech = replace(speech, complete=True)
    turns = replace(turns, speech=speech)
    if turns.now - speech.last < samples(_silence_ms(turns.policy, speech)):
        return turns, []
    return _close(turns, speech, [])


def recognised(turns: Turns, generation: int, transcript: Transcript | None) -> Step:
    """The words that were asked for; None where they can't be recognised."""
    speech = turns.speech
    if speech is None or generation <= speech.since:
        return turns, []
    if speech.generation == generation:
        speech = replace(speech, heard=transcript, answered=True)
        turns = replace(turns, speech=speech)
        if speech.closing and _goes_on(turns, speech):
            speech = replace(speech, closing=False)
            turns = replace(turns, speech=speech)
        elif speech.closing:
            return _finish(turns, speech)
        if turns.now - speech.segment >= LONGEST_SEGMENT:  # a cut
            speech, decisions = _resumed(speech)
            return replace(turns, speech=speech), decisions
    elif speech.generation and speech.announced:
        return turns, []  # a look at the words, which the pause's own question has overtaken
    if transcript is None:
        return turns, []
    if not speech.announced:
        return _considered(turns, speech, transcript, over=speech.generation == generation)
    return _looked(turns, speech, transcript)


def _goes_on(turns: Turns, speech: Speech) -> bool:
    """Whether a turn that seemed to be over goes on by its words."""
    silence = turns.now - speech.last
    return turns.policy.kind == "semantic_vad" and 0 < silence < samples(_silence_ms(turns.policy, speech))


def _considered(turns: Turns, speech: Speech, transcript: Transcript, *, over: bool) -> Step:
    """Whether words over a reply interrupt it."""
    said = transcript if speech.before is None else speech.before + transcript
    meaning = turns.vocabulary.meaning(said, turns.said, _certainty(speech))
    lasted = _lasts(turns, speech) or (over and not _graced(turns, speech))
    if meaning is Meaning.STOP or (meaning is Meaning.SOMETHING and lasted):
        return _announced(turns, speech)
    echoes = min(speech.echoes + 1, MOST_ECHOES) if meaning is Meaning.ECHO else 0
    meant = meaning is Meaning.SOMETHING and not _graced(turns, speech)
    return replace(turns, speech=replace(speech, echoes=echoes, meant=meant)), []


def _announced(turns: Turns, speech: Speech) -> Step:
    """Speech over a reply counts from now on."""
    speech = replace(speech, announced=True, interrupted=turns.audible)
    return replace(turns, speech=speech), [Started(speech.begun, interrupts=turns.audible)]


def _looked(turns: Turns, speech: Speech, transcript: Transcript) -> Step:
    """What two looks at the words agree on is certain."""
    text = transcript.text if speech.before is None else f"{speech.before.text} {transcript.text}"
    certain = _agreed(speech.partial, text)
    speech = replace(speech, partial=text)
    if len(certain) <= len(speech.sent) or imagined(transcript, certainty=_certainty(speech)):
        return replace(turns, speech=speech), []
    return replace(turns, speech=replace(speech, sent=certain)), [Partly(certain)]


def _agreed(one: str, other: str) -> str:
    """The words at the beginning that both have; the last of them may still grow."""
    words = []
    for word, against in zip(one.split(), other.split(), strict=False):
        if word != against:
            break
        words.append(word)
    return " ".join(words)


def _believed(speech: Speech, heard: Transcript) -> Transcript:
    """What was heard, or nothing where it is imagined."""
    return Transcript("", heard.language) if imagined(heard, certainty=_certainty(speech)) else heard


def _certainty(speech: Speech) -> float:
    return speech.certainty * FRAME / speech.voiced if speech.voiced else 0.0


def _finish(turns: Turns, speech: Speech) -> Step:
    """The words of a turn that is over are there."""
    before, heard = speech.before, speech.heard
    begin = max(speech.begun - samples(turns.policy.prefix_ms), 0)
    certainty = _certainty(speech)
    turns = replace(turns, speech=None, quiet_since=turns.now, run=0)
    heard = None if heard is None else _believed(speech, heard)
    text = heard if before is None or heard is None else before + heard
    if text is not None and not text.text:
        return turns, [Dropped(speech.announced, "no words")]
    decisions: list[Decision] = []
    if not speech.announced:
        if text is None:
            return turns, [Dropped(announced=False, why="not recognised")]
        meaning = turns.vocabulary.meaning(text, turns.said, certainty)
        if meaning in (Meaning.NOTHING, Meaning.ECHO) or (meaning is Meaning.AGREEMENT and turns.audible):
            return turns, [Dropped(announced=False, why=meaning.name.lower())]
        short = speech.voiced < samples(turns.policy.interrupt_ms)
        graced = short and _graced(turns, speech)  # while it goes on none counts there: too little is heard of an echo
        if turns.audible and meaning is Meaning.SOMETHING and graced:
            return turns, [Dropped(announced=False, why="grace")]
        speech = replace(speech, interrupted=turns.audible)
        decisions.append(Started(speech.begun, interrupts=turns.audible))
    order = speech.interrupted and text is not None and turns.vocabulary.orders(text)
    return turns, [*decisions, Ended(begin, speech.last, text, order)]


def _lasts(turns: Turns, speech: Speech) -> bool:
    """Whether speech that means something has lasted long enough to interrupt a reply."""
    return speech.voiced >= samples(turns.policy.interrupt_ms) and not _graced(turns, speech)


def _graced(turns: Turns, speech: Speech) -> bool:
    """Whether all of the speech lies in the first moments of a reply, where it does not count."""
    return turns.sound_begun is not None and speech.last < turns.sound_begun + samples(turns.policy.grace_ms)


def replying(turns: Turns, *, active: bool) -> Turns:
    """A reply is being made from now on, or no longer; what was sent of it may still be heard."""
    if active and not turns.replying:
        said = turns.said if turns.audible else Said()
        return replace(turns, replying=True, said=said, sound_begun=None, replied=True)
    return replace(turns, replying=active)


def sounded(turns: Turns, text: str) -> Turns:
    """Sound of the reply was sent, and this text with it."""
    begun = turns.now if turns.sound_begun is None else turns.sound_begun
    return replace(turns, said=turns.said + text, sound_begun=begun)


def silenced(turns: Turns) -> Turns:
    """The reply has stopped, and nothing of it is heard any more."""
    return replace(turns, replying=False, unheard=0, sound_begun=None)


def cleared(turns: Turns) -> Turns:
    """What was being said is forgotten."""
    return replace(turns, speech=None, run=0, quiet_since=turns.now)
