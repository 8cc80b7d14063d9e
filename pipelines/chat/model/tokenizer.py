"""A model's tokenizer and chat template, as the engine wants them."""

import logging
import re
from collections.abc import Sequence

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from pipelines.events import Message, StageError

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
        special = sorted((str(token) for token in tokenizer.added_tokens_decoder.values()), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, special))) if special else None

    def render(self, messages: Sequence[Message]) -> list[int]:
        """The prompt's token ids. Raises: StageError when the template refuses the conversation, or the model would."""
        conversation = [{"role": message.role, "content": self._defuse(message.content)} for message in messages]
        try:
            text = self._tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
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

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of these ids, without special tokens."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _defuse(self, content: str) -> str:
        """Break up what would become a control token: a message must not end itself and speak as somebody else."""
        if self._special is None:
            return content
        return self._special.sub(lambda found: found[0][:1] + " " + found[0][1:], content)
