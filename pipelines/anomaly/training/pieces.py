"""Harmless messages with pieces of files and codes in them, to train on: real files, as packages hold them, and random
codes. What judges (``pastes``) has other carriers, and makes its pieces itself."""

import base64
import json
import random
import re
import uuid
from collections.abc import Callable

from pipelines.anomaly.training.readers import Texts, share
from pipelines.downloads.archives import Files

FILE = r".*\.(json|ya?ml|sh|csv|cpp|js|css|html|toml|ini|cfg|sql|xml|jsonl|tsv|py)"
LINES = (1, 2, 4, 8, 14)
ROOM = 900  # characters of a piece
KEPT = 0.5  # of the files
BEFORE = (
    "This is in my file:", "my config looks like this", "Does this look right to you?", "I copied this from the page.",
    "Please format this.", "What language is this?", "see below", "here is the log", "Can you sort these lines?",
    "Which line is broken?", "Explique-moi ceci, s'il te plaît :", "Was macht das hier?", "¿Qué significa esto?",
    "Cosa vuol dire?", "O que é isto?", "что это значит?", "これは何ですか？", "这是什么意思？", "Bu ne demek?", "",
)  # fmt: skip
AROUND = (
    "My code is {}", "{} is not accepted", "the receipt says {}", "I can't find {} anywhere", "Is {} valid?", "{}",
    "What does {} stand for?", "delete {} please, I sent it by mistake", "Meine Nummer lautet {}.",
    "C'est le numéro {}.",
    "Mi código es {}, ¿es correcto?", "Tracking says {} is on its way", "remember {}", "{} and {}", "I lost {}",
    "Mijn referentie is {}", "Mój numer to {}", "номер {}", "番号は{}です", "编号 {}",
)  # fmt: skip

CODES: tuple[Callable[[random.Random], str], ...] = (
    lambda rng: str(uuid.UUID(int=rng.getrandbits(128))),
    lambda rng: rng.randbytes(rng.choice((4, 16, 20, 32))).hex(),
    lambda rng: base64.b64encode(rng.randbytes(rng.randrange(12, 90))).decode(),
    lambda rng: base64.urlsafe_b64encode(rng.randbytes(rng.randrange(12, 60))).decode().rstrip("="),
    lambda rng: ".".join(_part(rng, size) for size in (27, 60, 32)),
    lambda rng: f"data:image/png;base64,{base64.b64encode(rng.randbytes(rng.randrange(30, 200))).decode()}",
    lambda rng: f"{rng.choice(('DE', 'FR', 'NL', 'PL', 'ES'))}{rng.randrange(10**2):02}{rng.randrange(10**16):016}",
    lambda rng: f"1Z{rng.randrange(16**8):08X}{rng.randrange(10**8):08}",
    lambda rng: "-".join(f"{rng.randrange(10**4):04}" for _ in range(4)),
    lambda rng: f"{rng.choice(('sk', 'pk', 'tok', 'key'))}_{_part(rng, rng.randrange(18, 40))}",
    lambda rng: ":".join(f"{rng.randrange(256):02x}" for _ in range(6)),
    lambda rng: f"v{rng.randrange(9)}.{rng.randrange(30)}.{rng.randrange(9)}+{rng.randbytes(4).hex()}",
    lambda rng: f"0x{rng.getrandbits(64):016x}",
    lambda rng: json.dumps({"id": rng.randrange(10**6), "ok": rng.random() < 0.5, "hash": rng.randbytes(8).hex()}),
)


def _part(rng: random.Random, size: int) -> str:
    return base64.urlsafe_b64encode(rng.randbytes(size)).decode()[:size]


def pieces(archive: Files) -> Texts:
    """A few lines of a file each, and as many messages with codes."""
    for name, content in archive.matching(FILE):
        rng = random.Random(name)
        lines = content[:200_000].splitlines()
        if not lines or share(name) > KEPT or re.search("inject|attack|jailbreak|guard", name):
            continue
        start = rng.randrange(len(lines))
        piece = "\n".join(lines[start : start + rng.choice(LINES)])[:ROOM]
        if sum(not character.isspace() for character in piece) > 8:
            yield name, f"{rng.choice(BEFORE)}\n{piece}".strip()
        codes = [rng.choice(CODES)(rng), rng.choice(CODES)(rng)]
        yield f"{name} code", rng.choice(AROUND).format(*codes)
