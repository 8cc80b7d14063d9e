"""What a model's generation config rules out token by token, as far as it makes greedy replies differ.

``generate`` has these rules as logits processors; here they change the logits that a forward pass gives.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

log = logging.getLogger(__name__)

# Fields that change replies and are not followed. A forced end only cuts a reply that is cut anyway.
IGNORED = (
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "sequence_bias",
    "exponential_decay_length_penalty",
)


@dataclass(frozen=True)
class Rules:
    """Tokens that must not follow. Lengths are those of the decoder's text with its start tokens."""

    never: tuple[int, ...] = ()
    never_first: tuple[int, ...] = ()
    never_behind: tuple[tuple[int, ...], ...] = ()  # sequences whose last token must not follow the others
    no_repeat: int = 0  # tokens of a sequence that must not occur twice; 0: any may
    least: int = 0  # tokens before which the text must not end
    ends: tuple[int, ...] = ()
    starts: int = 1  # tokens of a text that begins

    @classmethod
    def of(cls, config: GenerationConfig | None, ends: frozenset[int], starts: int) -> "Rules":
        """The rules of this generation config."""
        if config is None:
            return cls(starts=starts)
        if unknown := [name for name in IGNORED if _is_set(getattr(config, name, None))]:
            log.warning("the model's generation config has %s, which is not followed", " and ".join(unknown))
        bad = [tuple(words) for words in config.bad_words_ids or () if list(words) not in [[end] for end in ends]]
        least = max(config.min_length or 0, 1 + (config.min_new_tokens or 0) if config.min_new_tokens else 0)
        return cls(
            never=(*(words[0] for words in bad if len(words) == 1), *(config.suppress_tokens or ())),
            never_first=tuple(config.begin_suppress_tokens or ()),
            never_behind=tuple(words for words in bad if len(words) > 1),
            no_repeat=config.no_repeat_ngram_size or 0,
            least=least,
            ends=tuple(sorted(ends)),
            starts=starts,
        )

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return bool(self.never or self.never_first or self.never_behind or self.no_repeat or self.least)

    def apply(self, logits: Tensor, texts: Sequence[Sequence[int]]) -> None:
        """Change, in place, logits (N, V) of what may follow each of N texts.

        What is ruled out gets the lowest number rather than minus infinity: a constraint that allows nothing else
        still finds it.
        """
        lowest = torch.finfo(logits.dtype).min
        if self.never:
            logits[:, list(self.never)] = lowest
        if not (self.never_first or self.never_behind or self.no_repeat or self.least):
            return
        for row, text in enumerate(texts):
            if banned := self.banned(text):
                logits[row, banned] = lowest

    def banned(self, text: Sequence[int]) -> list[int]:
        """What must not follow this text, beside what must not anywhere."""
        found: list[int] = []
        if len(text) < self.least:
            found += self.ends
        if len(text) <= self.starts:
            found += self.never_first
        for *before, last in self.never_behind:
            if list(text[-len(before) :]) == before:
                found.append(last)
        return found + _repeating(text, self.no_repeat)


def _repeating(text: Sequence[int], size: int) -> list[int]:
    """Tokens that would make the last ``size`` tokens of the text occur a second time."""
    if not size or len(text) < size:
        return []
    tail = list(text[len(text) - size + 1 :])
    return [text[at + size - 1] for at in range(len(text) - size + 1) if list(text[at : at + size - 1]) == tail]


def _is_set(value: Any) -> bool:
    return value not in (None, 0, 1.0)
