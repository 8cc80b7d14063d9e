"""KV cache slots and the prefix cache: a request takes the slot from which it must compute least."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

WORTH_COPYING = 16  # tokens; fewer are computed as fast
WORTH_WAITING = 64  # tokens that another request prefills already


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """The length of the common prefix of two token sequences."""
    low, high = 0, min(len(a), len(b))
    while low < high:  # comparing slices is much faster than comparing one by one
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


@dataclass(slots=True)
class Slot:
    """A KV cache slot. ``tokens`` is its text; keys and values of the first ``computed`` are there."""

    number: int
    tokens: list[int] = field(default_factory=list)
    computed: int = 0
    tenant: str = ""
    used: int = 0  # when it was last taken or given back
    taken: bool = False
    forgotten: bool = False  # its text must not stay when its request ends


class SlotTable:
    """The slots of one model, and the texts that earlier requests left in them.

    A text is found again by comparing tokens, never by a hash alone, and only by the tenant who left it: the time to
    the first token must not reveal another tenant's texts.
    """

    def __init__(self, count: int, *, reuse: bool, copy: Callable[[int, int, int], None]) -> None:
        self._slots = [Slot(number) for number in range(count)]
        self._reuse = reuse
        self._copy = copy
        self._clock = 0

    def take(self, prompt: list[int], tenant: str) -> Slot:
        """A free slot that holds as much as possible of ``prompt``; ``computed`` tells how much.

        At least the last token is left to be computed, as it gives the first logits. There must be a free slot.
        """
        free = [slot for slot in self._slots if not slot.taken]
        best, shared = None, 0
        if self._reuse:
            for slot in self._slots:
                if slot.tenant == tenant and slot.computed > shared and not slot.forgotten:
                    alike = common_prefix(prompt, slot.tokens[: slot.computed])
                    if (alike, slot.taken) > (shared, False):
                        best, shared = slot, alike
        shared = max(min(shared, len(prompt) - 1), 0)
        chosen = min(free, key=lambda slot: slot.used)
        if best is not None and not best.taken and self._is_continuation(best, shared):
            chosen = best
        elif best is not None and best is not chosen:
            if shared < WORTH_COPYING:
                shared = 0
            else:
                self._copy(best.number, chosen.number, shared)
        self._clock += 1
        chosen.tokens, chosen.computed, chosen.tenant = list(prompt), shared, tenant
        chosen.used, chosen.taken, chosen.forgotten = self._clock, True, False
        return chosen

    def forget(self, tenants: Collection[str]) -> None:
        """Drop the texts that requests of these tenants left, or will leave."""
        for slot in self._slots:
            if slot.tenant in tenants:
                slot.forgotten = True
                if not slot.taken:
                    self._clear(slot)

    def is_coming(self, prompt: Sequence[int], tenant: str) -> bool:
        """Whether a request in progress is about to compute much of this prompt's beginning."""
        if not self._reuse:
            return False
        for slot in self._slots:
            missing = min(len(slot.tokens), len(prompt)) - slot.computed
            if slot.taken and not slot.forgotten and slot.tenant == tenant and missing >= WORTH_WAITING:
                end = slot.computed + WORTH_WAITING
                if slot.tokens[:end] == list(prompt[:end]):
                    return True
        return False

    def give_back(self, slot: Slot) -> None:
        """The request has ended; its text stays until the slot is needed."""
        self._clock += 1
        slot.used, slot.taken = self._clock, False
        del slot.tokens[slot.computed :]
        if slot.forgotten:
            self._clear(slot)

    @staticmethod
    def _clear(slot: Slot) -> None:
        slot.tokens.clear()
        slot.computed, slot.tenant = 0, ""

    @property
    def used(self) -> int:
        """Tokens that requests in progress hold."""
        return sum(slot.computed for slot in self._slots if slot.taken)

    @staticmethod
    def _is_continuation(slot: Slot, shared: int) -> bool:
        """Whether the slot's own text goes on, so that nothing is lost by writing behind the shared part."""
        return shared >= slot.computed - 1 or shared * 2 >= slot.computed
