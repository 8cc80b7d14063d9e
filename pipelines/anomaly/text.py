"""A message as the detector reads it: normalised, and cut into windows. Pure functions."""

import re
import unicodedata

LONGEST = 8192  # characters that are looked at; a message beyond this is judged by its beginning and its end
WINDOWS = 12  # windows of one piece at most
PIECE = 1000  # characters that the embedding model reads of one text, about
PIECES = 16  # of one message that are embedded; of more, the first and the last
PIECE_OTHER = 240  # likewise, of scripts whose characters are words
SHORTEST = 25  # characters of a window; shorter sentences join the next

# Characters that show nothing: format controls, fillers, tags, variation selectors.
UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
MARKS = re.compile(
    "([\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]{8})[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]+"
)
RAW = 8 * LONGEST  # characters of a message that are looked at at all
# Frames, blocks and rules: they say nothing, and would take the place of words in what the embedding reads.
_ORNAMENTS = re.compile(r"[\u2500-\u259f\u25a0-\u25ff\u2900-\u2bff]+|([^\w\s])\1{3,}")
_HALVES = re.compile("[\ud800-\udfff]")  # of characters, which JSON can spell and nothing else can
_ENDS = re.compile(r"(?<=[.!?…。！？])[\"'”’)\]]*\s+|\n+")


def composed(text: str) -> str:
    """The text with one spelling for every character (NFKC)."""
    text = _HALVES.sub("\ufffd", _ends(text, RAW))
    # Putting a pile of marks in order takes the square of its height, and nobody reads more than a few.
    return _ends(unicodedata.normalize("NFKC", MARKS.sub(r"\1", text)), RAW)


def normalise(text: str) -> str:
    """At most ``LONGEST`` characters: each in its one spelling, none that shows nothing, spaces collapsed."""
    text = UNSEEN.sub("", composed(text))
    text = re.sub(r"\s{8,}", "\n\n", re.sub(r"[^\S\n]+", " ", text))
    return _ends(text.strip(), LONGEST)


def _ends(text: str, room: int) -> str:
    """A text that is too long without its midst."""
    return text if len(text) <= room else f"{text[: room // 2]}\n{text[-room // 2 + 1 :]}"


def pieces(text: str) -> list[str]:
    """The words of a normalised text, without ornaments, in as many pieces as the embedding model reads at a time."""
    text = re.sub(r"[^\S\n]+", " ", _ORNAMENTS.sub(lambda found: found.group(1) or " ", text)).strip()
    room = PIECE if sum(map(str.isascii, text)) * 2 > len(text) else PIECE_OTHER
    found = []
    while len(text) > room:
        cut = max(
            text.rfind("\n", room // 2, room), text.rfind(". ", room // 2, room), text.rfind(" ", room * 3 // 4, room)
        )
        cut = cut + 1 if cut > 0 else room
        found.append(text[:cut].strip())
        text = text[cut:].strip()
    found.append(text)
    return found if len(found) <= PIECES else found[: PIECES // 2] + found[-PIECES // 2 :]


def windows(text: str) -> list[tuple[int, int]]:
    """Where the sentences of a piece begin and end; none for one of a single sentence."""
    ends = [match.end() for match in _ENDS.finditer(text)] + [len(text)]
    found: list[tuple[int, int]] = []
    start = 0
    for end in ends:
        if end - start >= SHORTEST:
            found.append((start, end))
            start = end
    if start < len(text) and found:
        found[-1] = (found[-1][0], len(text))
    while len(found) > WINDOWS:  # a long text has larger windows
        found = [(found[i][0], found[min(i + 1, len(found) - 1)][1]) for i in range(0, len(found), 2)]
    return found if len(found) > 1 else []
