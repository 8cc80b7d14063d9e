"""What the engine needs of a language model: the seam at which models, and the tests' scripted one, are put in."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from pipelines.events import Message, Tool

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Segment:
    """Successive tokens of one stream, to be read in one step."""

    slot: int
    start: int  # the first one's place in its text; what lies before is in the slot
    tokens: Sequence[int]
    wanted: int  # how many logits to give: those behind the last so many of the tokens


@dataclass(frozen=True, slots=True)
class Grammar:
    """What a reply's text must be: JSON of a schema, what an expression matches, or what a Lark grammar derives."""

    kind: Literal["json_schema", "regex", "lark"]
    source: str
    strict: bool = True  # of a schema: what can't be enforced is an error, and not ignored
    json: bool = False  # whether the text of a Lark grammar is JSON too


class Constraint(Protocol):
    """What the tokens of one reply may be. It stands behind those that were taken."""

    @property
    def reserve(self) -> int:
        """Tokens, about, that bringing the text to its end may take."""

    @property
    def done(self) -> bool:
        """Whether nothing may follow."""

    def forced(self, most: int) -> list[int]:
        """Up to ``most`` tokens that must follow now, whatever the model says."""

    def allowed(self, tokens: Sequence[int]) -> int:
        """How many of these tokens may follow one another now."""

    def masks(self, ahead: Sequence[int], wanted: int, *, closing: bool = False) -> "NDArray[np.uint32]":
        """Which tokens may follow the last ``wanted`` - 1 of the tokens ``ahead``, and all of them.

        (wanted, V / 32); a token's bit is the one of its id, lowest first. When ``closing``, those alone that end JSON
        values, where there are such.
        """

    def take(self, tokens: Sequence[int]) -> None:
        """The reply goes on with these tokens."""


class Tokenizer(Protocol):
    """Text to token ids and back, for one model."""

    @property
    def longest(self) -> int:
        """Characters of the longest token: a longer text than this times n has more than n tokens."""

    def render(self, messages: Sequence[Message], tools: Sequence[Tool] = (), *, prefill: bool = False) -> list[int]:
        """The prompt's token ids, by the model's chat template; with ``prefill`` the last message stays open.

        Called by one thread at a time.
        """

    def constrain(self, grammar: Grammar, tenant: str = "") -> "Constraint | None":
        """A constraint to this grammar; None where nothing can be enforced.

        Called by one thread at a time. Raises: StageError for a wrong grammar.
        """

    def quoted(self, text: str) -> str:
        """How a Lark grammar refers to this text, which may be a token of its own."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of these token ids, without special tokens."""


class Encoder(Protocol):
    """How a model with an encoder reads: one text, as a whole, and apart from the reply."""

    @property
    def input(self) -> int:
        """Tokens of the longest input."""

    @property
    def reply(self) -> int:
        """Tokens of the longest reply."""

    def encode(self, text: str, task: str, *, cut: bool) -> tuple[list[int], int]:
        """The prompt's token ids, and how many tokens the input has, which is ``cut`` to the longest if it has more.

        Called by one thread at a time. Raises: StageError.
        """


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
    def parameters(self) -> int:
        """How many weights it has."""

    @property
    def seekable(self) -> bool:
        """Whether a slot's text can be continued from any of its tokens, and be copied; else from its end only."""

    @property
    def encoder(self) -> Encoder | None:
        """Where prompts are read by an encoder: each comes in one segment, and no other prompt profits from it."""

    def compute_with(self, threads: int) -> None:
        """Use up to so many threads from the next pass on. Called by the thread that calls ``forward``."""

    def forward(self, segments: Sequence[Segment]) -> "Tensor":
        """Read these tokens, of different slots; the logits asked for, (the sum of ``wanted``, V)."""

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Let slot ``target`` hold the first tokens of ``source``."""


def divisible(model: LanguageModel) -> bool:
    """Whether it can read a prompt in pieces, and go on from a part of another one."""
    return model.seekable and model.encoder is None
