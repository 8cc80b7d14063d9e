"""Voice activity by Silero's model, which comes with faster-whisper."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.listening.interface import FRAME, ListeningError

if TYPE_CHECKING:
    from pipelines.listening.interface import Samples

CONTEXT = 64  # samples before a frame that the model reads with it
STATE = (1, 1, 128)


class Silero:
    """See ``ActivityModel``. About 0.1 ms a frame, with one thread."""

    def __init__(self) -> None:
        spec = find_spec("faster_whisper")
        if spec is None or spec.origin is None:
            raise ListeningError("There is no module faster_whisper.")
        path = Path(spec.origin).parent / "assets" / "silero_vad_v6.onnx"
        if not path.is_file():
            raise ListeningError(f"There is no {path}: install faster-whisper 1.2 or newer.")
        self._session = session(path)

    def stream(self) -> "SileroStream":
        """A new stream."""
        return SileroStream(self._session)


class SileroStream:
    """See ``Activity``."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._hidden = np.zeros(STATE, np.float32)
        self._cell = np.zeros(STATE, np.float32)
        self._before = np.zeros(CONTEXT, np.float32)

    def __call__(self, frames: "Samples") -> Sequence[float]:
        """The probability of speech in each frame; ``frames`` is (n · FRAME,)."""
        rows = frames.reshape(-1, FRAME)
        before = np.concatenate([self._before[None], rows[:-1, -CONTEXT:]])
        given = {"input": np.concatenate([before, rows], axis=1), "h": self._hidden, "c": self._cell}
        probabilities, self._hidden, self._cell = self._session.run(None, given)
        self._before = rows[-1, -CONTEXT:].copy()
        return [float(probability) for probability in probabilities.reshape(-1)]


def session(path: Path) -> Any:
    """An ONNX model that computes with the thread that calls it."""
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False
    return InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
