"""What needs no model: characters that deceive, payloads in disguise, and clients that flood. Pure functions."""

import base64
import binascii
import codecs
import json
import re
import unicodedata
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import nsmallest
from typing import Any
from urllib.parse import unquote_to_bytes

from pipelines.anomaly.pasted import pasted, without
from pipelines.anomaly.text import MARKS, RAW, UNSEEN, composed

REPEATED_WORDS = 20  # words from which on their repetition is looked at
REPEATED_CHARACTERS = 60  # likewise, characters
VARIETY = 0.15  # different words among all, below which a message repeats itself
UNSEEN_ALLOWED = 4  # joiners and variation selectors of a few emoji
TAGS = re.compile("[\U000e0020-\U000e007f]")
OVERRIDES = re.compile("[\u202a-\u202e\u2066-\u2069]")
# Where they belong: between the letters of scripts that are written with joiners, and in emoji.
JOINED = re.compile(
    "(?<=[\u0600-\u06ff\u0900-\u0dff\u1000-\u109f\u1780-\u17ff\u1800-\u18af])[\u200c\u200d]|(?<=[\u2000-\u2bff\u3000-\u33ff\U0001f000-\U0001faff\ufe0f0-9#*])[\u200d\ufe0e\ufe0f]"
)
FLAGS = re.compile("\U0001f3f4[\U000e0061-\U000e007a]{4,6}\U000e007f")  # of England, Scotland, Wales
PAYLOADS = 4  # hidden texts of one message that are judged
DECODED = 2000  # characters of each
PROSE_WORDS, PROSE_LETTERS = 3, 10  # of a decoded text, from which on it says something
SENTENCE_WORDS = 5  # of a value in JSON

