"""Cuts a stream of text into sentences for a voice.

Pure, and independent of how the text was cut into deltas: a decision is made only when the text that it depends on is
there, so the same text always gives the same sentences, and these, put together, are the text again.
"""

import re
import unicodedata
from dataclasses import dataclass

from pipelines.speech.stops import ABBREVIATIONS, BEFORE_NAMES, DAY, MAYBE_LAST, NOON, before_number, goes_on

LONGEST = 300  # characters of one sentence; run-on text is cut at a clause or a space before that
EARLY = 24  # characters from which on the first sentence may end at a clause, so that sound starts early
EARLY_WORDS = 4
LONGEST_WORD = 24  # characters before a full stop that may be an abbreviation

SPACED = ".!?…"  # end a sentence where a space follows
BARE = "。！？｡।॥؟۔"  # end one by themselves: Chinese, Japanese, Devanagari, Arabic, Urdu
CLOSERS = "\"'”’»›」』）)]}*_~`"  # belong to the sentence that ends before them
CLAUSES = ",;:–—，、；：،؛"
BARE_CLAUSES = "–—，、；："

CANDIDATE = re.compile(rf"\n|[{SPACED}]+|[{BARE}]+|[{CLAUSES}]")
FENCE = re.compile(r"\s*?(?:^|(?<=\n)) {0,3}(`{3,}|~{3,})")
MAYBE_FENCE = re.compile(r"(?:[^\S\n]*\n)*[^\S\n]{0,3}(?:`{0,2}|~{0,2})\Z")
WORD_BEFORE = re.compile(r"[^\s(\[{\"'“‘«]*\Z")
LIST_NUMBER = re.compile(r"\s*\d{1,3}\Z")
INITIAL = re.compile(r"[^\W\d_]")
ACRONYM = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]")
LETTERS = re.compile(r"[^\W\d_]*")
BREAK = re.compile(rf"[{CLAUSES}](?=\s)|[{BARE_CLAUSES}]")


@dataclass(frozen=True, slots=True)
class Piece:
    """A sentence, or as much of one as may be spoken at once."""

    text: str  # as it was written, with the space before it
    aloud: bool = True  # False: a line of a code block
    ends: bool = True  # whether a sentence ends here; a voice pauses then


