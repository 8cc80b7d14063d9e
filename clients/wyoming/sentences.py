"""Text that streams in, cut where a sentence surely ends, so that it can be spoken while the rest is still written.

The server cuts what it gets into sentences itself, with rules for many kinds of text; a cut here must only not fall
inside one. So it falls behind a full stop only where a word stands before it that is no usual abbreviation.
"""

import re

SHORT = """
al approx apr apt aug ave bzw ca capt cf cie co col corp dec dept dr ed eds esp est etc feb fig fr ft gen gov hr hrs inc
jan jr jul jun lt ltd mar max min mme mr mrs ms mt no nos nov nr oct oz pp pres prof pt rep rev sen sep sept sgt sr sra
st str tel usw vgl vol vs
"""
ABBREVIATIONS = frozenset(SHORT.split())
# A word or a mark, perhaps a quote or bracket, and a gap; or a line's end; or a mark of a script that has no gaps.
END = re.compile(r"""(?:(?<![\w.])([^\W\d_]{2,})\.|[!?…]+)["'”’)\]]*\s+|\n+|[。！？]+""")
LONGEST = 2_000  # characters without such an end; then a gap between words will do


class Cutter:
    """Holds the text that is not yet spoken."""

    def __init__(self) -> None:
        self._text = ""

    def add(self, text: str) -> str:
        """More text; returns all of it that are whole sentences, "" where none is."""
        self._text += text
        found = (each for each in END.finditer(self._text) if (each[1] or "").lower() not in ABBREVIATIONS)
        end = max((each.end() for each in found), default=0)
        if not end and len(self._text) > LONGEST:
            end = self._text.rfind(" ") + 1 or len(self._text)
        return self._cut(end)

    def rest(self) -> str:
        """What is left, at the end."""
        return self._cut(len(self._text))

    def _cut(self, end: int) -> str:
        whole, self._text = self._text[:end], self._text[end:]
        return whole
