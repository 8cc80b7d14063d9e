"""Messages of programs in many languages: what web software says to its users, from its translators' catalogues."""

import gettext
import io
import random
import re
from collections import defaultdict
from collections.abc import Iterator

from pipelines.anomaly.training.readers import Text, share
from pipelines.downloads.archives import Files

FILE = re.compile(r"(?:.*/)?locale/(?P<locale>[^/]+)/LC_MESSAGES/django\.mo")
NAMES = ("Anna", "12", "main", "shop", "3", "alpha")  # what stands for the values that a program would fill in
VALUE = re.compile(r"%\(\w+\)[sd]|%[sd]")
DENSE = re.compile("[\u0e00-\u0eff\u3000-\u9fff\uac00-\ud7af]")  # Thai, Lao, Chinese, Japanese, Korean: short is enough
SHORTEST, SHORTEST_DENSE = 15, 4  # characters of prose; less is a label
MOST = 400  # messages of a language


def catalogue(archive: Files) -> Iterator[Text]:
    """At most 400 translated messages a language. The group is the message's id: the same in every language."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for name, content in archive:
        if (match := FILE.fullmatch(name)) is not None:
            messages = found[language_of(match["locale"])]
            for key, text in translations(content):
                messages.setdefault(text, key)
    for language, messages in sorted(found.items()):
        chosen = sorted(messages, key=lambda text: share(language + text))[:MOST]
        yield from (Text(messages[text], text, language) for text in chosen)


def language_of(locale: str) -> str:
    """The ISO 639-1 code of a locale's name, such as "pt_BR", "sr@latin" or "zh-Hans"."""
    return re.split("[-_@]", locale)[0].lower()


def translations(content: bytes) -> Iterator[tuple[str, str]]:
    """The id and the text of every message of a compiled catalogue that is prose; a broken catalogue has none."""
    try:
        messages = gettext.GNUTranslations(io.BytesIO(content))
    except (OSError, UnicodeDecodeError, ValueError):
        return
    known: dict[object, object] = vars(messages)["_catalog"]  # gettext has no public way to list a catalogue
    for key, value in known.items():
        said = str(key[0] if isinstance(key, tuple) else key)  # "" is the header's
        if said and isinstance(value, str) and value != said and (text := prose(value)) is not None:
            yield said.split("\x04")[-1], text


def prose(text: str) -> str | None:
    """A message with values filled in; None when it is mark-up, a template or a mere label."""
    if "<" in text or "{" in text:
        return None
    rng = random.Random(text)
    text = VALUE.sub(lambda _: rng.choice(NAMES), text)
    text = " ".join(text.split("\x04")[-1].split())
    shortest = SHORTEST_DENSE if DENSE.search(text) else SHORTEST
    return None if "%" in text or len(text) < shortest else text
