from collections.abc import Sequence

import pytest

from pipelines.chat.prompt import Overflow, Room, fit
from pipelines.events import Message, StageError, Tool
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
