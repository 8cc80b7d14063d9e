"""A message as the detector reads it: normalised, and cut into windows. Pure functions."""

import re
import unicodedata

LONGEST = 8192  # characters that are looked at; a message beyond this is judged by its beginning and its end
DOCUMENT = 4 * LONGEST  # characters of a document that are looked at, likewise
SHORTEST = 25  # characters of a window; shorter sentences join the next
LARGEST = 200  # likewise; longer ones are cut between words

# Characters that show nothing: format controls, fillers, tags, variation selectors.
UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_MARK = "".join(chr(point) for point in range(0x300, 0x11E00) if unicodedata.combining(chr(point)))
MARKS = re.compile(f"([{_MARK}]{{8}})[{_MARK}]+")  # a pile of them
RAW = 8 * LONGEST  # characters of a message that are looked at at all
# Frames, blocks and rules: they say nothing, and would take the place of words in what the embedding reads.
_ORNAMENTS = re.compile(r"[\u2500-\u259f\u25a0-\u25ff\u2900-\u2bff]+|([^\w\s])\1{3,}")
_HALVES = re.compile("[\ud800-\udfff]")  # of characters, which JSON can spell and nothing else can
_ENDS = re.compile(r"(?<=[.!?…。！？])[\"'”’)\]]*\s+|\n+")


def composed(text: str) -> str:
    """The text with one spelling for every character (NFKC)."""
    text = _HALVES.sub("\ufffd", _ends(text, RAW))
    # Ordering a pile of combining marks takes the square of its height; a few of them are enough to read.
    return _ends(unicodedata.normalize("NFKC", MARKS.sub(r"\1", text)), RAW)


def normalise(text: str) -> str:
    """At most ``LONGEST`` characters: each in its one spelling, none that shows nothing, spaces collapsed."""
    text = UNSEEN.sub("", composed(text))
    text = re.sub(r"\s{8,}", "\n\n", re.sub(r"[^\S\n]+", " ", text))
    return _ends(text.strip(), LONGEST)


def _ends(text: str, room: int) -> str:
    """A text that is too long without its midst."""
    return text if len(text) <= room else f"{text[: room // 2]}\n{text[-room // 2 + 1 :]}"


def pieces(text: str) -> list[tuple[int, str]]:
    """A document in pieces of at most ``LONGEST`` characters, cut where lines or words end, each with its beginning's
    place; of one that is longer than ``DOCUMENT`` the first and the last."""
    if len(text) > DOCUMENT:
        half = DOCUMENT // 2
        at = len(text) - half
        return [*pieces(text[:half]), *((at + start, piece) for start, piece in pieces(text[at:]))]
    found: list[tuple[int, str]] = []
    start = 0
    while len(text) - start > LONGEST:
        end = start + LONGEST
        cut = max(text.rfind("\n", start + LONGEST // 2, end), text.rfind(" ", end - LARGEST, end))
        cut = cut + 1 if cut > 0 else end
        found.append((start, text[start:cut]))
        start = cut
    return [*found, (start, text[start:])]


def plain(text: str) -> str:
    """A normalised text as it is embedded: its words, without ornaments."""
    return re.sub(r"[^\S\n]+", " ", _ORNAMENTS.sub(lambda found: found.group(1) or " ", text)).strip()


def windows(text: str) -> list[tuple[int, int]]:
    """Where the sentences of a text begin and end, or what is not too long of them; none for a text of a single one."""
    ends = [match.end() for match in _ENDS.finditer(text)] + [len(text)]
    found: list[tuple[int, int]] = []
    start = 0
    for end in ends:
        while end - start > LARGEST + SHORTEST:
            cut = text.rfind(" ", start + SHORTEST, start + LARGEST)
            cut = cut + 1 if cut > 0 else start + LARGEST
            found.append((start, cut))
            start = cut
        if end - start >= SHORTEST:
            found.append((start, end))
            start = end
    if start < len(text) and found:
        found[-1] = (found[-1][0], len(text))
    return found if len(found) > 1 else []
