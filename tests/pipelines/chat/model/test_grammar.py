"""Grammars are compiled within bounds, and hold a reply to what they allow."""

import json
import random
import threading
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import pytest
from llguidance import LLMatcher
from transformers import PreTrainedTokenizerBase

from pipelines.chat.model import gguf, gguf_model
from pipelines.chat.model import grammar as grammars
from pipelines.chat.model.files import prepare
from pipelines.chat.model.grammar import Bits, GrammarConstraint, Grammars
from pipelines.chat.model.interface import Grammar
from pipelines.chat.model.schemas import closed
from pipelines.chat.model.shortest import least_tokens
from pipelines.downloads.progress import finish
from pipelines.events import StageError
from tests.schemas import Schema, random_schema
from tests.support import valid

Compiler = tuple[PreTrainedTokenizerBase, Grammars]


@pytest.fixture(scope="module")
def compiler() -> Compiler:
    """The bundled model's tokenizer, and grammars for it."""
    tokenizer = gguf_model.tokenizer(gguf.read(finish(prepare("smollm2-135m-instruct", threading.Event()))))
    return tokenizer, Grammars(tokenizer, len(tokenizer), frozenset({tokenizer.eos_token_id}))


def schema(of: object, *, strict: bool = True) -> Grammar:
    return Grammar("json_schema", json.dumps(of), strict=strict)


def ids(mask: Bits) -> list[int]:
    return [int(id) for id in np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))]


def spoken(compiler: Compiler, constraint: GrammarConstraint, rng: random.Random, *, closing: int) -> str:
    """A text of tokens drawn by chance, from the place ``closing`` on such that bring it to its end."""
    tokenizer, _ = compiler
    said: list[int] = []
    while not constraint.done and len(said) < closing + 400:
        tokens = constraint.forced(16) or [rng.choice(ids(constraint.masks([], 1, closing=len(said) >= closing)[0]))]
        if tokens == [tokenizer.eos_token_id]:
            break
        constraint.take(tokens)
        said += tokens
    return str(tokenizer.decode(said))


@pytest.mark.parametrize("seed", range(150))
def test_whatever_is_drawn_is_valid_and_comes_to_an_end(compiler: Compiler, seed: int) -> None:
    of = random_schema(seed)
    text = spoken(compiler, compiler[1].constrain(schema(of)), random.Random(seed), closing=seed % 60)
    assert valid(of, json.loads(text)), text


@pytest.mark.parametrize("seed", range(20))
def test_a_text_can_be_brought_to_its_end_anywhere_in_a_pattern(compiler: Compiler, seed: int) -> None:
    of = {
        "type": "array",
        "items": {"type": "string", "pattern": r"^[a-z]+@[a-z]+(-[a-z]+)*\.(com|org)$"},
        "minItems": 3,
    }
    text = spoken(compiler, compiler[1].constrain(schema(of)), random.Random(seed), closing=seed)
    assert valid(of, json.loads(text)), text


@pytest.mark.parametrize(
    ("kind", "source", "text"),
    [("regex", r"(yes|no), \d{2}", "no, 42"), ("lark", 'start: "a" inner\ninner: /b+/ | "c"', "ac")],
)
def test_expressions_and_grammars_hold(compiler: Compiler, kind: str, source: str, text: str) -> None:
    tokenizer, made = compiler
    constraint = made.constrain(Grammar("regex" if kind == "regex" else "lark", source))
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert constraint.allowed(tokens) == len(tokens)
    with pytest.raises(StageError, match="held to"):
        constraint.take(tokenizer("maybe", add_special_tokens=False)["input_ids"])


def test_masks_behind_draft_tokens_are_those_of_each_place(compiler: Compiler) -> None:
    tokenizer, made = compiler
    constraint = made.constrain(schema({"type": "array", "items": {"enum": [1, 2, "three"]}}))
    ahead: Sequence[int] = tokenizer('[1, "three"', add_special_tokens=False)["input_ids"]
    together = constraint.masks(ahead, len(ahead) + 1)
    for place in range(len(ahead) + 1):
        assert ids(constraint.masks([], 1)[0]) == ids(together[place])
        constraint.take(ahead[place : place + 1])
    assert len(together) == len(ahead) + 1


REFUSED: list[tuple[object, str, str]] = [
    (
        {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "strin"}}}},
        "strin",
        "properties.a.items",
    ),
    ({"type": "object", "properties": {"a": {}, "b": {"not": {}}}}, "not", "properties.b"),
    ({"anyOf": [{"type": "string"}, {"$ref": "#/$defs/none"}]}, "none", "anyOf.1"),
    ({"$ref": "https://example.com/schema.json"}, "example.com", ""),
    ({"type": "string", "minLength": 5, "maxLength": 2}, "Unsatisfiable", ""),
    ({"type": "string", "pattern": "(unclosed"}, "", ""),
    ([], "", ""),
]


@pytest.mark.parametrize(("of", "says", "where"), REFUSED)
def test_a_schema_that_can_not_be_compiled_is_refused_with_its_place(
    compiler: Compiler, of: object, says: str, where: str
) -> None:
    with pytest.raises(StageError) as error:
        compiler[1].constrain(schema(of))
    assert (error.value.kind, error.value.code) == ("invalid_request", "invalid_grammar")
    assert says in error.value.message
    assert (error.value.param or "") == where


def test_what_can_not_be_enforced_is_left_out_where_that_is_allowed(compiler: Compiler) -> None:
    assert compiler[1].constrain(schema({"type": "array", "uniqueItems": True, "oneOf": [{}]}, strict=False))


