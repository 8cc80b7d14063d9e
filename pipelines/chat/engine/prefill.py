"""How many tokens of prompts a step may read, so that those who already stream do not notice."""

SMOOTH = 0.2  # share of a new measurement
SLOWDOWN = 0.7  # of a step without prompts, that reading them may add
ALONE_SECONDS = 0.05  # that a step may take when nobody streams: what a cancel may have to wait
LEAST, MOST = 16, 512  # tokens
FIRST = 64  # before anything was measured


class PrefillBudget:
    """Measures steps and from that shares them out."""

    def __init__(self) -> None:
        self._step = 0.0  # seconds of a step without prompts; 0 until known
        self._token = 0.0  # seconds of one more token of a prompt

    def tokens(self, streaming: int, reading: int) -> int:
        """Tokens of prompts that the next step may read, while so many stream and so many read theirs.

        Those who stream are slowed down little by few, and more when it lets many begin.
        """
        if not self._token or (streaming and not self._step):
            return FIRST
        seconds = ALONE_SECONDS
        if streaming:
            seconds = min(self._step * SLOWDOWN * max(reading / streaming, 1.0), seconds)
        return int(min(max(seconds / self._token, LEAST), MOST))

    def measured(self, seconds: float, *, streaming: bool, read: int) -> None:
        """A step took this long; ``read`` tokens of prompts were in it."""
        if not read:
            self._step = seconds if not self._step else self._step + SMOOTH * (seconds - self._step)
        elif read >= LEAST:
            token = max(seconds - (self._step if streaming else 0.0), 0.0) / read
            self._token = token if not self._token else self._token + SMOOTH * (token - self._token)
