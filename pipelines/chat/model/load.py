"""Loads a language model, from a folder as transformers saves it or from a GGUF file."""

import logging
import os
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
)

from pipelines import kernels
from pipelines.chat.model import gguf, gguf_model, plans, seq2seq
from pipelines.chat.model.attention import Slots, Unsupported
from pipelines.chat.model.files import weight_bytes
from pipelines.chat.model.gguf import GgufFile
from pipelines.chat.model.gguf_weights import GgufWeights, empty_model
from pipelines.chat.model.seq2seq import EncoderDecoder
from pipelines.chat.model.seq2seq_tokenizer import SourceTokenizer, Start
from pipelines.chat.model.tokenizer import ChatTokenizer
from pipelines.chat.model.transformer import (
    PROBE,
    SerialTransformer,
    Transformer,
    check_positions,
    check_slots,
    has_key_value_cache,
)
from pipelines.chat.settings import ChatSettings
from pipelines.cores import cores
from pipelines.downloads.cache import cache_folder
from pipelines.loading import one_at_a_time

log = logging.getLogger(__name__)

MEMORY_SHARE = 0.9  # of the free memory, that weights may take before accelerate places them

# The small model on which an architecture is tried, as it differs from the file's.
ATTEMPT = {"num_hidden_layers": 1, "vocab_size": 512, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


def load(source: Path, settings: ChatSettings) -> Transformer | SerialTransformer | EncoderDecoder:
    """Load a folder or a GGUF file on the calling thread, which is the one that must use it.

    Raises: GgufError for a file that holds no model, or a damaged one; what transformers raises for a folder;
    Unsupported for a model with an encoder that can't be served; ValueError for tasks that don't fit such a one.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    threads = settings.threads or cores()
    torch.set_num_threads(threads)
    kernels.use_threads(threads)
    if source.is_dir() and AutoConfig.from_pretrained(source).is_encoder_decoder:
        return _with_encoder(source, settings, threads)
    served = (_of_gguf if source.is_file() else _of_folder)(source, settings, threads)
    served.forward([PROBE])  # the first pass sets up kernels; not at a user's cost
    return served


def _of_folder(folder: Path, settings: ChatSettings, threads: int) -> Transformer | SerialTransformer:
    placed = placement(settings.device, weight_bytes(folder), psutil.virtual_memory().available)
    with one_at_a_time:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=_dtype(settings), **placed)
    model.eval()
    vocabulary = model.config.get_text_config().vocab_size
    tokenizer = ChatTokenizer(AutoTokenizer.from_pretrained(folder), vocabulary)
    served = _served(model, tokenizer, settings, threads)
    places = set(map(str, getattr(model, "hf_device_map", {"": "cpu"}).values()))
    if isinstance(served, Transformer) and places == {"cpu"}:
        packed = settings.weights == "auto" and model.dtype is torch.bfloat16
        served.run(plans.step(model, folder, packed=packed))
    return served


def _with_encoder(folder: Path, settings: ChatSettings, threads: int) -> EncoderDecoder:
    """An encoder-decoder. It has been tried, and its kernels are set up."""
    device = _device(settings)
    with one_at_a_time:
        model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=_dtype(settings)).to(device)
    model.eval()
    context = _context(model.config, settings)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    start = Start.of(model, tokenizer, settings.tasks)
    known = seq2seq.vocabularies(model)
    source = SourceTokenizer(tokenizer, known, start, settings.tasks, input=context, context=context)
    try:
        served = seq2seq.checked(
            model, lambda: EncoderDecoder(model, source, context=context, slots=settings.streams, threads=threads)
        )
    except Unsupported as error:
        raise Unsupported(
            f"A model of this kind ({model.config.model_type}) can't be served, because {error}."
        ) from None
    if device.type == "cpu":
        packed = settings.weights == "auto" and model.dtype is torch.bfloat16
        # In this order: the reader's packed weights take the place of projections that the writer's modules need.
        write = plans.step(model, folder, packed=packed, modules=served.writer)
        served.run(plans.step(model, folder, packed=packed, modules=served.reader), write)
    return served


def _of_gguf(path: Path, settings: ChatSettings, threads: int) -> Transformer | SerialTransformer:
    """The weights as they are, packed, where the kernels can multiply so; else de-quantised."""
    file = gguf.read(path)
    config = gguf_model.config(file)
    tokenizer = ChatTokenizer(gguf_model.tokenizer(file), config.vocab_size)
    weights, dtype, device = GgufWeights(file, config), _dtype(settings), _device(settings)
    if settings.weights == "auto" and device.type == "cpu" and dtype is torch.bfloat16 and kernels.forms():
        model = empty_model(config, dtype)
        slots = _slots(config, settings)
        slots.make(model, config.num_key_value_heads)
        packed = Transformer(model, tokenizer, slots, threads=threads)
        torch.set_num_threads(1)  # small pieces of work: where a core is taken away, threads would wait at each
        step = plans.step_of_gguf(model, weights, lambda: _attempt(file, tokenizer, dtype, threads), threads)
        if step is not None:
            packed.run(step)
            return packed
        torch.set_num_threads(threads)
    model = empty_model(config, dtype)
    weights.write_all(model)
    torch.nn.Module.to(model, device)
    served = _served(model, tokenizer, settings, threads)
    if isinstance(served, Transformer) and device.type == "cpu":
        served.run(plans.step(model, None, packed=False))
    return served


def _attempt(file: GgufFile, tokenizer: ChatTokenizer, dtype: torch.dtype, threads: int) -> None:
    """Try the architecture's code on one layer of its size, with random weights.

    Raises: Unsupported, ValueError, and others, when slots or traced steps give something else.
    """
    with one_at_a_time:
        model = AutoModelForCausalLM.from_config(gguf_model.config(file, **ATTEMPT), dtype=dtype)
    model.eval()
    implementation = model.config._attn_implementation
    served = Transformer(model, tokenizer, Slots(2, 64, segments=2), threads=threads)
    check_slots(served, implementation)
    plans.try_out(model)


def _served(
    model: PreTrainedModel, tokenizer: ChatTokenizer, settings: ChatSettings, threads: int
) -> Transformer | SerialTransformer:
    """The fastest way in which this model gives what its authors' code gives."""
    config, streams = model.config.get_text_config(), settings.streams
    context = _context(config, settings)
    if not has_key_value_cache(model):
        return SerialTransformer(model, tokenizer, context=context, slots=streams, threads=threads)
    implementation = model.config._attn_implementation
    try:
        check_positions(model)
        served = Transformer(model, tokenizer, _slots(config, settings), threads=threads)
        check_slots(served, implementation)
    except Exception as error:  # whatever the modelling code trips over
        log.warning("streams of this model are computed one after another, because %s", error)
        model.set_attn_implementation(implementation)
        return SerialTransformer(model, tokenizer, context=context, slots=streams, threads=threads)
    return served


def _slots(config: PretrainedConfig, settings: ChatSettings) -> Slots:
    count = settings.streams + settings.kept
    return Slots(count, _context(config, settings), segments=count)


def _context(config: PretrainedConfig, settings: ChatSettings) -> int:
    limit = getattr(config, "max_position_embeddings", None) or settings.context
    return min(settings.context, limit)


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


def _device(settings: ChatSettings) -> torch.device:
    """Where a model goes that is not placed by accelerate."""
    if settings.device != "auto":
        return torch.device(settings.device)
    # A CUDA build names its device also on a machine that has none, unless it is asked to check.
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
