"""The prefill budget: how many tokens of prompts a step may compute beside the streams that decode."""

SMOOTH = 0.2  # share of a new measurement
SLOWDOWN = 1.0  # of a step without prompts, that prefill may add
BESIDE_SECONDS = 0.05  # that prefill may add to a step in any case
ALONE_SECONDS = 0.1  # that a step may take when nothing decodes: the longest wait of a cancel
LEAST, MOST, MOST_ALONE = 36, 512, 1024  # tokens; fewer cost nearly as much, as each reads all keys and values again
ENOUGH = 16  # tokens of which a measurement says something
FIRST = 64  # before anything was measured


class PrefillBudget:
    """Measures steps, and derives the budget from them."""

    def __init__(self) -> None:
        self._step = 0.0  # seconds of a step without prompts; 0 until known
        self._token = 0.0  # seconds of one more token of a prompt

    def tokens(self, streaming: int, reading: int) -> int:
        """Tokens of prompts that the next step may prefill, beside so many streams that decode and prefill.

        Streams that decode are slowed down little for few prompts, and more where that lets many begin.
        """
        if not self._token or (streaming and not self._step):
            return FIRST
        seconds, most = ALONE_SECONDS, MOST_ALONE
        if streaming:
            seconds, most = min(self._step * SLOWDOWN * max(reading / streaming, 1.0), BESIDE_SECONDS), MOST
        return int(min(max(seconds / self._token, LEAST), most))

    def measured(self, seconds: float, *, streaming: bool, read: int) -> None:
        """A step took this long; ``read`` tokens of prompts were in it."""
        if not read:
            self._step = seconds if not self._step else self._step + SMOOTH * (seconds - self._step)
        elif read >= ENOUGH:
            token = max(seconds - (self._step if streaming else 0.0), 0.0) / read
            self._token = token if not self._token else self._token + SMOOTH * (token - self._token)