def nested(depth: int) -> str:
    return '{"type": "array", "items": ' * depth + "{}" + "}" * depth


HOSTILE = [
    Grammar("json_schema", nested(5_000)),
    Grammar("json_schema", nested(100)),
    Grammar("json_schema", json.dumps({"enum": [f"value {n}" for n in range(30_000)]})),
    Grammar("json_schema", json.dumps({"enum": ["x" * 100_000]})),
    Grammar("regex", "(a{1000}){1000}"),
    Grammar("regex", "((a|b)*c(d|e)*){200}x{1,5000}"),
    Grammar("regex", "(" * 10_000),
    Grammar("lark", "start: a\na: a a | b\nb: b | a"),
    Grammar("lark", "start: " + "(" * 3_000 + '"a"' + ")" * 3_000),
    Grammar("lark", "%import common.NOTHING\nstart: NOTHING"),
    Grammar("lark", "start: %json {\x00}"),
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_a_hostile_grammar_is_refused_or_harmless(compiler: Compiler, number: int) -> None:
    with suppress(StageError):  # any other exception fails the test
        spoken(compiler, compiler[1].constrain(HOSTILE[number]), random.Random(0), closing=0)


def test_garbage_in_the_place_of_a_grammar_is_refused(compiler: Compiler) -> None:
    rng = random.Random(0)
    parts = [
        '"',
        "{",
        "}",
        "start",
        ":",
        "%json",
        "(",
        ")",
        "|",
        "\n",
        "/",
        "[",
        "]",
        "*",
        "a",
        "\\",
        "$",
        "^",
        "é",
        "\x00",
    ]
    for _ in range(500):
        text = "".join(rng.choices(parts, k=rng.randint(1, 40)))
        for grammar in (Grammar("json_schema", text), Grammar("regex", text), Grammar("lark", text)):
            with suppress(StageError):  # any other exception fails the test
                compiler[1].constrain(grammar).masks([], 1)


def test_compiled_grammars_are_cached_for_their_tenant_alone_and_within_bounds(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, made = compiler
    compiled: list[Grammar] = []
    compile_one = made._compile

    def counted(grammar: Grammar) -> LLMatcher:
        compiled.append(grammar)
        return compile_one(grammar)

    monkeypatch.setattr(made, "_compile", counted)
    one = schema({"const": "cached"})
    for tenant in ("a", "a", "b", "a"):
        made.constrain(one, tenant)
    assert len(compiled) == 2
    for number in range(grammars.CACHED + 1):
        made.constrain(schema({"const": number}), "c")
    assert len(made._compiled) == grammars.CACHED
    made.constrain(one, "a")
    assert compiled[-1] == one, "the oldest ones have given way"


def test_two_replies_of_one_grammar_do_not_share_where_they_stand(compiler: Compiler) -> None:
    tokenizer, made = compiler
    first, second = (made.constrain(Grammar("regex", "ab")) for _ in range(2))
    first.take(tokenizer("ab", add_special_tokens=False)["input_ids"])
    assert first.done
    assert not second.done


def test_objects_are_closed_where_the_schema_does_not_open_them() -> None:
    of = {
        "type": "object",
        "properties": {
            "properties": {"type": "object", "properties": {"x": {"enum": [{"properties": {}}]}}},
            "open": {"type": "object", "properties": {}, "additionalProperties": True},
        },
        "$defs": {"any": {"type": "object"}},
    }
    made = closed(of)
    assert made["additionalProperties"] is False
    assert set(made["properties"]) == {"properties", "open"}
    assert made["properties"]["properties"]["additionalProperties"] is False
    assert made["properties"]["properties"]["properties"]["x"] == {"enum": [{"properties": {}}]}
    assert made["properties"]["open"]["additionalProperties"] is True
    assert made["$defs"] == {"any": {"type": "object"}}


@pytest.mark.parametrize(
    ("of", "least"),
    [
        ({"type": "string"}, 8),
        ({"type": "string", "minLength": 300}, 102),
        ({"type": "array", "items": {"$ref": "#/$defs/one"}, "minItems": 10, "$defs": {"one": {"type": "null"}}}, 92),
        ({"type": "object", "properties": {"abc": {"const": "abc"}, "x": {"type": "null"}}, "required": ["abc"]}, 18),
        ({"$ref": "#/$defs/self", "$defs": {"self": {"$ref": "#/$defs/self"}}}, 2),
        ({"anyOf": [{"type": "null"}, {"enum": ["x" * 30]}]}, 12),
    ],
)
def test_what_is_left_for_the_end_grows_with_what_must_be_said(of: Schema, least: int) -> None:
    assert least_tokens(of) == least


def test_a_schema_of_wrong_types_is_no_fault_of_its_estimate(compiler: Compiler) -> None:
    wrongs: list[object] = [
        {"type": "array", "items": {}, "minItems": "x"},
        {"properties": {}, "required": 3},
        {"$defs": []},
    ]
    for wrong in wrongs:
        with suppress(StageError):
            compiler[1].constrain(schema(wrong))


def test_a_schema_that_refers_to_itself_in_many_ways_is_estimated_at_once() -> None:
    itself = {"$ref": "#/$defs/self"}
    many = {"anyOf": [itself] * 100, "properties": {str(number): itself for number in range(100)}}
    assert least_tokens({"$ref": "#/$defs/self", "$defs": {"self": many}}) == 2
