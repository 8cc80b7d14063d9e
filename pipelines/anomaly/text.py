"""A message as the detector reads it: normalised, and cut into windows. Pure functions."""

import re
import unicodedata

LONGEST = 8192  # characters that are looked at; a message beyond this is judged by its beginning and its end
WINDOWS = 12  # windows of one piece at most
PIECE = 1000  # characters that the embedding model reads of one text, about
PIECE_OTHER = 240  # likewise, of scripts whose characters are words
SHORTEST = 25  # characters of a window; shorter sentences join the next

# Characters that show nothing: format controls, tags, variation selectors.
UNSEEN = re.compile("[\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufe00-\ufe0f\ufeff\U000e0000-\U000e01ef]")
# Frames, blocks and rules: they say nothing, and would take the place of words in what the embedding reads.
_ORNAMENTS = re.compile(r"[\u2500-\u259f\u25a0-\u25ff\u2900-\u2bff]+|([^\w\s])\1{3,}")
_ENDS = re.compile(r"(?<=[.!?…。！？])[\"'”’)\]]*\s+|\n+")


def normalise(text: str) -> str:
    """The text with one spelling for every character (NFKC), without what shows nothing, spaces collapsed."""
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]}\n{text[-LONGEST // 2 :]}"
    text = UNSEEN.sub("", unicodedata.normalize("NFKC", text))
    return re.sub(r"[^\S\n]+", " ", text).strip()


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
    return [*found, text]


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
