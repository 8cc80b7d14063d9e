"""Constrained decoding: which tokens may follow, so that a reply keeps to a JSON schema, an expression or a grammar.

llguidance (https://github.com/guidance-ai/llguidance, MIT) compiles the grammars and computes the masks; what was
measured of it is in docs/decisions/0018.
"""

import json
import logging
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from pipelines.chat.model.interface import Grammar
from pipelines.chat.model.schemas import BY_NAME, COMPACT, LENIENT, REFUSED
from pipelines.chat.model.shortest import least_tokens
from pipelines.events import StageError

log = logging.getLogger(__name__)

LARGEST = 256 * 1024  # characters of a grammar
CACHED = 64  # compiled grammars
CACHED_CHARACTERS = 4 * 1024 * 1024  # of their sources together
LEAST_RESERVE = 32  # tokens for a short text's end; a long schema has more to say
CHARACTERS_A_TOKEN = 8  # of a schema, about, for a token of its shortest text
SIGNS, TRIES = 32, 4000  # that are tried behind one token, and in a reply: each costs two masks
LOCATED = 64  # parts of a refused schema that are compiled to find the one at fault

# Bounds of one grammar. Masks are computed between two forward passes of all streams, so a grammar whose mask takes
# long ends its own stream. Fuel is about 14,000 a millisecond, items about 20,000.
LIMITS = LLParserLimits(
    initial_lexer_fuel=500_000,
    step_lexer_fuel=100_000,
    step_max_items=20_000,
    max_lexer_states=50_000,
    max_grammar_size=200_000,
    precompute_large_lexemes=False,
    verbose_errors=False,
)

Bits = npt.NDArray[np.uint32]

# Tokens that end JSON values. "Ġ", "Ċ" and "▁" are white space in vocabularies.
QUOTES = re.compile(r'[ĠĊ▁]*"{1,2}[\]}]*')
BRACKETS = re.compile(r"[ĠĊ▁]*(\[\]|\{\})?[\]}]*(?<=[\]}])")
SIGN = re.compile(r"[!-~]")
LETTERS = re.compile(r"[bcdghjkmqvwxyz]")  # which only strings hold: not true, false, null, nor a number


def _source(grammar: Grammar) -> str:
    """As llguidance reads it. Raises: StageError for what is no JSON."""
    if grammar.kind == "regex":
        return LLMatcher.grammar_from_regex(grammar.source)
    if grammar.kind == "lark":
        return LLMatcher.grammar_from_lark(grammar.source)
    try:
        options: Any = COMPACT if grammar.strict else LENIENT
        return LLMatcher.grammar_from_json_schema(grammar.source, overrides=options)
    except (ValueError, RecursionError) as error:
        raise _refused(f"the schema can't be read: {error}") from None


