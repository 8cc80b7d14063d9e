"""How somebody asks for a picture in a chat, and what the same message asks besides."""

import re
from dataclasses import dataclass

from pipelines.image.idioms import FIGURE, is_idiom

LONGEST = 300  # characters of a message that may ask for a picture

_COMMAND = re.compile(r"/(?:image|draw)(?:\s+(.*))?", re.IGNORECASE | re.DOTALL)
_POLITE = r"(?:(?:hey|hi|hello|ok|okay|now|well|so|and|also|then|please|loquent)\b[,!]?\s+)*"
_CAN = (
    r"(?:(?:can|could|would|will) you\s+(?:also\s+)?(?:please\s+)?|i(?:'d| would) like you to\s+|i want you to\s+)?"
    r"(?:please\s+)?"
)
_KIND = r"(?:picture|image|drawing|painting|sketch|illustration|emoji|icon)"
_VERB = (
    rf"(?:(?P<verb>draw|paint|sketch)\s+(?P<whom>(?:me|us)\s+)?(?P<kind>an?\s+(?:\w+\s+)?{_KIND}\s+(?:of|with)\s+)?"
    rf"|(?:show|make|create|generate|give|send)\s+(?:(?:me|us)\s+)?an?\s+(?:\w+\s+)?{_KIND}\s+(?:of|with)\s+)"
)
_ANY = re.compile(rf"(?:an?|some|the)\s+(?:\w+\s+)?{_KIND}s?|something|anything", re.IGNORECASE)
_END = r"(?:[,.!\s]+(?:please|for me|for us|now|thanks|thank you)\b)*\s*[.!?]*"
_BARE = re.compile(
    rf"{_POLITE}{_CAN}(?:show|make|create|generate|give|send)\s+(?:(?:me|us)\s+)?an?\s+(?:\w+\s+)?{_KIND}{_END}",
    re.IGNORECASE,
)
_ASK = re.compile(rf"{_POLITE}{_CAN}{_VERB}(?P<wanted>.+?){_END}", re.IGNORECASE | re.DOTALL)

_TASK = (  # begins what asks for words: but "give it a hat" and "name him Tom" are about the picture
    r"(?:tell|give|teach|explain|describe|recommend|suggest|list|translate|summari[sz]e|compare|calculate|solve|answer"
    r"|help|define|spell|recite|sing|say|write|name|wish|remind|greet|thank|congratulate|invent|compose|advise"
    r"|think of|come up with|make up|let me know)\s+(?!(?:it|him|her|them)\b)"
)
_MAKE_IT = r"(?!(?:make|draw|paint|give) (?:it|him|her|them)\b)"
_QUESTION = r"(?:what|who|whom|whose|why|how|when|where|which)(?:'s)?\s[^?]*\?|(?:can|could|would|will) you "
_LINK = r"(?:(?:and|then|also|but)\s+)*"
_REST = re.compile(
    rf"(?:\s*[,;.!?]+\s+{_LINK}|\s+(?:and|then)\s+{_LINK})(?:please\s+)?"
    rf"(?P<rest>{_TASK}|(?:{_QUESTION})(?:also )?(?:please )?{_MAKE_IT})",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_THEN = re.compile(r"(?:,\s*|\s+)(?:and|then)\s+", re.IGNORECASE)
_TELL = re.compile(  # "tell me how to sit still and draw a cat" is one request
    rf"{_POLITE}{_CAN}{_TASK}(?!.*\b(?:to|how|who|which|that|where|when|they|he|she)\b).*", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Ask:
    """A request for a picture."""

    subject: str  # what to draw; "" where the message leaves that open
    rest: str = ""  # what the message asks besides, for the model to answer


def subject(message: str) -> str | None:
    """What a message asks to be drawn: "" where it leaves that open, None where it asks for no picture."""
    found = asked(message)
    return None if found is None else found.subject


def asked(message: str) -> Ask | None:
    """The picture that a message asks for, and what it asks besides; None where it asks for no picture."""
    if len(message) > LONGEST:
        return None
    text = " ".join(message.split())
    for found in _REST.finditer(text):
        wanted = _subject(text[: found.start()])
        if wanted is not None:
            return Ask(wanted, text[found.start("rest") :])
    wanted = _subject(text)
    return Ask(wanted) if wanted is not None else _behind(text)


def _behind(text: str) -> Ask | None:
    """A picture that is asked for behind something else."""
    for between in _SENTENCE.finditer(text):
        if (wanted := _subject(text[between.end() :])) is not None:
            return Ask(wanted, text[: between.start()])
    for between in _THEN.finditer(text):
        before = text[: between.start()]
        if _TELL.fullmatch(before) and (wanted := _subject(text[between.end() :])) is not None:
            return Ask(wanted, before)
    return None


def _subject(text: str) -> str | None:
    """What a text that asks for nothing but a picture wants drawn."""
    command = _COMMAND.fullmatch(text)
    if command is not None:
        return (command[1] or "").strip()
    if _BARE.fullmatch(text):
        return ""
    asked = _ASK.fullmatch(text)
    if asked is None or FIGURE.search(text):
        return None
    wanted = asked["wanted"].strip(" \"'“”")
    if asked["verb"] and not asked["kind"] and is_idiom("" if asked["whom"] else asked["verb"], wanted):
        return None
    return "" if _ANY.fullmatch(wanted) else wanted or None


def sentences(text: str, *, most: int) -> tuple[tuple[int, int], ...]:
    """Where the first sentences of a reply are, in characters."""
    spans = [found.span() for found in re.finditer(r"[^\s.!?…][^.!?…\n]*[.!?…]*", text)]
    return tuple(spans[:most])
