"""Who speaks: a pure function from what is heard of a stream of audio to what follows from it.

``Turns`` touches no model and no clock: its time is the stream's, in samples. Its inputs are one verdict a frame, and
the answers to what it asks for; its outputs are decisions.

Without a reply, speech is announced as soon as it is heard. While a reply is being made or heard, it must first mean
something: coughs, "mm-hm", typing and the reply's own echo are no interruption, and the reply goes on.
"""

from dataclasses import dataclass, field
from typing import Literal

from pipelines.listening.interface import FRAME, RATE, Transcript
from pipelines.listening.words import Said, Vocabulary

BEGIN = 3 * FRAME  # of speech, before it counts as such: about a tenth of a second
RELEASE = 0.15  # by how much the probability must fall below the threshold for speech to end
PAUSE = RATE // 5  # of silence, after which words are recognised and the end of the turn is considered
SHORT_PAUSE = RATE // 10  # likewise, over a reply, and where a turn may end soon
SENTENCE = 4  # part of the patience that a turn gets whose words end a sentence
UNFINISHED = 2  # likewise, one whose words want more of them, however complete it sounds
AGAIN = RATE * 2 // 5  # of silence between two considerations
COMPLETE = 0.5  # probability beyond which a turn is over
FIRST_LOOK = RATE // 4  # of speech over a reply, after which its words are looked at
NEXT_LOOK = RATE // 5  # and twice that after each echo of the reply, up to MOST_ECHOES times
MOST_ECHOES = 2
PARTIAL = RATE  # of speech between two looks at its words
SEGMENT = 8 * RATE  # after which a pause ends a segment: its words are final, and what follows is recognised alone
LONGEST_SEGMENT = 24 * RATE  # a recogniser hears at most 30 seconds
TAIL = 3 * RATE  # of such a segment, where the quietest frame is looked for


def samples(milliseconds: int) -> int:
    """As many as there are in so many milliseconds."""
    return milliseconds * RATE // 1000


def milliseconds(samples: int) -> int:
    """How long they are."""
    return samples * 1000 // RATE


@dataclass(frozen=True, slots=True)
class Policy:
    """When a turn ends, and what interrupts a reply."""

    kind: Literal["server_vad", "semantic_vad"] = "server_vad"
    threshold: float = 0.5
    prefix_ms: int = 300
    silence_ms: int = 500  # that ends a turn; with "semantic_vad", one that sounds complete
    patience_ms: int = 4000  # that ends any turn, with "semantic_vad"
    interrupts: bool = True
    interrupt_ms: int = 500
    grace_ms: int = 1000
    idle_ms: int | None = None  # of silence behind a reply, after which that is reported, once
    longest_ms: int = 120_000


@dataclass(frozen=True, slots=True)
class Started:
    """Speech has begun at this sample."""

    at: int
    interrupts: bool


@dataclass(frozen=True, slots=True)
class Recognise:
    """Say what was said from ``begin`` to ``end``; the answer is ``recognised`` with this generation."""

    generation: int
    begin: int
    end: int
    urgent: bool  # somebody waits for it
    thorough: bool  # the words are those of a turn


@dataclass(frozen=True, slots=True)
class Judge:
    """Say whether the turn up to ``end`` is over, before anything else is heard; the answer is ``judged``."""

    generation: int
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Await:
    """Hear nothing more before this generation's words are there."""

    generation: int


@dataclass(frozen=True, slots=True)
class Partly:
    """These words of the turn will not change any more."""

    text: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The turn is over."""

    begin: int
    end: int
    transcript: Transcript | None
    order: bool = False  # it was nothing but an order to stop, and that was done


@dataclass(frozen=True, slots=True)
class Dropped:
    """There was no turn. ``announced``: though it was said to have begun."""

    announced: bool
    why: str


@dataclass(frozen=True, slots=True)
class Idled:
    """Nothing was said from ``begin`` to ``end``."""

    begin: int
    end: int


Decision = Started | Recognise | Judge | Await | Partly | Ended | Dropped | Idled


@dataclass(frozen=True, slots=True)
class Speech:
    """Speech that has begun and may go on."""

    begun: int
    last: int  # behind its last frame with a voice
    since: int = 0  # the last generation before it: what is answered later belongs to it
    voiced: int = 0  # samples of such frames
    certainty: float = 0.0  # sum of their probabilities
    announced: bool = False
    interrupted: bool = False  # it has stopped a reply
    segment: int = 0  # where the current one begins
    before: Transcript | None = None  # the segments before it
    looked: int = 0  # up to where words were last asked for
    judged: int = 0  # likewise, whether the turn is over
    complete: bool = False  # it sounds as if it were
    generation: int = 0  # of the current pause's question; 0: none
    heard: Transcript | None = None  # its answer
    answered: bool = False
    closing: bool = False  # the silence was long enough: only the words are still missing
    partial: str = ""  # the last look at the words, which the next one must confirm
    sent: str = ""
    meant: bool = False  # the last look found that it means something, before it had lasted
    echoes: int = 0  # looks that found the reply's own words
    quietest: tuple[float, int] = (0.0, 0)  # level and place, near the end of a long segment


@dataclass(frozen=True, slots=True)
class Turns:
    """What is remembered of one stream."""

    policy: Policy
    vocabulary: Vocabulary
    now: int = 0
    run: int = 0  # samples with a voice, at a stretch
    speech: Speech | None = None
    generation: int = 0
    replying: bool = False  # a reply is being made
    unheard: int = 0  # samples of it that were sent and not played yet
    sound_begun: int | None = None  # when its first sound was sent
    said: Said = field(default_factory=Said)  # what is said in it
    quiet_since: int = 0  # since when there is neither speech nor a reply
    replied: bool = False  # a reply was made since the user spoke last
    reported: bool = False  # and so was their silence behind it

    @property
    def audible(self) -> bool:
        """Whether a reply is being made or heard."""
        return self.replying or self.unheard > 0