class SentenceSplitter:
    """Takes a text piece by piece and gives its sentences as soon as each is certain."""

    def __init__(self) -> None:
        self._buffer = ""  # at most LONGEST characters between calls, and what one delta brings
        self._first = True  # nothing was given yet that can be spoken
        self._fence: str | None = None  # the mark that opened the code block we are in
        self._new_line = True  # the buffer begins at the start of a line

    def feed(self, text: str) -> list[Piece]:
        """Take the next piece of the text; returns the sentences that it completes."""
        self._buffer += text
        return self._cut(last=False)

    def finish(self) -> list[Piece]:
        """The text has ended: returns what is left of it."""
        return self._cut(last=True)

    def _cut(self, *, last: bool) -> list[Piece]:
        pieces: list[Piece] = []
        at = 0
        while at < len(self._buffer):
            window = self._buffer[at : at + LONGEST + 1]
            whole = last and at + LONGEST >= len(self._buffer)  # the text ends in this window
            found = self._code(window, whole) if self._in_code(window) else self._prose(window, whole)
            if found is None:
                break
            pieces.append(found)
            at += len(found.text)
            self._new_line = found.text.endswith("\n")
            self._first = self._first and not (found.aloud and any(map(str.isalnum, found.text)))
        self._buffer = self._buffer[at:]
        return pieces

    def _in_code(self, window: str) -> bool:
        return self._fence is not None or (self._new_line and FENCE.match(window) is not None)

    def _code(self, window: str, whole: bool) -> Piece | None:
        """The next line of a code block, its fences included."""
        opening = FENCE.match(window)
        end = window.find("\n", opening.end() if opening and self._fence is None else 0) + 1
        if not end:
            if not whole and len(window) <= LONGEST:
                return None
            end = min(len(window), LONGEST)
        if self._fence is None:
            self._fence = opening[1] if opening else None
        elif self._new_line and window[:end].strip().startswith(self._fence):
            self._fence = None
        return Piece(window[:end], aloud=False, ends=False)

    def _prose(self, window: str, whole: bool) -> Piece | None:
        complete = whole or len(window) > LONGEST
        if self._new_line and not complete and MAYBE_FENCE.match(window):
            return None
        for candidate in CANDIDATE.finditer(window):
            end, clause = self._end(window, candidate, complete)
            if end is None:
                if not complete:
                    return None
                end = candidate.end()
            if 0 < end <= LONGEST:
                return Piece(window[:end], ends=not clause)
        if not complete:
            return None
        if whole and len(window) <= LONGEST:
            return Piece(window)
        return Piece(window[: _break(window)], ends=False)

    def _end(self, window: str, candidate: re.Match[str], complete: bool) -> tuple[int | None, bool]:
        """Where the piece ends if it does at this mark, and whether that is only a clause.

        0 where nothing ends, ``None`` where that depends on what is still to come.
        """
        mark = candidate[0]
        before = window[: candidate.start()]
        if mark == "\n":
            return (candidate.end() if before.strip() else 0), False
        if mark in CLAUSES:
            return self._clause_end(window, before, mark, candidate.end()), True
        end = candidate.end()
        while end < len(window) and window[end] in CLOSERS + SPACED + BARE:
            end += 1
        if end == len(window):
            return None, False
        if mark[0] in BARE:
            return end, False
        if not window[end].isspace():
            return 0, False
        return self._spaced_end(window, before, mark, end, complete), False

    def _clause_end(self, window: str, before: str, mark: str, end: int) -> int | None:
        """The same for a mark between clauses, which counts in the first sentence only."""
        if not self._first or end < EARLY or len(before.split()) < EARLY_WORDS:
            return 0
        if mark == "–" and not before[-1:].isspace():
            if end == len(window):
                return None
            return end if window[end].isspace() else 0  # else a range: 9–5, Mon–Fri
        if mark in BARE_CLAUSES:
            return end
        if end == len(window):
            return None
        if not window[end].isspace():
            return 0
        if mark == "," and before[-1:].isdigit():  # a date may go on: May 3, 2026
            if end + 1 == len(window):
                return None
            return 0 if window[end + 1].isdigit() else end
        return end

    def _spaced_end(self, window: str, before: str, mark: str, end: int, complete: bool) -> int | None:
        """The same for a Latin mark with a space behind it, which may be an abbreviation's."""
        follows = window[end:].lstrip(" \t\u00a0")
        if not follows:
            return None
        following = follows[0]
        if following == "\n":
            return 0  # the line's end is the sentence's
        if following.islower():
            return 0
        if mark != ".":
            return end
        found = WORD_BEFORE.search(before, max(len(before) - LONGEST_WORD, 0))
        word = found[0].lstrip("*_~") if found else ""
        plain = word.lower()
        preceding = before[: len(before) - len(word)].rstrip("*_~ \u00a0")[-LONGEST_WORD:].split()[-1:]
        if (plain in ABBREVIATIONS and word != "EST") or (following.isdigit() and before_number(plain, preceding)):
            return 0
        if plain in MAYBE_LAST:
            return end
        if plain in NOON or plain in BEFORE_NAMES or DAY.fullmatch(word):
            if plain in NOON and following == "(":
                return 0
            next_word = LETTERS.match(follows)[0]  # type: ignore[index] # it matches any text
            if len(next_word) == len(follows) and not complete:
                return None
            if not goes_on(plain, preceding, next_word):
                return end if plain in NOON or plain in BEFORE_NAMES else self._initial_end(before, word, end)
            return 0
        return self._initial_end(before, word, end)

    def _initial_end(self, before: str, word: str, end: int) -> int:
        """The same behind what is no abbreviation, but may be a letter that stands for a name, or a list's number."""
        if ACRONYM.fullmatch(word) or (INITIAL.fullmatch(word) and word not in "I"):
            return 0
        if self._new_line and LIST_NUMBER.fullmatch(before):
            return 0
        return end


def _break(window: str) -> int:
    """Where to cut text that has no end: behind a clause, else before a space, else anywhere between characters."""
    at = max((found.end() for found in BREAK.finditer(window, LONGEST // 3, LONGEST)), default=0)
    if not at:
        at = window.rfind(" ", 1, LONGEST)
    if at <= 0:
        at = LONGEST
        # Marks that join the character before them stay with it.
        while at > LONGEST // 2 and (_joins(window[at]) or window[at - 1] == "\u200d"):
            at -= 1
    return at


def _joins(character: str) -> bool:
    return character == "\u200d" or unicodedata.category(character) in ("Mn", "Mc", "Me") or "🏻" <= character <= "🏿"
