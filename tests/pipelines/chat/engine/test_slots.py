import pytest

from pipelines.chat.engine.prefill import FIRST, LEAST, MOST, PrefillBudget
from pipelines.chat.engine.slots import SlotTable, common_prefix

TEXT = list(range(100, 160))


class Copies(list[tuple[int, int, int]]):
    def __call__(self, source: int, target: int, tokens: int) -> None:
        self.append((source, target, tokens))


def table(count: int = 3, *, reuse: bool = True) -> tuple[SlotTable, Copies]:
    copies = Copies()
    return SlotTable(count, reuse=reuse, copy=copies), copies


def leave(slots: SlotTable, text: list[int], tenant: str = "") -> int:
    """A request with this text comes and goes; returns how much of it was there."""
    slot = slots.take(text, tenant)
    found, slot.computed = slot.computed, len(text)
    slots.give_back(slot)
    return found


def test_a_common_prefix_is_found_wherever_texts_part() -> None:
    for at in range(len(TEXT) + 1):
        assert common_prefix(TEXT, [*TEXT[:at], 0, *TEXT[at + 1 :]]) == min(at, len(TEXT))
    assert common_prefix([], TEXT) == 0


def test_the_next_turn_goes_on_in_the_slot_of_the_last() -> None:
    slots, copies = table()
    assert leave(slots, TEXT) == 0
    assert leave(slots, [*TEXT, 1, 2]) == len(TEXT)
    assert copies == []


def test_at_least_one_token_is_left_to_compute() -> None:
    slots, _ = table()
    leave(slots, TEXT)
    assert leave(slots, TEXT) == len(TEXT) - 1


def test_a_shared_beginning_is_copied_and_the_other_text_stays() -> None:
    slots, copies = table()
    leave(slots, [*TEXT, *range(200)])
    assert leave(slots, [*TEXT, 7, 8, 9]) == len(TEXT)
    assert copies == [(0, 1, len(TEXT))]
    assert leave(slots, [*TEXT, *range(200), 1]) == len(TEXT) + 200


def test_a_running_text_can_be_shared_but_not_taken() -> None:
    slots, copies = table()
    running = slots.take(TEXT, "")
    running.computed = 30
    other = slots.take(TEXT, "")
    assert other.number != running.number
    assert (other.computed, copies) == (30, [(running.number, other.number, 30)])


def test_nobody_profits_from_what_another_tenant_said() -> None:
    slots, copies = table()
    leave(slots, TEXT, "alice")
    assert leave(slots, [*TEXT, 1], "bob") == 0
    assert leave(slots, [*TEXT, 2], "alice") == len(TEXT)
    assert copies == []


def test_the_slot_that_was_unused_longest_is_taken() -> None:
    slots, _ = table(2)
    leave(slots, [1] * 40)
    leave(slots, [2] * 40)
    leave(slots, [3] * 40)
    assert leave(slots, [*[2] * 40, 9]) == 40
    assert leave(slots, [*[1] * 40, 9]) == 0


def test_without_reuse_nothing_is_found() -> None:
    slots, copies = table(reuse=False)
    leave(slots, TEXT)
    assert leave(slots, [*TEXT, 1]) == 0
    assert copies == []


def test_the_pace_of_reading_leaves_streams_their_steps() -> None:
    budget = PrefillBudget()
    assert budget.tokens(8, 1) == budget.tokens(0, 1) == FIRST
    for _ in range(20):
        budget.measured(0.010, streaming=True, read=0)
        budget.measured(0.010 + 0.0002 * 64, streaming=True, read=64)
    assert budget.tokens(8, 1) == pytest.approx(50, abs=1), "a step's 10 ms, at 0.2 ms a token"
    assert budget.tokens(0, 1) == 500, "100 ms"
    assert budget.tokens(4, 8) == pytest.approx(100, abs=1), "twice as much where it lets twice as many begin"
    assert budget.tokens(1, 100) == 250, "but never more than 50 ms"


def test_the_pace_has_bounds() -> None:
    budget = PrefillBudget()
    for seconds, bound in ((1e-9, MOST), (10.0, LEAST)):
        for _ in range(100):
            budget.measured(0.01, streaming=True, read=0)
            budget.measured(0.01 + seconds * 64, streaming=True, read=64)
        assert budget.tokens(8, 1) == bound


def test_what_is_forgotten_is_found_no_more_and_others_texts_are() -> None:
    slots, _ = table(4)
    leave(slots, TEXT, "one")
    leave(slots, TEXT, "two")
    running = slots.take([*TEXT, 1], "one")
    running.computed = len(TEXT)
    slots.forget(("one",))
    assert leave(slots, TEXT, "two") == len(TEXT) - 1
    assert leave(slots, TEXT, "one") == 0
    slots.give_back(running)
    assert not [slot for slot in slots._slots if slot.tenant == "one" and slot is running]
    assert running.tokens == []