BASE64 = re.compile(r"[A-Za-z0-9+/_-]{24,}={0,2}")
BASE32 = re.compile(r"\b[A-Z2-7]{32,}={0,6}")
BASE85 = re.compile(r"(?<!\S)(?=\S{0,200}[^\w/+=.:-])[!-~]{30,}(?!\S)")
HEXADECIMAL = re.compile(r"(?:\b|\\x|0x)(?:[0-9A-Fa-f]{2}(?:[\s,]{0,2}(?:\\x|0x)?)){16,}")
PERCENT = re.compile(r"(?:%[0-9A-Fa-f]{2}){8,}")
BITS = re.compile(r"(?:[01]{8}\s?){8,}")
LEAST_ROTATED = 20  # letters from which on a rotation is recognised
MORE_LIKELY = 1.2  # nats a letter n-gram by which the rotated text must be likelier


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a check found: which check, and what a person should know of it. Never the text itself."""

    check: str
    detail: str


@dataclass(frozen=True, slots=True)
class Checked:
    """What the checks found, and the texts that were hidden in the message."""

    findings: tuple[Finding, ...] = ()
    hidden: tuple[str, ...] = ()


def check(raw: str, *, longest: int, log_likelihood: Callable[[str], float]) -> Checked:
    """Check one message as it came.

    ``longest`` is in characters; ``log_likelihood`` is a text's mean log-likelihood by letter n-grams, in nats.
    """
    whole, raw = len(raw), raw[:RAW]
    findings = [*_characters(raw), *_repetition(raw)]
    if whole > longest:
        findings.append(Finding("size", f"{whole} characters, and {longest} are allowed"))
    hidden = []
    for name, payload in _payloads(composed(raw[:longest]), log_likelihood):
        if _is_prose(payload):  # tokens, keys and data are encoded for good reasons
            findings.append(Finding(f"encoded_{name}", f"a readable text of {len(payload)} characters"))
        hidden.append(payload[:DECODED])
    if tags := TAGS.findall(FLAGS.sub("", raw)):
        hidden.append("".join(chr(ord(tag) - 0xE0000) for tag in tags)[:DECODED])
    few = hidden if len(hidden) <= PAYLOADS else [*hidden[: PAYLOADS - 1], " ".join(hidden[PAYLOADS - 1 :])[:DECODED]]
    return Checked(tuple(_once(findings)), tuple(few))


def _once(findings: list[Finding]) -> Iterator[Finding]:
    """The first finding of each check, and how many there are."""
    for name in dict.fromkeys(finding.check for finding in findings):
        same = [finding for finding in findings if finding.check == name]
        yield same[0] if len(same) == 1 else Finding(name, f"{same[0].detail}, and {len(same) - 1} more")


def _characters(raw: str) -> Iterator[Finding]:
    raw = FLAGS.sub("", raw)
    if tags := len(TAGS.findall(raw)):
        yield Finding("hidden_tags", f"{tags} characters that show nothing and spell a text")
    overrides = len(OVERRIDES.findall(raw))
    if overrides:
        yield Finding("text_direction", f"{overrides} characters that change the direction of writing")
    unseen = len(UNSEEN.findall(JOINED.sub("", raw))) - overrides - tags
    if unseen > UNSEEN_ALLOWED:
        yield Finding("hidden_characters", f"{unseen} characters that show nothing")
    if (marks := len(raw) - len(MARKS.sub(r"\1", raw))) > UNSEEN_ALLOWED:
        yield Finding("piled_marks", f"{marks} marks that are piled upon others")
    mixed = sum(1 for word in re.findall(r"[^\W\d_]{3,}", raw) if _mixes_scripts(word))
    if mixed:
        yield Finding("mixed_scripts", f"{mixed} words with letters of several alphabets that look alike")


def _repetition(raw: str) -> Iterator[Finding]:
    words = raw.lower().split()[:500]  # in a long text words repeat anyway
    if len(words) >= REPEATED_WORDS and len(set(words)) <= len(words) * VARIETY:
        yield Finding("repetition", f"{len(set(words))} different words among {len(words)}")
    letters = [character for character in raw if not character.isspace()]
    if len(letters) >= REPEATED_CHARACTERS and len(set(letters)) <= 3:
        yield Finding("repetition", f"{len(set(letters))} different characters among {len(letters)}")


def _mixes_scripts(word: str) -> bool:
    if word.isascii():
        return False
    scripts = [unicodedata.name(letter, "").partition(" ")[0] for letter in word if letter != "μ"]
    return "LATIN" in scripts and bool(set(scripts) & {"CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE"})


def _payloads(text: str, log_likelihood: Callable[[str], float]) -> Iterator[tuple[str, str]]:
    """Names of encodings, and the readable texts that stand in them."""
    probes: tuple[tuple[str, re.Pattern[str], Callable[[str], bytes]], ...] = (
        ("percent", PERCENT, unquote_to_bytes),
        ("binary", BITS, lambda found: bytes(int(bits, 2) for bits in re.findall("[01]{8}", found))),
        ("hexadecimal", HEXADECIMAL, lambda found: bytes.fromhex(re.sub(r"\\x|0x|[\s,]", "", found))),
        ("base32", BASE32, lambda found: base64.b32decode(found.rstrip("=") + "=" * (-len(found.rstrip("=")) % 8))),
        ("base64", BASE64, _base64),
        ("base85", BASE85, lambda found: base64.b85decode(found)),
        ("ascii85", BASE85, lambda found: base64.a85decode(found.removeprefix("<~").removesuffix("~>"))),
    )
    for name, pattern, decode in probes:
        for match in pattern.finditer(text):
            try:
                payload = decode(match.group()).decode()
            except (ValueError, binascii.Error):
                continue
            if _readable(payload):
                yield name, payload
    letters = sum(character.isascii() and character.isalpha() for character in text)
    if letters >= max(LEAST_ROTATED, len(text) // 2):
        rotated = codecs.encode(text, "rot13")
        if log_likelihood(rotated) > log_likelihood(text) + MORE_LIKELY:
            yield "rot13", rotated


def _base64(found: str) -> bytes:
    found = found.rstrip("=").replace("-", "+").replace("_", "/")
    return base64.b64decode(found + "=" * (-len(found) % 4), validate=True)


def _readable(payload: str) -> bool:
    """Whether decoded bytes are a text: enough of it, a third of it letters, and hardly anything that shows nothing."""
    if len(payload) < 8:
        return False
    odd = sum(unicodedata.category(character)[0] in "CM" and character not in "\n\r\t" for character in payload)
    return odd <= len(payload) // 20 and sum(map(str.isalpha, payload)) >= len(payload) * 0.3


def _is_prose(payload: str) -> bool:
    """Whether a text says something: it has words besides codes; of JSON, a value that is a sentence."""
    try:
        values = list(_strings(json.loads(payload)))
    except (ValueError, RecursionError):
        words = without(payload, pasted(payload, lines=False))
        letters = sum(map(str.isalpha, words))
        return letters >= PROSE_LETTERS and (len(words.split()) >= PROSE_WORDS or not words.isascii())
    return any(len(value.split()) >= SENTENCE_WORDS or not value.isascii() for value in values)


def _strings(value: Any) -> Iterator[str]:
    """The texts in what JSON may hold."""
    match value:
        case str():
            yield value
        case dict():
            for each in value.values():
                yield from _strings(each)
        case list():
            for each in value:
                yield from _strings(each)


# Floods


@dataclass(frozen=True, slots=True)
class FloodLimits:
    """How fast one session may talk."""

    messages: int  # a minute
    repeats: int  # of nearly the same text within its last messages


REMEMBERED = 16  # messages of a session whose words are compared
SKETCH = 32  # word triples stored of each: the same ones of the same text
SESSIONS = 2000
SESSION_SECONDS = 600.0  # without a message, after which a session is forgotten
REPEATED_FROM = 20  # characters; short answers repeat in any talk
ALIKE = 0.8  # of the word triples that two messages have, shared


@dataclass(slots=True)
class _Session:
    """The last messages of a session, in tuples and arrays: most are few, and a deque starts with room for 64."""

    times: tuple[float, ...] = ()
    shapes: tuple["array[int]", ...] = ()
    ids: tuple[str, ...] = ()


class Floods:
    """Watches how often sessions speak, and whether they say the same again. For one thread."""

    def __init__(self, limits: FloodLimits) -> None:
        self._limits = limits
        self._sessions: OrderedDict[str, _Session] = OrderedDict()

    def check(self, session: str, text: str, now: float, message_id: str = "") -> tuple[Finding, ...]:
        """Take note of a message at ``now``, in seconds on any clock, and say what is wrong with it.

        A message with an id is looked at once: several replies to it are no flood.
        """
        recent = self._sessions.setdefault(session, _Session())
        self._sessions.move_to_end(session)
        if len(self._sessions) > SESSIONS:
            self._sessions.popitem(last=False)
        self._forget(now - SESSION_SECONDS)
        if message_id:
            if message_id in recent.ids:
                return ()
            recent.ids = (*recent.ids, message_id)[-max(REMEMBERED, self._limits.messages + 1) :]
        shape = _shape(text) if len(text) >= REPEATED_FROM else frozenset()
        recent.times = (*recent.times, now)[-self._limits.messages - 1 :]
        recent.shapes = (*recent.shapes, array("q", shape))[-max(REMEMBERED, self._limits.repeats + 1) :]
        findings = []
        lately = sum(now - then < 60 for then in recent.times)
        if lately > self._limits.messages:
            findings.append(Finding("rate", f"{lately} messages in a minute, and {self._limits.messages} are allowed"))
        alike = sum(_alike(shape, frozenset(other)) for other in recent.shapes) if shape else 0
        if alike > self._limits.repeats:
            findings.append(Finding("repeats", f"nearly the same message {alike} times"))
        return tuple(findings)

    def _forget(self, before: float) -> None:
        """Drop the sessions whose last message came before; the one that is checked is the last of all."""
        while len(self._sessions) > 1:
            times = next(iter(self._sessions.values())).times
            if times and times[-1] >= before:
                break
            self._sessions.popitem(last=False)


def _shape(text: str) -> frozenset[int]:
    words = re.findall(r"\w+", text.lower())
    triples = {hash(tuple(words[n : n + 3])) for n in range(max(len(words) - 2, 1))}
    return frozenset(nsmallest(SKETCH, triples))


def _alike(one: frozenset[int], other: frozenset[int]) -> bool:
    return bool(one and other) and len(one & other) >= ALIKE * len(one | other)
