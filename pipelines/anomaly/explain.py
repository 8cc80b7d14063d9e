"""A verdict in words: what stands out in a message, and what it was compared with."""

from collections.abc import Iterator

from pipelines.anomaly.calibrate import HeadName
from pipelines.anomaly.verdict import Deviation, Judgement, Verdict

# Of each surface feature: what a message is that has little of it, and what one is that has much.
FEATURES: dict[str, tuple[str, str]] = {
    "characters": ("it is unusually short", "it is unusually long"),
    "words": ("it has unusually few words", "it has unusually many words"),
    "mean word length": ("its words are unusually short", "its words are unusually long"),
    "longest word": ("even its longest word is short", "its longest word is unusually long"),
    "letters": ("it has unusually few letters", "it is made of hardly anything but letters"),
    "capitals": ("it has unusually few capitals", "it has unusually many capitals"),
    "digits": ("it has unusually few digits", "it has unusually many digits"),
    "spaces": ("it has unusually few spaces", "it has unusually many spaces"),
    "punctuation": ("it has unusually little punctuation", "it has unusually much punctuation"),
    "symbols and emoji": ("it has unusually few symbols", "it has unusually many symbols or emoji"),
    "letters beyond ASCII": ("it has unusually few letters beyond ASCII", "it has unusually many letters beyond ASCII"),
    "character entropy": ("its characters hardly vary", "its characters vary unusually much"),
    "compressed size": ("it repeats itself: it compresses unusually well", "it hardly compresses, as random text does"),
    "distinct words": ("its words repeat", "none of its words repeats"),
    "most frequent word": ("no word stands out by its number", "one word makes up much of it"),
    "longest run of a character": ("no character repeats", "one character repeats many times"),
    "repeated lines": ("no line repeats", "its lines repeat"),
    "unusual letters": (
        "its letters follow each other as in the plainest text",
        "its letters follow each other unusually",
    ),
    "least usual stretch": ("no stretch of it is unusual", "a stretch of it looks like no language"),
    "known words": ("few of its words are known", "all its words are known"),
    "unusual order of words": ("its words stand in the most usual order", "its words stand in an unusual order"),
}
HEADS: dict[HeadName, str] = {
    "surface": "its characters are distributed unlike those of normal messages",
    "letters": "its letters follow each other as in no language that is known here",
    "order": "its words stand in an order that English hardly has",
    "injection": "it reads like an attempt to override the assistant's instructions",
    "semantic": "what it means is far from what is normally asked here",
    "documents": "a part of it gives an assistant instructions",
}


def explain(verdict: Verdict) -> list[str]:
    """The verdict's reasons as sentences; nothing of the message itself is in them."""
    if not verdict.causes:
        return ["Nothing stands out.", *_compared(verdict)]
    found = [
        f"{_capital(HEADS[each.head])}: {_rarity(each)}." for each in verdict.judgements if each.head in verdict.causes
    ]
    found += [f"A check found {finding.check.replace('_', ' ')}: {finding.detail}." for finding in verdict.findings]
    found += [f"{_capital(_feature(each))} ({each.deviations:+.1f} deviations)." for each in verdict.deviations]
    if "semantic" in verdict.causes:
        found.append(
            f"The autoencoder reconstructs its meaning with an error of {verdict.reconstruction:.0f} nats, and places "
            f"it {verdict.divergence:.0f} nats from the middle of what it knows."
        )
    return [*found, *_compared(verdict)]


def _rarity(judgement: Judgement) -> str:
    return f"one normal message in {1 / max(judgement.p_value, 1e-6):.0f} is as unusual"


def _feature(deviation: Deviation) -> str:
    low, high = FEATURES[deviation.feature]
    return high if deviation.deviations > 0 else low


def _compared(verdict: Verdict) -> Iterator[str]:
    if not verdict.known:
        yield "Few messages of its language are known, so it was compared with all of its script."
    for each in verdict.neighbours:
        told = f"“{each.text}”" if each.text else each.id
        yield f"A normal message that is like it ({each.similarity:.2f}): {told}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
