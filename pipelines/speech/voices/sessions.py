"""Parts of a voice's graph, to be computed with one thread or with several."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


class GraphPart:
    """A part of the graph, loaded for one thread and for ``threads``."""

    def __init__(self, file: Path, threads: int) -> None:
        self._sessions = {count: _session(file, count) for count in {1, threads}}
        self.inputs = [given.name for given in self.with_threads(1).get_inputs()]
        self.outputs = [made.name for made in self.with_threads(1).get_outputs()]

    def with_threads(self, threads: int) -> "InferenceSession":
        """It, for at most so many."""
        return self._sessions[max((count for count in self._sessions if count <= threads), default=1)]


def _session(file: Path, threads: int) -> "InferenceSession":
    from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Its threads wait for work in a loop while they compute, and not a moment longer: the chat model needs the cores.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # More of it makes voices no faster, and their loading slower.
    options.graph_optimization_level = GraphOptimizationLevel.ORT_ENABLE_BASIC
    # It plans the memory of every length of sentence anew, and holds on to each plan: 100 MiB more, and no faster.
    options.enable_mem_pattern = False
    return InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
