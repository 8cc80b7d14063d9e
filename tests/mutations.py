"""Seeded texts that are hard to read: pieces of many kinds, repeated, joined, cut and sprinkled with odd characters."""

import random
from collections.abc import Iterator

PIECES = (
    "The library opens at nine in the morning. ", "Could you tell me the way to the station?", "word ", "I'm ", "ing",
    "A.", "a. ", "x.y.", "U.S.A.", "e.g. ", "Dr. ", "z.B. ", "p.m.", "I.", "w.w.w.", "A.b'", "M.A.'s ", "...", "…",
    "?!", "1", "1,234.5 ", "1999", "3rd ", "$5.50 ", "12:30", "1e9", "0x1F", "½", "²", "IV", "MCMXCIX", "9" * 20,
    "1/2/2026 ",
    "-", "--", "—", "'", "''", '"', "(", ")", "[[", "]]", "<", ">", "&", "@", "#", "%", "*", "_", "/", "\\", "|", "~",
    "^", "`", "{", "}", "=", "+", ",", ";", ":", "!", "http://a.b/c?d=e&f ", "joe@x.org ", "C:\\x\\y", "a_b_c",
    "f(x)=y", "bcdfg", "AAAA", "qwrtzp", "xXxX", "strengths", "Donaudampfschifffahrtsgesellschaft",
    "naïve", "café", "Straße",
    "ſ", "Ǆ", "ﬁ", "İ", "Ⅷ", "ª", "K", "é" * 3, "e\u0301", "a" + "\u0301" * 9, "Z͑ͫ̓ͪ̂ͫ̽͏̴̙",
    "Привет ", "Ж.", "Ελλάδα ", "א.", "שלום ",
    "مرحبا ", "٣٤٥", "नमस्ते ", "क्ष", "ไทย", "한국어 ", "日本語。", "你好，", "𝔘𝔫𝔦", "𐐀.", "😀",
    "👩\u200d👩\u200d👧", "👍🏽", "🇩🇪", "©", "®", "™",
    "№", "\x00", "\x01", "\x1b[31m", "\t", "\n", "\r\n", "\u00a0", "\u200b", "\u200d", "\u202e", "\u2028", "\ufeff",
    "\ufffd", "\uffff", "\ud800", "\udfff", "\U000e0041", "\U0010ffff", "<speak>", "<break time='9s'/>",
    "&amp;", "&#0;",
    "[[h@loU]]", "_^_en", "\\n", "%s%n", "@@", "b'", "o'", "l'", "d'", "n't", "'s", "'S.", ". ", ", ", " . ",
)  # fmt: skip
LETTERS = "abcdeghiwxyzABIUWXZ019 .,'-!?;:\n()éжא中\u0301"


def mutated(seed: int, count: int, longest: int = 300) -> Iterator[str]:
    """``count`` texts of at most ``longest`` characters; one seed always gives the same."""
    chance = random.Random(seed)
    for _ in range(count):
        text = "".join(_part(chance) for _ in range(chance.choice((1, 1, 2, 3, 8))))
        for _ in range(chance.choice((0, 0, 1, 3, 10))):
            at = chance.randrange(len(text) + 1)
            text = text[:at] + _character(chance) + text[at + chance.choice((0, 0, 1, 5)) :]
        if chance.random() < 0.1:
            text = chance.choice((text.upper(), text.lower(), text[::-1], text.title()))
        yield text[:longest]


def _part(chance: random.Random) -> str:
    unit = "".join(chance.choice(PIECES) for _ in range(chance.choice((1, 1, 2, 4))))
    if chance.random() < 0.3:
        unit = "".join(chance.choice(LETTERS) for _ in range(chance.choice((1, 2, 3, 6))))
    glue = chance.choice(("", "", "", " ", ".", ". ", "-", ",", "'", "\n", chance.choice(PIECES)))
    return glue.join([unit] * chance.choice((1, 1, 2, 5, 20, 60, 150, 300)))


def _character(chance: random.Random) -> str:
    if chance.random() < 0.5:
        return chance.choice(LETTERS)
    return chr(chance.randrange(chance.choice((0x80, 0x800, 0x3000, 0x11000, 0x110000))))