class Grammars:
    """Compiles grammars for one tokenizer.

    Its table is built by a thread while the model loads: it takes half a second, in which Python stands still.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocabulary: int | None, ends: frozenset[int]) -> None:
        self._vocabulary = max(vocabulary or 0, len(tokenizer))
        self._tokenizer: LLTokenizer | None = None
        self._closing: Closing | None = None
        self._compiled: OrderedDict[tuple[str, Grammar], tuple[LLMatcher, int]] = (
            OrderedDict()
        )  # the most recently used last
        self._characters = 0  # of their sources
        self._lock = threading.Lock()
        self._thread = threading.Thread(
            target=self._build, args=(tokenizer, sorted(ends)), name="grammars", daemon=True
        )
        self._thread.start()

    def _build(self, tokenizer: PreTrainedTokenizerBase, ends: list[int]) -> None:
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            return
        try:
            text = _known(tokenizer.backend_tokenizer.to_str())
            slices = LLTokenizer.json_slices()
            made = LLTokenizer(text, n_vocab=self._vocabulary, eos_token=ends, slices=slices)
            self._closing = Closing(tokenizer.get_vocab(), self._vocabulary, ends)
        except Exception as error:  # whatever the library does not understand of a tokenizer
            log.warning("replies of this model can't be constrained: %s", error)
            return
        self._tokenizer = made

    def constrain(self, grammar: Grammar, tenant: str = "") -> "GrammarConstraint":
        """A constraint that holds a reply to this grammar, from its first token on.

        Raises: StageError for a grammar that is wrong, too large or too complex, and for a tokenizer that has no table.
        """
        if len(grammar.source) > LARGEST:
            raise _refused(f"it has {len(grammar.source)} characters, and {LARGEST} are the most")
        with self._lock:
            matcher, reserve = self._find(grammar, tenant)
        closing = self._closing if grammar.json or grammar.kind == "json_schema" else None
        return GrammarConstraint(matcher.deep_copy(), self._vocabulary, closing, reserve)

    def _find(self, grammar: Grammar, tenant: str) -> tuple[LLMatcher, int]:
        """The compiled grammar, and the tokens that its end may take. Its time reveals no other tenant's grammars."""
        key = (tenant, grammar)
        if (found := self._compiled.get(key)) is not None:
            self._compiled.move_to_end(key)
            return found
        try:
            matcher = self._compile(grammar)
        except StageError as error:
            if grammar.kind != "json_schema" or error.code != REFUSED:
                raise
            raise StageError(error.kind, error.code, error.message, param=self._fault(grammar)) from None
        found = self._compiled[key] = matcher, _reserve(grammar)
        self._characters += len(grammar.source)
        while len(self._compiled) > CACHED or self._characters > CACHED_CHARACTERS:
            (_, oldest), _ = self._compiled.popitem(last=False)
            self._characters -= len(oldest.source)
        return found

    def _compile(self, grammar: Grammar) -> LLMatcher:
        self._thread.join()
        if self._tokenizer is None:
            raise StageError(
                "invalid_request", "unsupported_parameter", "This model's tokenizer does not allow constrained replies."
            )
        matcher = LLMatcher(self._tokenizer, _source(grammar), log_level=0, limits=LIMITS)
        if not matcher.is_error():
            matcher.deep_copy().compute_bitmask()  # the first mask costs most, and here it delays no other stream
        if matcher.is_error():
            raise _refused(matcher.get_error().partition("\n")[0])
        return matcher

    def _fault(self, grammar: Grammar) -> str:
        """Where a schema that was refused is at fault: the path of its smallest part that is refused too."""
        try:
            part: Any = json.loads(grammar.source)
        except (ValueError, RecursionError):
            return ""
        if not isinstance(part, dict):
            return ""
        root = {key: part[key] for key in ("$defs", "definitions") if isinstance(part.get(key), dict)}
        tries = LOCATED
        path: list[str] = []
        while True:
            for name, inner in _parts(part):
                tries -= 1
                if tries < 0:
                    return ".".join(path)
                if not self._fits(Grammar("json_schema", json.dumps(root | inner), grammar.strict)):
                    path += name
                    part = inner
                    break
            else:
                return ".".join(path)

    def _fits(self, grammar: Grammar) -> bool:
        try:
            self._compile(grammar)
        except StageError:
            return False
        return True


def _reserve(grammar: Grammar) -> int:
    """Tokens that bringing a text to its end may take, about."""
    reserve = LEAST_RESERVE + len(grammar.source) // CHARACTERS_A_TOKEN
    if grammar.kind != "json_schema":
        return reserve
    try:
        return max(reserve, LEAST_RESERVE + least_tokens(json.loads(grammar.source)))
    except (ValueError, TypeError, AttributeError, RecursionError):  # keywords of other types than they have
        return reserve


def _parts(schema: Any) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """The schemas directly within a schema, each with its path."""
    if not isinstance(schema, dict):
        return
    for key in BY_NAME:
        inner = schema.get(key)
        for name, each in inner.items() if isinstance(inner, dict) else ():
            if isinstance(each, dict):
                yield [key, str(name)], each
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield [key], schema[key]
    for key in ("anyOf", "allOf", "oneOf", "prefixItems"):
        inner = schema.get(key)
        for index, each in enumerate(inner) if isinstance(inner, list) else ():
            if isinstance(each, dict):
                yield [key, str(index)], each


def _refused(why: str) -> StageError:
    return StageError("invalid_request", REFUSED, f"What the reply must be can't be compiled: {why}.")


def _known(described: str) -> str:
    """A tokenizer's JSON with a decoder that llguidance knows, in the place of one that decodes the same (T5's)."""
    tokenizer = json.loads(described)
    decoder = tokenizer.get("decoder") or {}
    if decoder.get("type") != "Metaspace":
        return described
    space = {"type": "Replace", "pattern": {"String": decoder["replacement"]}, "content": " "}
    tokenizer["decoder"] = {"type": "Sequence", "decoders": [space, {"type": "ByteFallback"}, {"type": "Fuse"}]}
    return json.dumps(tokenizer)


class Closing:
    """The tokens that bring JSON to its end, for replies whose tokens run short."""

    def __init__(self, vocabulary: Mapping[str, int], size: int, ends: Sequence[int]) -> None:
        self.quotes, self.brackets, self.letters = (
            _bits([id for token, id in vocabulary.items() if kind.fullmatch(token)], size)
            for kind in (QUOTES, BRACKETS, LETTERS)
        )
        self.brackets |= _bits(ends, size)
        self.quoting = frozenset(id for token, id in vocabulary.items() if '"' in token)
        signs = sorted(
            (token for token in vocabulary if SIGN.fullmatch(token)), key=lambda sign: (sign.isalnum(), sign)
        )
        self.signs = [vocabulary[sign] for sign in signs if vocabulary[sign] < size]


