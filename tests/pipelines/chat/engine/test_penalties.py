"""Penalties on many rows at once, against a plain computation of one row."""

from typing import Any

import pytest
import torch
from torch import Tensor

from pipelines.chat.engine.penalties import Penalties, Row, best_tokens
from pipelines.chat.engine.sampling import Sampler
from pipelines.events import Sampling

VOCABULARY = 300
ASKED: list[dict[str, Any]] = [
    {"repetition_penalty": 1.1},
    {"repetition_penalty": 1.3, "repetition_prompt": False},
    {"repetition_penalty": 0.8},
    {"presence_penalty": 1.5},
    {"frequency_penalty": 0.7},
    {"presence_penalty": -1.0, "frequency_penalty": 0.3, "repetition_penalty": 1.2},
    {"ignore_eos": True},
    {"ignore_eos": True, "repetition_penalty": 1.12, "repetition_prompt": False},
    {},
]
ENDS = frozenset({0, 7, VOCABULARY + 5})


def reference(logits: Tensor, asked: dict[str, Any], prompt: list[int], said: list[int]) -> int:
    """One row as transformers and OpenAI have it, token by token."""
    scores = logits.float().clone()
    for token in {*(prompt if asked.get("repetition_prompt", True) else []), *said}:
        penalty = asked.get("repetition_penalty", 1.0)
        scores[token] = scores[token] / penalty if scores[token] > 0 else scores[token] * penalty
    for token in set(said):
        scores[token] -= asked.get("presence_penalty", 0.0) + asked.get("frequency_penalty", 0.0) * said.count(token)
    for token in ENDS if asked.get("ignore_eos") else ():
        if token < VOCABULARY:
            scores[token] = float("-inf")
    return int(scores.argmax())


def tokens(count: int, random: torch.Generator) -> list[int]:
    return torch.randint(VOCABULARY, (count,), generator=random).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", range(4))
def test_the_best_tokens_of_a_batch_are_those_of_a_plain_computation(dtype: torch.dtype, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    rows, expected = [], []
    # Few bits make many ties.
    logits = (torch.randn(2 * len(ASKED) + 1, VOCABULARY, generator=random) * 4).round().to(dtype)
    for number, asked in enumerate([*ASKED, *ASKED]):
        prompt, said = tokens(5, random), tokens(600 if number == 0 else 40, random)
        new = next((token for token in range(8, VOCABULARY) if token not in (*prompt, *said)), 8)
        logits[number, said[0]], logits[number, new] = 20.0, 19.5
        ahead = said[-3:] if number < len(ASKED) else []
        penalties = Penalties(Sampling(**asked), prompt, ENDS if asked.get("ignore_eos") else ())
        for token in said[: len(said) - len(ahead)]:
            penalties.count(token)
        rows.append(Row(number, penalties, ahead))
        expected.append(reference(logits[number], asked, prompt, said))
    before = logits.clone()
    assert best_tokens(logits, rows) == [*expected, int(logits[-1].argmax())]
    assert torch.equal(logits, before), "the logits are the same afterwards"
    assert sum(int(row.argmax()) != token for row, token in zip(logits, expected, strict=False)) >= 8


def test_drafts_count_for_the_rows_behind_them_only() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.9]] * 3)
    penalties = Penalties(Sampling(presence_penalty=1.0))
    assert best_tokens(logits, [Row(n, penalties, [1, 2][:n]) for n in range(3)]) == [1, 2, 1]
    assert best_tokens(logits[:1], [Row(0, penalties, [])]) == [1], "nothing was said yet"


@pytest.mark.parametrize("asked", ASKED)
def test_a_sampler_draws_by_the_same_penalties(asked: dict[str, Any]) -> None:
    random = torch.Generator().manual_seed(1)
    prompt, said = tokens(5, random), tokens(0, random)
    sampler = Sampler(Sampling(temperature=0, **asked), prompt, ENDS)
    for _ in range(40):
        logits = torch.randn(VOCABULARY, generator=random)
        logits[said[-5:]] += 3
        expected = reference(logits, asked, prompt, said)
        assert sampler.draw(logits) == expected
        said.append(expected)
