"""How each archive is read: one function a source, which yields a group and a text at a time."""

import ast
import csv
import email
import email.policy
import gzip
import hashlib
import io
import json
import random
import re
from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Any, NamedTuple

import yaml

from pipelines.downloads.archives import Files


def strings(source: str) -> Iterator[tuple[str, str]]:
    """The names and values of every assignment of text in Python source, without running it."""
    known: dict[str, str] = {}
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
            continue
        name = node.targets[0].id
        nodes = node.value.elts if isinstance(node.value, ast.List | ast.Tuple) else [node.value]
        for each in nodes:
            text = _text(each, known)
            if text is not None:
                known[name] = text
                yield name, text


def _text(node: ast.AST, known: dict[str, str]) -> str | None:
    match node:
        case ast.Constant(value=str() as value):
            return value
        case ast.Name(id=name):
            return known.get(name)
        case ast.FormattedValue(value=value):
            return _text(value, known)
        case ast.JoinedStr(values=values):
            parts = [_text(value, known) for value in values]
            return None if None in parts else "".join(part or "" for part in parts)
        case _:
            return None


class Text(NamedTuple):
    """A text of a source."""

    group: str  # what belongs together goes into the same part
    text: str
    language: str = ""  # ISO 639-1; "" is not said


# The sources. Those of one language yield pairs of a group and a text, those of several languages a `Text`.
Texts = Iterator[tuple[str, str]]


def chitchat(archive: Files) -> Texts:
    """Small talk between people."""
    conversations = json.loads(archive.text("chitchat_dataset/dataset.json"))
    for id, conversation in conversations.items():
        for turn in conversation["messages"]:
            for message in turn:
                yield id, message["text"]


SPOKEN = {
    "bengali": "bn", "chinese": "zh", "dutch": "nl", "french": "fr", "german": "de", "hebrew": "he", "hindi": "hi",
    "hinglish": "hi", "indonesian": "id", "italian": "it", "japanese": "ja", "korean": "ko", "marathi": "mr",
    "oriya": "or", "persian": "fa", "portuguese": "pt", "russian": "ru", "spanish": "es", "swedish": "sv",
    "tamil": "ta", "telugu": "te", "thai": "th", "traditionalchinese": "zh", "turkish": "tr", "ukrainian": "uk",
    "urdu": "ur", "yoruba": "yo",
}  # fmt: skip


def chatterbot(archive: Files, *, english: bool) -> Iterator[Text]:
    """Questions to chatbots, in English or in other languages."""
    for name, content in archive.matching(r"chatterbot_corpus/data/[^/]+/[^/]+\.yml"):
        folder = name.split("/")[2]
        if (folder == "english") == english:
            for index, conversation in enumerate(yaml.safe_load(content)["conversations"]):
                for text in conversation:
                    yield Text(f"{name}{index}", str(text), SPOKEN.get(folder, ""))


def home(archive: Files, *, english: bool) -> Iterator[Text]:
    """Commands to a house, from the grammars of each language."""
    for name, content in archive.matching(r"home_assistant_intents/data/[^/]+\.json"):
        if name.endswith("/en.json") == english:
            language = re.split("[-_.]", name.rsplit("/", 1)[-1])[0]
            for text in _expanded(json.loads(content), random.Random(name), 3000 if english else 80):
                yield Text(text, text, language)


WORDS = (
    "kitchen",
    "bedroom",
    "hall",
    "garage",
    "lamp",
    "fan",
    "heating",
    "radio",
    "blinds",
    "door",
)  # of a user's house


def _expanded(grammar: dict[str, Any], rng: random.Random, limit: int) -> Iterator[str]:
    from hassil.intents import Intents
    from hassil.parse_expression import parse_sentence

    intents = Intents.from_dict(grammar)
    templates = [
        text for intent in grammar["intents"].values() for data in intent["data"] for text in data["sentences"]
    ]
    for _ in range(limit):
        yield " ".join(_said(parse_sentence(rng.choice(templates)).expression, intents, rng).split())


