"""How somebody asks for a picture in a chat."""

import re

LONGEST = 300  # characters of a message that asks for nothing but a picture

_COMMAND = re.compile(r"/(?:image|draw)(?:\s+(.*))?", re.IGNORECASE | re.DOTALL)
_POLITE = r"(?:(?:hey|hi|hello|ok|okay|now|well|so|and|then|please|loquent)\b[,!]?\s+)*"
_CAN = (
    r"(?:(?:can|could|would|will) you\s+(?:please\s+)?|i(?:'d| would) like you to\s+|i want you to\s+)?(?:please\s+)?"
)
_KIND = r"(?:picture|image|drawing|painting|sketch|illustration|emoji|icon)"
_VERB = (
    rf"(?:(?:draw|paint|sketch)\s+(?:(?:me|us)\s+)?(?:an?\s+(?:\w+\s+)?{_KIND}\s+(?:of|with)\s+)?"
    rf"|(?:show|make|create|generate|give|send)\s+(?:(?:me|us)\s+)?an?\s+(?:\w+\s+)?{_KIND}\s+(?:of|with)\s+)"
)
_ANY = re.compile(rf"(?:an?|some|the)\s+(?:\w+\s+)?{_KIND}s?|something|anything", re.IGNORECASE)
_END = r"(?:[,\s]+(?:please|for me|for us|now|thanks|thank you))*\s*[.!?]*"
_BARE = re.compile(
    rf"{_POLITE}{_CAN}(?:show|make|create|generate|give|send)\s+(?:(?:me|us)\s+)?an?\s+(?:\w+\s+)?{_KIND}{_END}",
    re.IGNORECASE,
)
_ASK = re.compile(rf"{_POLITE}{_CAN}{_VERB}(.+?){_END}", re.IGNORECASE | re.DOTALL)


def subject(message: str) -> str | None:
    """What a message asks to be drawn: "" where it leaves that open, None where it asks for no picture."""
    if len(message) > LONGEST:
        return None
    text = " ".join(message.split())
    command = _COMMAND.fullmatch(text)
    if command is not None:
        return (command[1] or "").strip()
    if _BARE.fullmatch(text):
        return ""
    asked = _ASK.fullmatch(text)
    if asked is None:
        return None
    wanted = asked[1].strip(" \"'“”")
    return "" if _ANY.fullmatch(wanted) else wanted or None


def sentences(text: str, *, most: int) -> tuple[tuple[int, int], ...]:
    """Where the first sentences of a reply are, in characters."""
    spans = [found.span() for found in re.finditer(r"[^\s.!?…][^.!?…\n]*[.!?…]*", text)]
    return tuple(spans[:most])
