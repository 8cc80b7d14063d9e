"""Causal language models of ``transformers``, as the engine wants them."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from pipelines import kernels
from pipelines.chat.model import graph
from pipelines.chat.model.attention import NAME, Slots, Unsupported
from pipelines.chat.model.graph import Step
from pipelines.chat.model.interface import Segment
from pipelines.chat.model.tokenizer import ChatTokenizer

log = logging.getLogger(__name__)

PROBE = Segment(0, 0, [0, 0], 1)

CHECKED = 13  # tokens of each text with which a model is tried
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}  # relative, of logits


class Transformer:
    """Runs the model's own modelling code on all streams together, with our attention over static slots."""

    seekable = True
    encoder = None

    def __init__(self, model: PreTrainedModel, tokenizer: ChatTokenizer, slots: Slots, *, threads: int) -> None:
        self.tokenizer = tokenizer
        self.context = slots.context
        self.slots = slots.count
        self.stop_tokens = stop_tokens(model, tokenizer)
        self.parameters = sum(weight.numel() for weight in model.parameters())
        self._model = model
        self._most_threads = threads
        self._fused = False  # whether all that is worth a second thread in a step are kernels of ours
        self._slots = slots
        self._table = slots.table.numpy()
        self._device = model.device
        self._step: Step = graph.Modules(model)
        slots.attach(model)
        model.set_attn_implementation(NAME)

    @torch.inference_mode()
    def forward(self, segments: Sequence[Segment]) -> Tensor:
        """Read these tokens in one pass; the logits asked for, (the sum of ``wanted``, V)."""
        tokens: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        table = [[len(segments), 0, 0, 0]]
        for segment in segments:
            count = len(segment.tokens)
            table.append([len(tokens), count, segment.slot, segment.start])
            tokens.extend(segment.tokens)
            positions.extend(range(segment.start, segment.start + count))
            wanted.extend(range(len(tokens) - segment.wanted, len(tokens)))
        self._table[: len(table)] = table
        given = (np.array([tokens]), np.array([positions]), np.array(wanted or [0]))  # NumPy does not let the lock go
        logits = self._step(*(torch.from_numpy(each).to(self._device) for each in given))[0]
        return logits if wanted else logits[:0]

    def probe(self) -> None:
        """Make the slots by a first pass. Raises: Unsupported, and others, when they can't serve this model."""
        self.forward([PROBE])
        if not self._slots.tensors:
            raise Unsupported("it has no attention")

    def compute_with(self, threads: int) -> None:
        """Use up to so many threads: those of the kernels, and of PyTorch's operators where a step needs these."""
        threads = min(threads, self._most_threads)
        kernels.use_threads(threads)
        torch.set_num_threads(1 if self._fused else threads)

    @torch.inference_mode()
    def copy(self, source: int, target: int, tokens: int) -> None:
        """Let slot ``target`` hold the first tokens of ``source``."""
        self._slots.copy(source, target, tokens)

    def run(self, step: Step | None) -> None:
        """Compute by this traced step from now on, where there is one."""
        if step is None:
            return
        self._step = step
        self._fused = kernels.load()
        self.compute_with(self._most_threads)


def check_positions(model: PreTrainedModel) -> None:
    """Raises: Unsupported for positions that are counted differently as the whole batch grows longer."""
    parameters = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    kinds = {part.get("rope_type") for part in (parameters, *parameters.values()) if isinstance(part, dict)}
    if strange := kinds & {"dynamic", "longrope"}:
        raise Unsupported(f"its positions are scaled by the longest text ({', '.join(map(str, strange))})")


@torch.inference_mode()
def check_slots(served: Transformer, implementation: str) -> None:
    """Compare a text read in pieces, among others, with the model's own code. Raises: Unsupported if they differ."""
    model = served._model
    served.probe()
    vocabulary = model.config.get_text_config().vocab_size
    texts = torch.randint(vocabulary, (2, CHECKED), generator=torch.Generator().manual_seed(0)).tolist()
    model.set_attn_implementation(implementation)
    own = [
        model(input_ids=torch.tensor([text], device=model.device), use_cache=False).logits[0].float() for text in texts
    ]
    model.set_attn_implementation(NAME)
    slots = range(min(2, served.slots))
    pieces = [served.forward([Segment(slot, 0, texts[slot][:9], 9) for slot in slots])]
    pieces += [
        served.forward([Segment(slot, at, texts[slot][at : at + 1], 1) for slot in slots]) for at in range(9, CHECKED)
    ]
    for slot in slots:
        rows = [pieces[0][slot * 9 : slot * 9 + 9], *(piece[slot : slot + 1] for piece in pieces[1:])]
        error = float((torch.cat(rows).float() - own[slot]).norm() / own[slot].norm())
        if not error < TOLERANCE[model.dtype]:
            raise Unsupported(f"its attention gives other results over slots ({error:.1%} off)")


class SerialTransformer:
    """Runs a model that the slots can't serve, one stream after another, each with a cache of the model's own."""

    seekable = False
    encoder = None

    def __init__(
        self, model: PreTrainedModel, tokenizer: ChatTokenizer, *, context: int, slots: int, threads: int
    ) -> None:
        self.tokenizer = tokenizer
        self.context = context
        self.slots = slots
        self.stop_tokens = stop_tokens(model, tokenizer)
        self.parameters = sum(weight.numel() for weight in model.parameters())
        self._most_threads = threads
        self._model = model
        self._cached = has_key_value_cache(model)
        self._caches: list[DynamicCache | None] = [None] * slots
        self._texts: list[list[int]] = [[] for _ in range(slots)]
        if not self._cached:
            log.warning("the model has no key-value cache of the usual form: every token reads the whole text again")

    @torch.inference_mode()
    def forward(self, segments: Sequence[Segment]) -> Tensor:
        """Read these tokens, stream by stream; the logits asked for, (the sum of ``wanted``, V)."""
        return torch.cat([self._read(segment) for segment in segments])

    def compute_with(self, threads: int) -> None:
        """Use up to so many threads."""
        torch.set_num_threads(min(threads, self._most_threads))

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Not to be had: what these models remember can't be taken apart."""
        raise NotImplementedError

    def _read(self, segment: Segment) -> Tensor:
        text, cache = self._texts[segment.slot], self._caches[segment.slot]
        new: Sequence[int] = segment.tokens
        if segment.start == 0 or len(text) != segment.start or cache is None:  # else the cache goes on from its end
            cache = DynamicCache(config=self._model.config) if self._cached else None
            del text[segment.start :]
            new = [*text, *segment.tokens]
        text.extend(segment.tokens)
        self._caches[segment.slot] = cache
        ids = torch.tensor([list(new)], device=self._model.device)
        output = self._model(input_ids=ids, past_key_values=cache, use_cache=cache is not None)
        logits: Tensor = output.logits[0, len(new) - segment.wanted :]
        return logits


def has_key_value_cache(model: PreTrainedModel) -> bool:
    """Whether it keeps keys and values as most models do."""
    supported: Any = model._supports_default_dynamic_cache  # typed as if a model's buffer were meant
    return bool(supported())


def stop_tokens(model: PreTrainedModel, tokenizer: ChatTokenizer) -> frozenset[int]:
    """Ids that end a reply, as the generation config and the tokenizer say."""
    configured = model.generation_config.eos_token_id if model.generation_config else None
    ids = [configured] if isinstance(configured, int) else list(configured or ())
    return tokenizer.ends.union(ids)
