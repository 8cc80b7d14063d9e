"""What the simulation knows of the servers: seconds of computing, measured on this machine or taken from a roofline."""

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path


@dataclass(frozen=True)
class Costs:
    """Of one engine and one gateway. Times are seconds with all the cores that an engine wants."""

    passes: tuple[tuple[int, float], ...]  # for so many streams that decode: seconds of a pass; more and fewer follow
    prompt: float  # that each token of a prompt adds
    accept: tuple[float, ...]  # that turns wait besides, one as likely as another: HTTP, threads that wake up
    turn: float  # of a gateway, for a turn: parsing, screening, rendering
    event: float  # of a gateway, for each piece of text
    streams: int = 32  # that an engine decodes at a time
    chunk: int = 0  # tokens of prompts in one pass, at most; 0: as this project's engine budgets them
    kept: int = 64  # conversations whose keys and values an engine still has
    cores: float = 2.0  # that an engine's pass uses

    def pass_seconds(self, streams: int, prompts: int = 0) -> float:
        """Of a pass with so many streams that decode, and so many tokens of prompts."""
        return self._steps[streams] + self.prompt * prompts

    @cached_property
    def _steps(self) -> tuple[float, ...]:
        """Of a pass by how many streams decode: on the lines between what was measured, and on those that go on."""
        lines = list(pairwise(self.passes))

        def step(streams: int) -> float:
            (few, least), (many, most) = next((line for line in lines if streams <= line[1][0]), lines[-1])
            return max(least + (most - least) * (streams - few) / (many - few), 1e-6)

        return tuple(map(step, range(self.streams + 1)))

    def tokens_per_second(self) -> float:
        """Of one engine whose streams all decode."""
        return self.streams / self.pass_seconds(self.streams)


def read(path: Path) -> Costs:
    """Costs from a file that ``write`` wrote. Raises: OSError, ValueError for other content."""
    try:
        told = json.loads(path.read_text())
        passes = tuple((int(streams), float(each)) for streams, each in told["passes"])
        return Costs(**told | {"passes": passes, "accept": tuple(map(float, told["accept"]))})
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path} holds no costs: {error}") from None


def write(path: Path, costs: Costs) -> None:
    """Write them as JSON."""
    path.write_text(json.dumps(asdict(costs), indent=1) + "\n")


def roofline(
    *, weights: float, parameters: float, cache: float, bandwidth: float, flops: float, streams: int, gateway: Costs
) -> Costs:
    """An engine that was not measured, by what its memory and its arithmetic allow, behind a gateway that was.

    ``weights`` bytes are read in each pass, ``cache`` bytes for each stream, from a memory of ``bandwidth`` bytes a
    second; ``parameters`` are multiplied with for each token, by ``flops`` operations a second. Decoding is bound by
    the memory, prompts by the arithmetic (Williams et al. 2009).
    """
    arithmetic = 2 * parameters / flops
    step, stream = weights / bandwidth, max(cache / bandwidth, arithmetic)
    return Costs(
        passes=((0, step), (streams, step + streams * stream)),
        prompt=arithmetic,
        accept=gateway.accept,
        turn=gateway.turn,
        event=gateway.event,
        streams=streams,
        chunk=2048,
        kept=10 * streams,
        cores=0.0,
    )