def _said(expression: Any, intents: Any, rng: random.Random) -> str:
    """One of the many texts that an expression stands for; hassil itself would list them all."""
    from hassil.expression import Alternative, ListReference, Permutation, RuleReference, Sequence, TextChunk

    match expression:
        case TextChunk():
            return str(expression.original_text)
        case Alternative():
            return _said(rng.choice(expression.items), intents, rng)
        case Permutation() | Sequence():
            items = list(expression.items)
            if isinstance(expression, Permutation):
                rng.shuffle(items)
            return "".join(_said(item, intents, rng) for item in items)
        case RuleReference():
            return _said(intents.expansion_rules[expression.rule_name].expression, intents, rng)
        case ListReference():
            values = getattr(intents.slot_lists.get(expression.list_name), "values", None)
            if values:
                return _said(rng.choice(values).text_in, intents, rng)
            numbers = hasattr(intents.slot_lists.get(expression.list_name), "start")
            return str(rng.randrange(1, 60)) if numbers else rng.choice(WORDS)
    return ""


def persistbench(archive: Files, *, half: int) -> Texts:
    """Requests to assistants; one half of the groups."""
    for _, content in archive.matching(r"inspect_evals/persistbench/benchmark_samples/[^/]+\.jsonl"):
        for line in content.splitlines():
            query = str(json.loads(line)["query"])
            if int(share(query) * 2) == half:
                yield query, query


def freshqa(archive: Files) -> Texts:
    """Questions about facts."""
    content = archive.text("inspect_evals/abstention_bench/data/freshqa/FreshQA_v12182024.csv")
    for row in csv.DictReader(io.StringIO(content.split("\n", 2)[2])):
        if row["question"]:
            yield row["question"], row["question"]


def writing(archive: Files) -> Texts:
    """Writing tasks."""
    for line in archive.text("inspect_evals/writingbench/benchmark_all.jsonl").splitlines():
        query = str(json.loads(line)["query"])
        yield query, query


def code(archive: Files) -> Texts:
    """Questions about pieces of code."""
    asked = (
        "What does this do?",
        "Why does this fail?",
        "Can you add a comment to each line?",
        "Make this shorter:",
        "",
    )
    for name, content in archive.matching(r"inspect_evals/(?!tau2|agentdojo|b3|cyberseceval)\w+/\w+\.py"):
        rng = random.Random(name)
        lines = content.splitlines()
        if len(lines) > 60:
            start = rng.randrange(20, len(lines) - 30)
            piece = "\n".join(lines[start : start + rng.randrange(4, 25)])
            yield name, f"{rng.choice(asked)}\n{piece}".strip()


def tickets(archive: Files) -> Texts:
    """What people write to developers of software."""
    rows = csv.DictReader(io.StringIO(archive.text("inspect_evals/swe_lancer/data/all_swelancer_tasks.csv")))
    for row in rows:
        yield row["question_id"], f"{row['title']}\n{row['description'][:1500]}"


def errands(archive: Files) -> Texts:
    """Tasks for agents."""
    for sample in json.loads(archive.text("inspect_evals/mind2web_sc/data/seeact/sample_labeled_all.json")):
        yield sample["confirmed_task"], sample["confirmed_task"]


def security_questions(archive: Files) -> Texts:
    """Questions about attacks, which are none."""
    name = "inspect_evals/cyberseceval_4/threat_intel_reasoning/report_questions.json"
    for sample in json.loads(archive.text(name)):
        yield sample["question_text"], sample["question_text"]


def tau2(archive: Files) -> Texts:
    """Why customers call: airline, shop and telephone company."""
    for name, content in archive.matching(r"inspect_evals/tau2/data/domains/(airline|retail)/tasks\.json"):
        for task in json.loads(content):
            text = task["user_scenario"]["instructions"]["reason_for_call"]
            yield name + text, text
    telecom = gzip.decompress(archive.binary("inspect_evals/tau2/data/domains/telecom/tasks.json.gz"))
    for task in json.loads(telecom):
        text = task["user_scenario"]["instructions"]["reason_for_call"]
        yield text, text


def letters(archive: Files, *, spam: bool) -> Texts:
    """E-mails, spam or not."""
    folders = "spam-1|spam-2" if spam else "easy-ham-1|easy-ham-2|hard-ham-1"
    for name, content in archive.matching(rf"package/data/({folders})/[^/]+\.txt"):
        if (text := _letter(content)) is not None:
            yield name, text


