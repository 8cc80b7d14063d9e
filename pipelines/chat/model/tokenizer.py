"""A model's tokenizer and chat template, as the engine wants them."""

import json
import logging
import re
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from pipelines.chat.calls.prompt import OPEN, by_template, described, in_words
from pipelines.chat.model.grammar import Grammars
from pipelines.chat.model.interface import Constraint, Grammar
from pipelines.events import Message, StageError, Tool

log = logging.getLogger(__name__)

# What ends a turn in the chat formats of today. A GGUF file names one token, and models say others too.
ENDS = ("<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>")

PLAIN_TEMPLATE = (  # for base models, which come without a template of their own
    "{% for message in messages %}{{ message.role | capitalize }}: {{ message.content }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


class ChatTokenizer:
    """A model's tokenizer and chat template; ``vocabulary`` is how many tokens the model has embeddings of."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocabulary: int | None = None) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        special_tokens = {str(token): id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
        ends = {tokenizer.eos_token_id, *(special_tokens.get(name) for name in ENDS)}
        self.ends = frozenset(id for id in ends if id is not None)
        self.longest = max(map(len, tokenizer.get_vocab()))
        if tokenizer.chat_template is None:
            log.warning("the model has no chat template; a plain one is used")
            tokenizer.chat_template = PLAIN_TEMPLATE
        self._knows_calls = OPEN in str(tokenizer.chat_template)
        names = [str(token) for token in tokenizer.added_tokens_decoder.values()]
        self._added = frozenset(names)
        special = sorted(names, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, special))) if special else None
        self._grammars = Grammars(tokenizer, vocabulary, self.ends)

    def render(self, messages: Sequence[Message], tools: Sequence[Tool] = (), *, prefill: bool = False) -> list[int]:
        """The prompt's token ids; with ``prefill`` the last message stays open, for the reply to continue it.

        Raises: StageError when the template refuses the conversation, or the model would.
        """
        if self._knows_calls:
            conversation = by_template(messages, self._defuse)
        else:
            conversation = in_words(messages, tools, self._defuse)
        offered: Any = [described(tool) for tool in tools] if tools and self._knows_calls else None
        try:
            text = self._tokenizer.apply_chat_template(
                conversation,
                tools=offered,
                tokenize=False,
                add_generation_prompt=not prefill,
                continue_final_message=prefill,
            )
        except (TemplateError, ValueError, TypeError) as error:
            raise StageError(
                "invalid_request",
                "unsupported_conversation",
                f"The model's chat template does not take this conversation: {error}",
            ) from error
        tokens = list(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        if self._vocabulary is not None and max(tokens, default=0) >= self._vocabulary:
            raise StageError(
                "invalid_request",
                "unsupported_conversation",
                "The conversation, or the model's chat template, has a token that the model does not know.",
            )
        return tokens

    def constrain(self, grammar: Grammar, tenant: str = "") -> Constraint:
        """A constraint to this grammar. Raises: StageError for a wrong grammar, or where none can be enforced."""
        return self._grammars.constrain(grammar, tenant)

    def quoted(self, text: str) -> str:
        """How a Lark grammar refers to this text: by its name where it is one token, else as a string."""
        return text if text in self._added else json.dumps(text)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of these ids, without special tokens."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _defuse(self, content: str) -> str:
        """Break up what would become a control token: a message must not end itself and speak as somebody else."""
        if self._special is None:
            return content
        return self._special.sub(lambda found: found[0][:1] + " " + found[0][1:], content)
