"""Text that streams in, cut where a sentence surely ends, so that it can be spoken while the rest is still written.

The server cuts what it gets into sentences itself, with rules for many kinds of text; a cut here must only not fall
inside one. So it falls behind a full stop only where a word of more than two letters stands before it.
"""

import re

# A mark, perhaps a quote or bracket, and a gap; or a line's end; or a mark of a script that has no gaps.
END = re.compile(r"""(?:[^\W\d_]{3,}\.|[!?…]+)["'”’)\]]*\s+|\n+|[。！？]+""")
LONGEST = 2_000  # characters without such an end; then a gap between words will do


class Cutter:
    """Holds the text that is not yet spoken."""

    def __init__(self) -> None:
        self._text = ""

    def add(self, text: str) -> str:
        """More text; returns all of it that are whole sentences, "" where none is."""
        self._text += text
        end = max((found.end() for found in END.finditer(self._text)), default=0)
        if not end and len(self._text) > LONGEST:
            end = self._text.rfind(" ") + 1 or len(self._text)
        return self._cut(end)

    def rest(self) -> str:
        """What is left, at the end."""
        return self._cut(len(self._text))

    def _cut(self, end: int) -> str:
        whole, self._text = self._text[:end], self._text[end:]
        return whole
