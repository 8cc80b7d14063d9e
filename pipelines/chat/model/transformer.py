"""Causal language models of ``transformers``, as the engine wants them."""

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from pipelines.chat.model import graph, kernels
from pipelines.chat.model.attention import NAME, Slots, Unsupported
from pipelines.chat.model.files import weight_bytes
from pipelines.chat.model.graph import Step
from pipelines.chat.model.interface import Segment
from pipelines.chat.settings import ChatSettings
from pipelines.cores import cores
from pipelines.downloads.cache import cache_folder
from pipelines.events import Message, StageError
from pipelines.loading import one_at_a_time

log = logging.getLogger(__name__)

MEMORY_SHARE = 0.9  # of the free memory, that weights may take before accelerate places them

CHECKED = 13  # tokens of each text with which a model is tried
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}  # relative, of logits

PLAIN_TEMPLATE = (  # for base models, which come without a template of their own
    "{% for message in messages %}{{ message.role | capitalize }}: {{ message.content }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


class ChatTokenizer:
    """A model's tokenizer and chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self.end = tokenizer.eos_token_id  # may be None
        self.longest = max(map(len, tokenizer.get_vocab()))
        if tokenizer.chat_template is None:
            log.warning("the model has no chat template; a plain one is used")
            tokenizer.chat_template = PLAIN_TEMPLATE
        special = sorted((str(token) for token in tokenizer.added_tokens_decoder.values()), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, special))) if special else None

    def render(self, messages: Sequence[Message]) -> list[int]:
        """The prompt's token ids. Raises: StageError when the template refuses the conversation."""
        conversation = [{"role": message.role, "content": self._defuse(message.content)} for message in messages]
        try:
            text = self._tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise StageError(
                "invalid_request",
                "unsupported_conversation",
                f"The model's chat template does not take this conversation: {error}",
            ) from error
        return list(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of these ids, without special tokens."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _defuse(self, content: str) -> str:
        """Break up what would become a control token: a message must not end itself and speak as somebody else."""
        if self._special is None:
            return content
        return self._special.sub(lambda found: found[0][:1] + " " + found[0][1:], content)


class Transformer:
    """Runs the model's own modelling code on all streams together, with our attention over static slots."""

    seekable = True

    def __init__(
        self, model: PreTrainedModel, tokenizer: ChatTokenizer, *, context: int, slots: int, threads: int
    ) -> None:
        self.tokenizer = tokenizer
        self.context = context
        self.slots = slots
        self.stop_tokens = _stop_tokens(model, tokenizer)
        self._model = model
        self._most_threads = threads
        self._fused = False  # whether all that is worth a second thread in a step are kernels of ours
        self._slots = Slots(slots, context, segments=slots)
        self._step: Step = graph.Modules(model)
        self._slots.attach(model)
        model.set_attn_implementation(NAME)
        self.forward([Segment(0, 0, [0, 0], 1)])  # makes the slots, and finds out whether they can serve this model
        if not self._slots.tensors:
            raise Unsupported("it has no attention")

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
        self._slots.table[: len(table)] = torch.tensor(table, dtype=torch.int32)
        device = self._model.device
        logits = self._step(
            torch.tensor([tokens], device=device),
            torch.tensor([positions], device=device),
            torch.tensor(wanted or [0], device=device),
        )
        return logits[0, : len(wanted)]

    def compute_with(self, threads: int) -> None:
        """Use up to so many threads: those of the kernels, and of PyTorch's operators where a step needs these."""
        threads = min(threads, self._most_threads)
        kernels.use_threads(threads)
        torch.set_num_threads(1 if self._fused else threads)

    @torch.inference_mode()
    def copy(self, source: int, target: int, tokens: int) -> None:
        """Let slot ``target`` hold the first tokens of ``source``."""
        self._slots.copy(source, target, tokens)

    def speed_up(self, folder: Path, *, packed: bool) -> None:
        """Run a traced and fused step from now on, kept in ``folder``, if the model's code can be traced."""
        step = graph.step(self._model, folder, packed=packed)
        if step is not None:
            self._step = step
            self._fused = kernels.load()
            self.compute_with(self._most_threads)


class SerialTransformer:
    """Runs a model that the slots can't serve, one stream after another, each with a cache of the model's own."""

    seekable = False

    def __init__(
        self, model: PreTrainedModel, tokenizer: ChatTokenizer, *, context: int, slots: int, threads: int
    ) -> None:
        self.tokenizer = tokenizer
        self.context = context
        self.slots = slots
        self.stop_tokens = _stop_tokens(model, tokenizer)
        self._most_threads = threads
        self._model = model
        self._cached = _has_key_value_cache(model)
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


def load(folder: Path, settings: ChatSettings) -> Transformer | SerialTransformer:
    """Load the model in ``folder`` on the calling thread, which is the one that must use it."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    threads = settings.threads or cores()
    torch.set_num_threads(threads)
    kernels.use_threads(threads)
    tokenizer = ChatTokenizer(AutoTokenizer.from_pretrained(folder))
    placed = placement(settings.device, weight_bytes(folder), psutil.virtual_memory().available)
    with one_at_a_time:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=_dtype(settings), **placed)
    model.eval()
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None) or settings.context
    context = min(settings.context, limit)
    served = _served(model, tokenizer, context=context, streams=settings.streams, kept=settings.kept, threads=threads)
    places = set(map(str, getattr(model, "hf_device_map", {"": "cpu"}).values()))
    if isinstance(served, Transformer) and places == {"cpu"}:
        served.speed_up(folder, packed=settings.weights == "auto" and model.dtype is torch.bfloat16)
    served.forward([Segment(0, 0, [0, 0], 1)])  # the first pass sets up kernels; not at a user's cost
    return served


def _served(
    model: PreTrainedModel, tokenizer: ChatTokenizer, *, context: int, streams: int, kept: int, threads: int
) -> Transformer | SerialTransformer:
    """The fastest way in which this model gives what its authors' code gives."""
    if not _has_key_value_cache(model):
        return SerialTransformer(model, tokenizer, context=context, slots=streams, threads=threads)
    implementation = model.config._attn_implementation
    try:
        _check_rope(model)
        served = Transformer(model, tokenizer, context=context, slots=streams + kept, threads=threads)
        _check(served, implementation)
    except Exception as error:  # whatever the modelling code trips over
        log.warning("streams of this model are computed one after another, because %s", error)
        model.set_attn_implementation(implementation)
        return SerialTransformer(model, tokenizer, context=context, slots=streams, threads=threads)
    return served


def _check_rope(model: PreTrainedModel) -> None:
    """Raises: Unsupported for positions that are counted differently as the whole batch grows longer."""
    parameters = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    kinds = {part.get("rope_type") for part in (parameters, *parameters.values()) if isinstance(part, dict)}
    if strange := kinds & {"dynamic", "longrope"}:
        raise Unsupported(f"its positions are scaled by the longest text ({', '.join(map(str, strange))})")


@torch.inference_mode()
def _check(served: Transformer, implementation: str) -> None:
    """Compare a text read in pieces, among others, with the model's own code. Raises: Unsupported if they differ."""
    model = served._model
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


def placement(device: str, weights: int, free: int) -> dict[str, Any]:
    """Where ``from_pretrained`` puts the model; ``weights`` and ``free`` (main memory) in bytes.

    ``auto`` leaves it to accelerate where there is a choice: with a GPU, or with weights that main memory can't hold,
    part of which then stays on disk.
    """
    if device != "auto":
        return {"device_map": {"": device}}
    offload = {"device_map": "auto", "offload_folder": str(cache_folder() / "offload")}
    if torch.accelerator.is_available():
        return offload
    if weights > MEMORY_SHARE * free:
        return offload | {"max_memory": {"cpu": int(MEMORY_SHARE * free)}}
    return {}


def _dtype(settings: ChatSettings) -> torch.dtype:
    if settings.dtype != "auto":
        return {"bfloat16": torch.bfloat16, "float32": torch.float32}[settings.dtype]
    fast = torch.accelerator.is_available() or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def _has_key_value_cache(model: PreTrainedModel) -> bool:
    supported: Any = model._supports_default_dynamic_cache  # typed as if a model's buffer were meant
    return bool(supported())


def _stop_tokens(model: PreTrainedModel, tokenizer: ChatTokenizer) -> frozenset[int]:
    configured = model.generation_config.eos_token_id if model.generation_config else None
    ids = [configured] if isinstance(configured, int) else list(configured or ())
    return frozenset(id for id in (*ids, tokenizer.end) if id is not None)
