"""Short codes of embeddings for an index: what a scan of them finds of the exact neighbours, their size, its time."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bench.novelty.scores import components
from pipelines.anomaly.detector import Scaled
from pipelines.anomaly.training.train import Floats

NEAREST = 10
CANDIDATES = 100  # of which the exact ones could be chosen again
LENGTH = 32  # numbers of a short code
SAME_BYTES = 48  # numbers, in eight bits each as many bytes as the signs take
CLIPPED = 0.999  # of the numbers lie within what eight bits can say
TIMED = 100  # queries

Codes = NDArray[np.float32] | NDArray[np.float16] | NDArray[np.int8] | NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Code:
    """The codes of all messages, and a scan: the code of one query to (N,), the higher, the nearer."""

    name: str
    codes: Codes
    queries: Floats | NDArray[np.uint8]
    scan: Callable[[Codes, Floats | NDArray[np.uint8]], Floats]

    @property
    def size(self) -> int:
        """Bytes of one message."""
        return self.codes.nbytes // len(self.codes)


@dataclass(frozen=True, slots=True)
class Recall:
    """What a scan finds, and how long it takes."""

    nearest: float  # of the ten exact neighbours, among the first ten
    candidates: float  # of them, among the first hundred
    seconds: float  # of a query, at the median


def codes(known: Floats, asked: Floats, head: Scaled, seed: int) -> Iterator[Code]:
    """Every code of (N, inputs) messages and (M, inputs) queries; those of the VAE are the means of its latent."""
    middle = known.mean(0)
    yield Code("embedding, float16, as examples are stored", known.astype(np.float16), asked, _scan)
    yield _eight_bits("embedding, int8", known - middle, asked)  # the mean takes the same from every message's score
    for name, (messages, queries) in {
        f"latent of the VAE, {head.vae.shape.latent}": (_latent(head, known), _latent(head, asked)),
        f"principal components, {LENGTH}": _projected(known, asked, components(known - middle, LENGTH)),
        f"principal components, {SAME_BYTES}": _projected(known, asked, components(known - middle, SAME_BYTES)),
        f"random projection, {LENGTH}": _projected(known, asked, _random(known.shape[1], seed)),
    }.items():
        messages, queries = _unit(messages), _unit(queries)
        yield Code(f"{name} × float32", messages, queries, _scan)
        yield _eight_bits(f"{name} × int8", messages, queries)
    for count in (LENGTH * 8, known.shape[1]):
        messages, queries = ((each - middle)[:, :count] for each in (known, asked))
        yield Code(f"signs of {count} dimensions", _signs(messages), _signs(queries), _common)


def recall(code: Code, exact: NDArray[np.int64]) -> Recall:
    """Scan all codes for each query; ``exact`` (M, 10) are the true neighbours."""
    took, nearest, candidates = [], 0, 0
    for n, (query, wanted) in enumerate(zip(code.queries, exact, strict=True)):
        begun = time.perf_counter()
        scores = code.scan(code.codes, query)
        first = np.argpartition(scores, -CANDIDATES)[-CANDIDATES:]
        if n < TIMED:
            took.append(time.perf_counter() - begun)
        ordered = first[np.argsort(-scores[first], kind="stable")]
        nearest += len(np.intersect1d(ordered[:NEAREST], wanted))
        candidates += len(np.intersect1d(ordered, wanted))
    return Recall(nearest / exact.size, candidates / exact.size, statistics.median(took))


def neighbours(known: Floats, asked: Floats) -> NDArray[np.int64]:
    """(M, 10): for each query, the messages whose cosine is highest."""
    return np.argpartition(asked @ known.T, -NEAREST, axis=1)[:, -NEAREST:]


def _scan(codes: Codes, query: Floats | NDArray[np.uint8]) -> Floats:
    return np.asarray(codes.astype(np.float32, copy=False) @ query, dtype=np.float32)


def _common(codes: Codes, query: Floats | NDArray[np.uint8]) -> Floats:
    return np.asarray(-np.bitwise_count(codes ^ query).sum(1, dtype=np.int32), dtype=np.float32)  # type: ignore[operator]


def _eight_bits(name: str, messages: Floats, queries: Floats) -> Code:
    """Messages in steps of one size; the query stays as it is, since its size changes no order."""
    step = np.quantile(np.abs(messages), CLIPPED) / 127
    return Code(name, np.clip(np.rint(messages / step), -127, 127).astype(np.int8), queries, _scan)


def _latent(head: Scaled, inputs: Floats) -> Floats:
    with torch.inference_mode():
        return head.vae.encode(torch.from_numpy(head.standard(inputs)))[0].numpy()


def _projected(known: Floats, asked: Floats, directions: Floats) -> tuple[Floats, Floats]:
    middle = known.mean(0)
    return (known - middle) @ directions.T, (asked - middle) @ directions.T


def _random(inputs: int, seed: int) -> Floats:
    return np.random.default_rng(seed).standard_normal((LENGTH, inputs)).astype(np.float32)


def _unit(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def _signs(vectors: Floats) -> NDArray[np.uint8]:
    return np.packbits(vectors > 0, axis=1)