def _bits(ids: Iterable[int], size: int) -> Bits:
    bits = np.zeros(-(-size // 32), dtype=np.uint32)
    for id in ids:
        if id < size:
            bits[id // 32] |= np.uint32(1 << id % 32)
    return bits


class GrammarConstraint:
    """Where one reply stands in its grammar."""

    def __init__(self, matcher: LLMatcher, vocabulary: int, closing: "Closing | None" = None, reserve: int = 0) -> None:
        self.reserve = reserve  # tokens that bringing the text to its end may take
        self._matcher = matcher
        self._closing = closing
        self._tries = TRIES  # that are left
        self._seen: set[bytes] = set()  # states since a string's closing began, at most one a token
        self._words = -(-vocabulary // 32)

    @property
    def done(self) -> bool:
        """Whether nothing may follow."""
        return self._matcher.is_stopped()

    def forced(self, most: int) -> list[int]:
        """Up to ``most`` tokens that must follow now, whatever the model says."""
        return self._matcher.compute_ff_tokens()[:most] if most > 0 else []

    def allowed(self, tokens: Sequence[int]) -> int:
        """How many of these tokens may follow one another now."""
        return self._matcher.validate_tokens(list(tokens)) if tokens else 0

    def masks(self, ahead: Sequence[int], wanted: int, *, closing: bool = False) -> Bits:
        """Which tokens may follow the last ``wanted`` - 1 of the tokens ``ahead``, and all of them: (wanted, V / 32).

        When ``closing``, those alone that bring JSON to its end, where there are such.

        Raises: StageError when the grammar has become too complex.
        """
        masks = np.zeros((wanted, self._words), dtype=np.uint32)
        first = len(ahead) + 1 - wanted
        self.take(ahead[:first])
        for row in range(wanted):
            if row:
                self.take(ahead[first + row - 1 : first + row])
            self._matcher.unsafe_compute_mask_ptr(masks[row].ctypes.data, masks[row].nbytes)
            if closing and self._closing is not None:
                masks[row] = self._ending(masks[row], self._closing)
        self._check()
        if ahead:
            self._matcher.rollback(len(ahead))
        return masks

    def _ending(self, mask: Bits, closing: "Closing") -> Bits:
        """Of the tokens that may follow, (V / 32), those that end a value; those that lead there where none does."""
        quotes, brackets = mask & closing.quotes, mask & closing.brackets
        within = (mask & closing.letters).any()  # a string, where brackets end nothing
        ends = quotes if within or not brackets.any() else brackets
        return ends if ends.any() else self._forward(mask, closing)

    def _forward(self, mask: Bits, closing: "Closing") -> Bits:
        """A sign that leads to another part of a string's pattern than any before, where there is one.

        So each state of the pattern is visited once, and one is found at which the string may end.
        """
        signs = [id for id in closing.signs if mask[id // 32] >> np.uint32(id % 32) & 1]
        self._seen.add(self._state(mask, closing))
        for id in signs[: min(SIGNS, self._tries)]:
            self._tries -= 1
            self._matcher.consume_token(id)
            state = self._state(np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint32), closing)
            self._matcher.rollback(1)
            if state not in self._seen:
                return _bits([id], 32 * len(mask))
        return mask

    def _state(self, mask: Bits, closing: "Closing") -> bytes:
        """What tells the states of a pattern apart: the tokens that may follow, and those behind one sign more."""
        following = b""
        for id in closing.signs:
            if mask[id // 32] >> np.uint32(id % 32) & 1:
                self._matcher.consume_token(id)
                following = self._matcher.compute_bitmask()
                self._matcher.rollback(1)
                break
        return blake2b(mask[: self._words].tobytes() + following, digest_size=16).digest()

    def take(self, tokens: Sequence[int]) -> None:
        """The reply goes on with these tokens. Raises: StageError where they are not allowed."""
        if tokens:
            self._matcher.consume_tokens(list(tokens))
            self._check()
            if self._seen and self._closing is not None and not self._closing.quoting.isdisjoint(tokens):
                self._seen.clear()  # another string

    def _check(self) -> None:
        if self._matcher.is_error():
            raise StageError(
                "invalid_request",
                "grammar_too_complex",
                f"The reply can't be held to what it must be: {self._matcher.get_error().partition(chr(10))[0]:.300}",
            )
