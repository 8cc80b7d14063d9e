"""Tiny seeded encoder-decoders, saved as people save models, and what Hugging Face's code says of them."""

import string
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    GenerationConfig,
    NllbTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    set_seed,
)

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
BOS, PAD, EOS = 0, 1, 2
LETTERS = [letter for letter in string.printable if letter == " " or letter.isprintable()]
LANGUAGES = ["eng_Latn", "deu_Latn", "fra_Latn"]
FIRST_LANGUAGE = len(SPECIAL) + len(LETTERS)
VOCABULARY = FIRST_LANGUAGE + len(LANGUAGES) + 1  # NLLB's has a mask too

T5: dict[str, Any] = {
    "d_model": 32,
    "d_kv": 16,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "decoder_start_token_id": PAD,
}
BART: dict[str, Any] = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "decoder_start_token_id": EOS,
    "is_encoder_decoder": True,
}
KINDS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {  # architecture, configuration, generation config
    "t5": ("t5", T5, {}),
    "flan": ("t5", T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "d_kv": 32}, {}),
    "mt5": ("mt5", T5 | {"feed_forward_proj": "gated-gelu", "d_kv": 8}, {}),
    "umt5": ("umt5", T5 | {"feed_forward_proj": "gated-gelu"}, {}),
    "bart": ("bart", BART, {"forced_bos_token_id": BOS, "no_repeat_ngram_size": 3, "min_length": 12}),
    "marian": (
        "marian",
        BART | {"decoder_start_token_id": PAD, "scale_embedding": True, "decoder_vocab_size": VOCABULARY},
        {"bad_words_ids": [[PAD], [30, 31]], "no_repeat_ngram_size": 2},
    ),
    "mbart": ("mbart", BART | {"scale_embedding": True}, {"forced_bos_token_id": FIRST_LANGUAGE + 1}),
    "nllb": ("m2m_100", BART | {"scale_embedding": True}, {"no_repeat_ngram_size": 2}),
}


def letter_tokenizer(limit: int | None = None) -> PreTrainedTokenizerFast:
    """One token a letter of ASCII behind the special ones; every text ends with an end token."""
    names = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = [names.pre_tokenize_str(letter)[0][0] for letter in LETTERS]
    tokenizer = Tokenizer(models.BPE({token: id for id, token in enumerate([*SPECIAL, *letters])}, []))
    tokenizer.pre_tokenizer = names
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([*SPECIAL, *LANGUAGES])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", EOS)])
    limits = {} if limit is None else {"model_max_length": limit}
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special, **limits)


def language_tokenizer() -> NllbTokenizer:
    """NLLB's own, with a vocabulary of letters: a text begins with the language that it is in."""
    letters = ["▁", *(letter for letter in LETTERS if letter != " ")]
    vocabulary = {token: id for id, token in enumerate([*SPECIAL, *letters])}
    return NllbTokenizer(vocab=vocabulary, merges=[], extra_special_tokens=LANGUAGES, src_lang=LANGUAGES[0])


def tiny_seq2seq(folder: Path, kind: str, *, limit: int | None = None, **generation: Any) -> Path:
    """A seeded random model of this kind; its tokenizer says that it reads ``limit`` tokens."""
    set_seed(11)
    architecture, config, rules = KINDS[kind]
    ids = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
    model: PreTrainedModel = AutoModelForSeq2SeqLM.from_config(
        AutoConfig.for_model(architecture, vocab_size=VOCABULARY, **ids | config)
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:  # so that replies vary, and don't repeat one token
                small = "t5" not in architecture and ("embed_tokens" in name or "shared" in name)
                weight.normal_(std=(0.05 if small else 2.0) * weight.shape[1] ** -0.5)
    start = config["decoder_start_token_id"]
    model.generation_config = GenerationConfig(**ids, decoder_start_token_id=start, **rules | generation)
    model.save_pretrained(folder)
    tokenizer: PreTrainedTokenizerBase = language_tokenizer() if kind == "nllb" else letter_tokenizer(limit)
    tokenizer.save_pretrained(folder)
    return folder


class Reference:
    """The model as its authors' code runs it."""

    def __init__(self, folder: Path) -> None:
        self.model: Any = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32)
        self.model.eval()

    @torch.inference_mode()
    def greedy(self, source: list[int], count: int, starts: int, **more: Any) -> list[int]:
        """Up to ``count`` tokens that ``generate`` says behind the start of ``starts`` tokens, less the end token."""
        made = self.model.generate(
            torch.tensor([source]), num_beams=1, do_sample=False, max_new_tokens=count + starts - 1, **more
        )[0].tolist()
        said: list[int] = made[starts:]
        return said[: said.index(EOS)] if EOS in said else said
