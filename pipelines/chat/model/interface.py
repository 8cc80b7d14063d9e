"""What the engine needs of a language model: the seam at which models, and the tests' scripted one, are put in."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pipelines.events import Message

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Segment:
    """Successive tokens of one stream, to be read in one step."""

    slot: int
    start: int  # the first one's place in its text; what lies before is in the slot
    tokens: Sequence[int]
    wanted: int  # how many logits to give: those behind the last so many of the tokens


class Tokenizer(Protocol):
    """Text to token ids and back, for one model."""

    @property
    def longest(self) -> int:
        """Characters of the longest token: a longer text than this times n has more than n tokens."""

    def render(self, messages: Sequence[Message]) -> list[int]:
        """The prompt's token ids, by the model's chat template. Called by one thread at a time."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of these token ids, without special tokens."""


class LanguageModel(Protocol):
    """What the engine needs of a model."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer."""

    @property
    def context(self) -> int:
        """Tokens of prompt and reply together."""

    @property
    def stop_tokens(self) -> frozenset[int]:
        """Ids that end a reply."""

    @property
    def slots(self) -> int:
        """How many texts it holds at a time."""

    @property
    def seekable(self) -> bool:
        """Whether a slot's text can be continued from any of its tokens, and be copied; else from its end only."""

    def compute_with(self, threads: int) -> None:
        """Use up to so many threads from the next pass on. Called by the thread that calls ``forward``."""

    def forward(self, segments: Sequence[Segment]) -> "Tensor":
        """Read these tokens, of different slots; the logits asked for, (the sum of ``wanted``, V)."""

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Let slot ``target`` hold the first tokens of ``source``."""