def _letter(content: str) -> str | None:
    """A mail's plain text, without what it quotes."""
    try:
        message = email.message_from_string(content, policy=email.policy.default)
        body = message.get_body(("plain",))
        text = str(body.get_content()) if body is not None else ""
    except (LookupError, ValueError, AttributeError, TypeError):  # the mails are real, and some are broken
        return None
    lines = [line for line in text.splitlines() if not line.startswith((">", "|")) and "http" not in line]
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
    return text if len(text) > 40 else None


def written(_: Files, *, name: str) -> Texts:
    """Written for this project: what people say to an assistant, and harmless questions in the words of attacks."""
    for line in files(__package__).joinpath(name).read_text(encoding="utf-8").splitlines():
        yield line, line


CARRIERS = (
    "{}",
    "{}",
    "{}",
    "it is {}",
    "My number is {}",
    "{} please",
    "Order {}",
    "on {}",
    "here: {}",
    "{}, thanks",
    "no, {}",
)

DETAILS: tuple[Callable[[random.Random], str], ...] = (
    lambda rng: str(rng.randrange(10 ** rng.randrange(1, 10))),
    lambda rng: f"{rng.randrange(1, 29)}.{rng.randrange(1, 13)}.{rng.randrange(1960, 2030)}",
    lambda rng: f"{rng.randrange(1960, 2030)}-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}",
    lambda rng: f"{rng.randrange(24)}:{rng.randrange(60):02}",
    lambda rng: f"{rng.choice('$€£')}{rng.randrange(1, 2000)}.{rng.randrange(100):02}",
    lambda rng: (
        f"+{rng.randrange(1, 99)} {rng.randrange(100, 999)} {rng.randrange(1000, 9999)} {rng.randrange(100, 9999)}"
    ),
    lambda rng: f"{rng.choice(WORDS)}.{rng.choice(WORDS)}{rng.randrange(99)}@{rng.choice(WORDS)}.example",
    lambda rng: (
        f"https://{rng.choice(WORDS)}.example/{rng.choice(WORDS)}/{rng.randrange(9999)}?{rng.choice(WORDS)}={rng.randrange(99)}"
    ),
    lambda rng: f"{''.join(rng.choices('ABCDEFGHKLMNPRSTUVWXYZ', k=rng.randrange(1, 4)))}-{rng.randrange(10**6):06}",
    lambda rng: "".join(rng.choices("ABCDEFGHKLMNPRSTUVWXYZ0123456789", k=rng.randrange(5, 11))),
    lambda rng: f"{rng.choice(WORDS).title()} Street {rng.randrange(1, 200)}, {rng.randrange(10_000, 99_999)}",
    lambda rng: f"{rng.randrange(1, 30)} {rng.choice(('x', 'of', '+', '/', 'or', 'to'))} {rng.randrange(1, 300)}",
    lambda rng: rng.choice(
        ("?", "!", "??", "...", ":)", ":-(", ";)", "<3", "ok.", "no!", "y", "n", "k", "1", "2", "a)", "b")
    ),
)


def details(_: Files) -> Texts:
    """What people are asked for, and type: numbers, dates, addresses, codes; and signs that stand for an answer."""
    rng = random.Random("details")
    for _number in range(1200):
        text = rng.choice(CARRIERS).format(rng.choice(DETAILS)(rng))
        yield text, text


EMOJI = "😀😂🤣😊😍😘😎🤔😢😭😡👍👎🙏👏💪🎉❤💔🔥✨⭐☀🌧🐶🐱🍕🍺⚽🎵🚗✈🏠📷💡✅❌👋🤷🙈🥳😅😉"


def emoji(archive: Files) -> Texts:
    """Talk as it looks today: with emoji at its end, in its midst, or nothing but them."""
    for group, text in chitchat(archive):
        rng = random.Random(text)
        if rng.random() < 0.02 and text.strip():
            few = "".join(rng.choice(EMOJI) * rng.choice((1, 1, 2)) for _ in range(rng.choice((1, 1, 1, 2, 3))))
            words = text.split()
            words.insert(rng.choice((len(words), len(words), rng.randrange(len(words) + 1))), few)
            yield group, few if rng.random() < 0.15 else " ".join(words)


def share(text: str) -> float:
    """Where a text falls between 0 and 1, always the same."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) / 2**32
