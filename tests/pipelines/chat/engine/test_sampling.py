"""How a token is drawn: what each parameter lets through, and what it does to the chances."""

import pytest
import torch

from pipelines.chat.engine.sampling import LIKELIEST, Sampler
from pipelines.events import Sampling

LOGITS = torch.log(torch.tensor([0.1, 0.5, 0.15, 0.25]))


@pytest.mark.parametrize(
    ("top_p", "possible"), [(1e-300, {1}), (0.4, {1}), (0.5, {1}), (0.7, {1, 3}), (0.8, {1, 2, 3}), (1.0, {0, 1, 2, 3})]
)
def test_top_p_keeps_the_fewest_likeliest_tokens_that_reach_it(top_p: float, possible: set[int]) -> None:
    sampler = Sampler(Sampling(temperature=1.0, top_p=top_p, seed=0))
    assert {sampler.draw(LOGITS) for _ in range(300)} == possible


@pytest.mark.parametrize("temperature", [0.0, 1e-30, 1e-3])
def test_no_temperature_takes_the_likeliest(temperature: float) -> None:
    sampler = Sampler(Sampling(temperature=temperature, seed=0))
    assert {sampler.draw(LOGITS) for _ in range(50)} == {1}


def test_samples_follow_the_distribution() -> None:
    sampler = Sampler(Sampling(temperature=1.0, seed=3))
    draws = torch.bincount(torch.tensor([sampler.draw(LOGITS) for _ in range(4000)]), minlength=4) / 4000
    assert torch.allclose(draws, LOGITS.exp(), atol=0.03)


@pytest.mark.parametrize(
    ("limits", "possible"),
    [
        ({"top_k": 1}, {1}),
        ({"top_k": 3}, {1, 2, 3}),
        ({"top_k": 99}, {0, 1, 2, 3}),
        ({"min_p": 0.25}, {1, 2, 3}),
        ({"min_p": 0.4}, {1, 3}),
        ({"min_p": 1.0}, {1}),
        ({"top_k": 3, "top_p": 0.6}, {1, 3}),  # of the three that are left, 0.56 and 0.28
        ({"top_p": 0.7, "min_p": 0.6}, {1}),
    ],
)
def test_top_k_and_min_p_keep_the_likeliest(limits: dict[str, float], possible: set[int]) -> None:
    sampler = Sampler(Sampling(temperature=1.0, seed=0, **limits))  # type: ignore[arg-type]
    assert {sampler.draw(LOGITS) for _ in range(300)} == possible


def test_a_nucleus_that_reaches_beyond_the_likeliest_is_found() -> None:
    flat = torch.zeros(4 * LIKELIEST)
    for limit in ({"top_p": 0.9}, {"min_p": 0.5}):
        sampler = Sampler(Sampling(temperature=1.0, seed=0, **limit))  # type: ignore[arg-type]
        assert len({sampler.draw(flat) for _ in range(1000)}) > LIKELIEST // 2
        assert max(sampler.draw(flat) for _ in range(1000)) > LIKELIEST


def test_a_small_min_p_needs_no_sorting_of_the_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.arange(4 * LIKELIEST).float() / 10
    monkeypatch.setattr(torch.Tensor, "sort", None)
    sampler = Sampler(Sampling(temperature=1.0, min_p=0.05, seed=0))
    assert {sampler.draw(logits) for _ in range(300)} <= set(range(4 * LIKELIEST - 31, 4 * LIKELIEST))


def test_a_bias_makes_a_token_certain_or_impossible() -> None:
    assert Sampler(Sampling(temperature=0, logit_bias=((0, 100.0),))).draw(LOGITS) == 0
    sampler = Sampler(Sampling(temperature=1.0, seed=0, logit_bias=((1, -100.0), (99, 5.0), (-1, 5.0))))
    assert {sampler.draw(LOGITS) for _ in range(300)} == {0, 2, 3}


@pytest.mark.parametrize(
    ("penalty", "drawn"),
    [
        ({"presence_penalty": 0.8}, [1, 3, 1, 1]),  # once said, 2.2 times less likely
        ({"frequency_penalty": 0.5}, [1, 1, 3, 2]),
        ({"repetition_penalty": 3.0}, [3, 2, 1, 1]),  # the prompt has said 1 already
    ],
)
def test_what_was_said_is_said_less(penalty: dict[str, float], drawn: list[int]) -> None:
    logits = torch.log(torch.tensor([0.05, 0.5, 0.2, 0.25]))
    sampler = Sampler(Sampling(temperature=0, **penalty), prompt=[1])  # type: ignore[arg-type]
    assert [sampler.draw(logits) for _ in range(4)] == drawn


def test_a_banned_end_is_not_drawn_and_what_is_likeliest_anyway_needs_no_draw() -> None:
    sampler = Sampler(Sampling(temperature=0, ignore_eos=True), ends=frozenset({1}))
    assert not sampler.takes(1)
    assert sampler.takes(3)
    assert sampler.draw(LOGITS) == 3
    assert Sampler(Sampling(temperature=0), ends=frozenset({1})).takes(1)
    assert not Sampler(Sampling(temperature=0, presence_penalty=1)).takes(1)
    assert not Sampler(Sampling(temperature=1)).takes(1)
