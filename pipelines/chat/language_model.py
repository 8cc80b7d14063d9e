"""What the engine needs of a language model: the seam at which models, and the tests' scripted one, are put in."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from pipelines.events import Message, Sampling


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

    def generate(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[int]:
        """Sample token ids, one for each ``next``, without end; the first one reads the prompt."""
