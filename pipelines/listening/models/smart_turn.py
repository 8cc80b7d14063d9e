"""The end of a turn by Smart Turn v3, a model on top of Whisper's encoder (Daily; BSD-2)."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.listening.interface import RATE, ListeningError
from pipelines.listening.models.silero import session

if TYPE_CHECKING:
    from pipelines.listening.interface import Samples

SECONDS = 8  # that it hears; shorter audio has silence before it
FRAMES = SECONDS * 100


class SmartTurn:
    """See ``EndModel``."""

    def __init__(self, path: Path) -> None:
        from faster_whisper.feature_extractor import FeatureExtractor

        try:
            self._session = session(path)
        except Exception as error:
            raise ListeningError(f"{path} is not a model of the end of a turn: {error}") from None
        self._features = FeatureExtractor(chunk_length=SECONDS)

    def __call__(self, samples: "Samples") -> float:
        """The probability that the speaker of these samples, up to a pause at their end, has finished."""
        samples = samples[-SECONDS * RATE :]
        samples = np.pad(samples, (SECONDS * RATE - len(samples), 0))
        samples = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
        features = self._features(samples)[None, :, :FRAMES].astype(np.float32)  # (1, mels, frames)
        (made,) = self._session.run(None, {"input_features": features})
        return float(made.reshape(-1)[0])
