"""The tokenizer of a model with an encoder: texts and tasks to the encoder's input and the reply's start."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipelines.chat.model.tokenizer import PLAIN_TEMPLATE, ChatTokenizer
from pipelines.chat.tasks import Task
from pipelines.events import Message, StageError, Tool

LANGUAGE = re.compile(r"[a-z]{2,3}_[A-Z]{2}")  # as mBART's tokens are
UNLIMITED = 1 << 20  # what tokenizers say that have no limit is far more
PLAIN = Task()


@dataclass(frozen=True)
class Start:
    """The decoder's first tokens: what begins every reply, and what a model or a language forces behind it."""

    first: int | None
    forced: int | None
    languages: bool = False  # whether tasks choose the target language
    replaced: bool = False  # whether it stands in the place of the first token, as in mBART; else behind it

    @classmethod
    def of(cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tasks: Mapping[str, Task]) -> "Start":
        """The start that the model's configuration and generation config want."""
        generation, config = model.generation_config, model.config

        def said(name: str) -> int | None:
            for each in (generation, config):
                if (value := getattr(each, name, None)) is not None:
                    return int(value)
            return None

        first = said("decoder_start_token_id")
        if first is None:
            first = said("bos_token_id")
        language = first is not None and LANGUAGE.fullmatch(str(tokenizer.convert_ids_to_tokens(first))) is not None
        targets = any(task.target for task in tasks.values())
        return cls(first, said("forced_bos_token_id"), targets, language or first is None)

    @property
    def count(self) -> int:
        """How many tokens it has."""
        return 1 if self.replaced and self.forced is None else 1 + (self.forced is not None or self.languages)

    def tokens(self, target: int | None) -> list[int] | None:
        """The start of a reply in the ``target`` language, by its token; None where one must be chosen."""
        if self.replaced and self.forced is None:
            first = self.first if target is None else target
            return None if first is None else [first]
        forced = self.forced if target is None else target
        if self.first is None or (forced is None and self.languages):
            return None
        return [self.first] if forced is None else [self.first, forced]


class SourceTokenizer(ChatTokenizer):
    """Reads one text rather than a conversation; ``input`` and ``reply`` are the limits of the model, in tokens.

    ``vocabularies`` are how many tokens the encoder and the decoder know.

    Raises: ValueError for a task whose languages the tokenizer does not know.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        vocabularies: tuple[int, int],
        start: Start,
        tasks: Mapping[str, Task],
        *,
        input: int,
        context: int,
    ) -> None:
        if tokenizer.chat_template is None:
            tokenizer.chat_template = PLAIN_TEMPLATE  # is not used
        super().__init__(tokenizer, vocabularies[1])
        limit = tokenizer.model_max_length
        self.input = min(input, limit) if limit < UNLIMITED else input
        self.reply = context - start.count
        self.start = start
        self._known = vocabularies[0]
        self._source = str(getattr(tokenizer, "src_lang", "") or "")
        self._targets = {name: self._language(task.target) for name, task in tasks.items() if task.target}
        self._tasks = dict(tasks)
        for task in tasks.values():
            self._read_as(task.source)
        self._read_as("")

    def render(self, messages: Sequence[Message], tools: Sequence[Tool] = (), *, prefill: bool = False) -> list[int]:
        """The last message as the encoder's input, and the start of the reply. Raises: StageError."""
        return self.encode(messages[-1].content, "", cut=False)[0]

    def encode(self, text: str, task: str, *, cut: bool) -> tuple[list[int], int]:
        """The prompt's token ids for a task, and how many tokens the input has; ``cut`` to the most if it has more.

        Raises: StageError for too long an input that is not to be cut, or where a task must be chosen.
        """
        chosen = self._tasks.get(task, PLAIN)
        start = self.start.tokens(self._targets.get(task))
        if start is None:
            known = ", ".join(self._targets) or "none; [chat.tasks] in the configuration names them"
            message = f"This model translates, and needs to know into which language. The tasks that say so: {known}."
            raise StageError("invalid_request", "task_required", message, param="loquent.task")
        self._read_as(chosen.source)
        most = self.input * self.longest  # a longer text has too many tokens whatever it is; reading it takes seconds
        size = len(chosen.prefix) + len(text)
        if size > most and not cut:
            raise self._too_long(f"{size} characters")
        whole = (chosen.prefix + text)[:most]
        tokens = list(self._tokenizer(whole, verbose=False)["input_ids"])
        count = len(tokens)
        if count > self.input:
            if not cut:
                raise self._too_long(f"{count} tokens")
            tokens = list(self._tokenizer(whole, truncation=True, max_length=self.input)["input_ids"])
        if max(tokens, default=0) >= self._known:
            message = "The message has a token that the model does not know."
            raise StageError("invalid_request", "unsupported_conversation", message)
        if not tokens:
            raise StageError("invalid_request", "invalid_value", "The last message is empty.")
        return [*tokens, *start], count

    def _too_long(self, size: str) -> StageError:
        text = (
            f"The input has {size}, and the model's encoder reads {self.input} tokens at the most. Shorten it, or set "
            '[chat] overflow = "trim", which cuts it.'
        )
        return StageError("invalid_request", "context_length_exceeded", text)

    def _read_as(self, language: str) -> None:
        """Read the next text as one in this language, "" for the tokenizer's own."""
        tokenizer: Any = self._tokenizer
        if not hasattr(tokenizer, "src_lang"):
            if language:
                raise ValueError(f"the model's tokenizer has no source languages, and a task names {language!r}")
            return
        if (language or self._source) != tokenizer.src_lang:
            self._language(language or self._source)
            tokenizer.src_lang = language or self._source

    def _language(self, code: str) -> int:
        """The token of a language. Raises: ValueError where there is none."""
        tokenizer: Any = self._tokenizer
        for name in (code, f"__{code}__"):
            id = tokenizer.convert_tokens_to_ids(name)
            if isinstance(id, int) and id != tokenizer.unk_token_id:
                return id
        raise ValueError(f"[chat.tasks] names the language {code!r}, which the model's tokenizer does not know")
