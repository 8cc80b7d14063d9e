"""From sampled token ids to text that can be shown: whole characters only, and nothing of a stop string."""

from collections.abc import Callable, Sequence

REPLACEMENT = "\ufffd"  # what an incomplete UTF-8 sequence decodes to
LONGEST_WINDOW = 64  # tokens; a model that emits broken bytes for longer gets them shown as they are


class Detokenizer:
    """Decodes one reply token by token.

    A token may hold a part of a character only, and may decode differently at the start of a text than in its
    middle. So each step decodes a short window, the last tokens shown and the ones after them, and gives out
    what is new in it and whole.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._context = 0  # how many tokens of the window are wholly shown
        self._given = 0  # how many characters of the window's text are shown

    def push(self, token: int) -> str:
        """Take one token; return the whole characters that it completes."""
        self._window.append(token)
        text = self._decode(self._window)
        whole = text if len(self._window) - self._context > LONGEST_WINDOW else text.rstrip(REPLACEMENT)
        new, self._given = whole[self._given :], max(self._given, len(whole))
        if whole == text:  # nothing half open: what was just shown is the next step's context
            self._window = self._window[self._context :]
            self._context = len(self._window)
            self._given = len(self._decode(self._window))
        return new

    def flush(self) -> str:
        """The end: return what is held back, less a character that was never completed."""
        return self._decode(self._window).rstrip(REPLACEMENT)[self._given :]


class StopMatcher:
    """Passes text through until one of the stop strings appears in it.

    Holds back only a suffix that may yet become a stop string.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Take the next piece; return what can be shown. ``stopped`` says whether a stop string came."""
        if not self._stops:
            return text
        text = self._held + text
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = self._longest_start_of_a_stop(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """The reply ended otherwise: return what was held back."""
        held, self._held = self._held, ""
        return held

    def _longest_start_of_a_stop(self, text: str) -> int:
        """Length of the longest suffix of ``text`` that is a proper prefix of a stop string."""
        longest = min(len(text), max(map(len, self._stops)) - 1)
        for length in range(longest, 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
