"""Who computes with how many threads, where several pools of them have the same cores."""

import os


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Cores:
    """Who computes with how many threads, where several pools of them have the same cores.

    Two pools that both want every core wait for each other's stragglers, which costs more than to compute with half
    of the cores each. So each pool leaves the others their minimum while they compute. What computes with one thread
    and in bursts, as for an embedding or a picture, has a minimum of 0: the language model's threads make way for it.
    """

    def __init__(self, total: int | None = None) -> None:
        self.total = total or cores()
        self._shares: list[Share] = []

    def share(self, least: int) -> "Share":
        """A share for one pool, which is left ``least`` threads while others compute, and else wants every core."""
        share = Share(self, least)
        self._shares.append(share)
        return share

    @property
    def urgent(self) -> bool:
        """Whether somebody waits for the first result of a pool: what is not asked for may come later."""
        return any(share.urgent for share in self._shares)

    def left_by_others(self, mine: "Share") -> int:
        """Cores that no other pool needs."""
        return self.total - sum(share.least for share in self._shares if share.active and share is not mine)


class Share:
    """One pool's part of the cores. Its owner says when it computes, and what for; any thread may ask."""

    def __init__(self, among: Cores, least: int) -> None:
        self._among = among
        self.least = least
        self.active = False
        self.urgent = False

    @property
    def alone(self) -> bool:
        """Whether no other pool computes."""
        return self._among.left_by_others(self) == self._among.total

    @property
    def threads(self) -> int:
        """How many threads to compute with now."""
        return max(self.least, self._among.left_by_others(self))


def one_blas_thread() -> None:
    """Let NumPy and SciPy compute with the calling thread alone, as far as their libraries are loaded by now.

    Their matrices are small here, and their pool would fight the model's for the cores: it halved the tokens a second.
    """
    from threadpoolctl import threadpool_limits  # here, because only the server has it

    threadpool_limits(limits=1, user_api="blas")
