"""A causal language model of ``transformers``, as the engine wants it."""

import logging
import os
import re
from collections.abc import Iterator, Sequence
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

from pipelines.chat.models import weight_bytes
from pipelines.chat.sampling import Sampler
from pipelines.chat.settings import ChatSettings
from pipelines.events import Message, Sampling, StageError
from pipelines.packages import cache_folder

log = logging.getLogger(__name__)

MEMORY_SHARE = 0.9  # of the free memory, that weights may take before accelerate places them

PLAIN_TEMPLATE = (  # for base models, which come without a template of their own
    "{% for message in messages %}{{ message.role | capitalize }}: {{ message.content }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


class ChatTokenizer:
    """A model's tokenizer and chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
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
    """Runs the model's own modelling code, one stream at a time, with a key-value cache for each."""

    def __init__(self, model: PreTrainedModel, tokenizer: ChatTokenizer, *, context: int) -> None:
        self.tokenizer = tokenizer
        self.context = context
        self.stop_tokens = _stop_tokens(model, tokenizer._tokenizer)
        self._model = model
        self._cached = _has_key_value_cache(model)
        if not self._cached:
            log.warning("the model has no key-value cache of the usual form: every token reads the whole text again")

    def generate(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[int]:
        """Sample token ids, one for each ``next``, without end."""
        sampler = Sampler(sampling)
        text = torch.tensor([list(prompt)], device=self._model.device)  # (1, T)
        cache = DynamicCache(config=self._model.config) if self._cached else None
        new = text
        while True:
            token = sampler.draw(self._logits(new, cache))
            yield token
            new = torch.tensor([[token]], device=self._model.device)  # (1, 1)
            if cache is None:
                new = text = torch.cat([text, new], dim=1)

    @torch.inference_mode()
    def _logits(self, tokens: Tensor, cache: DynamicCache | None) -> Tensor:
        """(1, T) ids to the logits of the next one, (V,)."""
        output = self._model(input_ids=tokens, past_key_values=cache, use_cache=cache is not None)
        logits: Tensor = output.logits[0, -1]
        return logits


def load(folder: Path, settings: ChatSettings) -> Transformer:
    """Load the model in ``folder`` on the calling thread, which is the one that must use it."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    torch.set_num_threads(settings.threads or _cores())
    tokenizer = ChatTokenizer(AutoTokenizer.from_pretrained(folder))
    placed = placement(settings.device, weight_bytes(folder), psutil.virtual_memory().available)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=_dtype(settings), **placed)
    model.eval()
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None) or settings.context
    transformer = Transformer(model, tokenizer, context=min(settings.context, limit))
    next(transformer.generate([0], Sampling(temperature=0)))  # the first pass sets up kernels; not at a user's cost
    return transformer


def _cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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


def _stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    configured = model.generation_config.eos_token_id if model.generation_config else None
    ids = [configured] if isinstance(configured, int) else list(configured or ())
    return frozenset(id for id in (*ids, tokenizer.eos_token_id) if id is not None)
