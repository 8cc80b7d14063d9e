"""Whether words want more of them, by their last one, their first one and their signs."""

import pytest

from pipelines.listening.unfinished import unfinished


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("I want to fly to Madrid and.", "en"),
        ("The thing is", "en"),
        ("Well, um.", "en"),
        ("I was wondering whether...", "en"),
        ("My number is 555,", "en"),
        ("Although the hotel was cheap.", "en"),
        ("Ich bleibe zu Hause, weil.", "de"),
        ("Wenn es morgen regnet.", "de"),
        ("Quiero una mesa para.", "es"),
        ("Je voudrais une table pour.", "fr"),
    ],
)
def test_more_is_to_come(text: str, language: str) -> None:
    assert unfinished(text, language)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("What is this for?", "en"),
        ("Where are you from?", "en"),
        ("Turn the lights on.", "en"),
        ("If it rains tomorrow, we will stay at home.", "en"),
        ("When was the first railway line opened?", "en"),
        ("Yes.", "en"),
        ("", "en"),
        ("Mach das Licht an.", "de"),
        ("Ich mag das.", "de"),
        ("Because I do.", "xx"),
        ("東京は。", "ja"),
    ],
)
def test_nothing_more_is_to_come(text: str, language: str) -> None:
    assert not unfinished(text, language)
