"""The bundled detector and the model that it reads with."""

from pathlib import Path

import pytest

from pipelines.anomaly.detector import Detector
from pipelines.anomaly.weights import load
from pipelines.embedding.e5 import load as load_e5
from pipelines.embedding.model import EmbeddingModel


@pytest.fixture(scope="session")
def detector() -> Detector:
    """The bundled one."""
    return load()


@pytest.fixture(scope="session")
def model(e5: Path) -> EmbeddingModel:
    """Not for two threads at a time."""
    return load_e5(e5)
