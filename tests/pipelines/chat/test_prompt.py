from collections.abc import Sequence
from itertools import pairwise

import pytest

from pipelines.chat.prompt import Overflow, Room, fit
from pipelines.events import Message, Role, StageError, Tool, ToolCall
from tests.support import ScriptedTokenizer

TOKENIZER = ScriptedTokenizer()
TOKENIZER.longest = 10  # as real ones have it: many characters a token at the most


def lines(tokens: list[int]) -> list[str]:
    return "".join(map(chr, tokens)).split("\n")


def fitted(messages: list[Message], *, context: int, overflow: Overflow = "trim", max_tokens: int = 1000) -> list[str]:
    return lines(fit(TOKENIZER, messages, Room(context, max_tokens, overflow)))


TALK = [Message("system", "be kind"), *(Message("user", f"message {i}") for i in range(10))]


def test_what_fits_is_left_alone() -> None:
    assert fitted(TALK, context=1000) == ["system: be kind", *(f"user: message {i}" for i in range(10))]


def test_too_long_a_prompt_is_an_error_with_the_numbers() -> None:
    size = len(TOKENIZER.render(TALK))
    with pytest.raises(StageError, match=f"{size} tokens, and the context of 100 .*overflow") as error:
        fitted(TALK, context=100, overflow="error")
    assert (error.value.kind, error.value.code) == ("invalid_request", "context_length_exceeded")


def test_a_prompt_must_leave_room_for_a_token() -> None:
    size = len(TOKENIZER.render(TALK))
    assert fitted(TALK, context=size + 1, overflow="error")
    with pytest.raises(StageError):
        fitted(TALK, context=size, overflow="error")


@pytest.mark.parametrize("context", range(60, 190, 7))
def test_trimming_drops_as_few_of_the_oldest_as_it_must(context: int) -> None:
    kept = fitted(TALK, context=context, max_tokens=5)
    assert kept[0] == "system: be kind"
    count = len(kept) - 1
    assert kept[1:] == [f"user: message {i}" for i in range(10 - count, 10)]
    assert len("\n".join(kept)) <= context - 5
    if count < 10:
        one_more = "\n".join([kept[0], f"user: message {9 - count}", *kept[1:]])
        assert len(one_more) > context - 5


def test_trimming_keeps_the_instructions_and_the_last_message_or_gives_up() -> None:
    with pytest.raises(StageError, match="Shorten the conversation") as error:
        fitted([Message("system", "x" * 50), Message("user", "y" * 60)], context=100)
    assert "overflow" not in error.value.message  # it is on already


class NeverRendered(ScriptedTokenizer):
    def render(self, messages: Sequence[Message], tools: Sequence[Tool] = (), *, prefill: bool = False) -> list[int]:
        raise AssertionError(f"{sum(len(message.content) for message in messages)} characters were tokenized")


def test_what_can_not_fit_whatever_it_is_is_not_even_tokenized() -> None:
    overflows: tuple[Overflow, ...] = ("error", "trim")
    for overflow in overflows:
        with pytest.raises(StageError, match="1000000 characters, and the context of 100 tokens") as error:
            fit(NeverRendered(), [Message("user", "x" * 1_000_000)], Room(100, 5, overflow))
        assert error.value.code == "context_length_exceeded"


def test_trimming_does_not_tokenize_what_goes_anyway() -> None:
    talk = [Message("system", "be kind"), *(Message("user", str(i) * 300) for i in range(9)), Message("user", "now")]
    assert fitted(talk, context=100, max_tokens=5) == ["system: be kind", "user: now"]


def turns(count: int) -> list[Message]:
    roles: list[Role] = ["user", "assistant"]
    talk = [Message(role, f"{role} says {number} {'x' * (number % 7)}") for number in range(count) for role in roles]
    return [Message("system", "be kind"), *talk, Message("user", "now")]


def test_trimming_in_blocks_leaves_the_beginning_alone_for_several_turns() -> None:
    room = Room(600, 5, "trim", retention=0.5)
    prompts = [fit(TOKENIZER, turns(count), room) for count in range(1, 120)]
    assert all(len(prompt) <= 595 for prompt in prompts)
    full = [prompt for prompt in prompts if len(prompt) > 300]
    begins = ["".join(map(chr, prompt[:60])) for prompt in full]
    changes = sum(before != after for before, after in pairwise(begins))
    assert 2 < changes < len(full) / 4
    assert all(min(map(len, full[20:])) >= 200 for _ in begins), "no more goes than a block"


def test_a_limit_of_tokens_behind_the_instructions_holds() -> None:
    prompt = fit(TOKENIZER, turns(40), Room(100_000, 5, "trim", retained=200))
    assert 100 < len(prompt) <= 200 + len("system: be kind")


@pytest.mark.parametrize("retention", [0.0, 0.999999, 1.0])
def test_any_share_that_is_left_works(retention: float) -> None:
    prompt = fit(TOKENIZER, turns(200), Room(400, 5, "trim", retention=retention))
    assert lines(prompt)[-1] == "user: now"
    assert len(prompt) <= 395


def test_a_result_goes_with_its_call() -> None:
    call = Message("assistant", "", calls=(ToolCall("c", "f", "{}"),))
    talk = [Message("user", "x" * 100), call, Message("tool", "result", call_id="c"), Message("user", "now")]
    for context in range(30, 200, 3):
        kept = lines(fit(TOKENIZER, talk, Room(context, 5, "trim")))
        assert ("assistant: " in kept) == ("tool: result" in kept)
