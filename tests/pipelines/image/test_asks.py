"""Which messages ask for a picture, of what, and what they ask besides."""

import pytest

from pipelines.image.asks import LONGEST, Ask, asked

ASKING = [  # message, what is to be drawn, what is asked besides
    ("Draw a sad cat and tell me a joke", "a sad cat", "tell me a joke"),
    ("Draw a sad cat and tell me a joke.", "a sad cat", "tell me a joke."),
    ("draw me a dog, then explain what a dog eats", "a dog", "explain what a dog eats"),
    ("Please draw a rocket. What is the capital of France?", "a rocket", "What is the capital of France?"),
    ("Draw a heart! Can you also write me a love letter?", "a heart", "Can you also write me a love letter?"),
    ("Can you draw a happy cat and also say hello to Tom?", "a happy cat", "say hello to Tom?"),
    ("paint a sunflower; give me three facts about sunflowers", "a sunflower", "give me three facts about sunflowers"),
    ("Sketch a fox and write a short poem about it", "a fox", "write a short poem about it"),
    ("show me a picture of the sun and how far away is it?", "the sun", "how far away is it?"),
    ("draw a cake for me, please, and wish Anna a happy birthday", "a cake", "wish Anna a happy birthday"),
    ("draw a robot and please help me with my homework", "a robot", "help me with my homework"),
    ("Draw a green heart. Thanks! Who was Ada Lovelace?", "a green heart", "Who was Ada Lovelace?"),
    ("Tell me a joke and draw a sad cat", "a sad cat", "Tell me a joke"),
    ("Tell me a joke and then draw me a sad cat, please.", "a sad cat", "Tell me a joke"),
    ("What is the capital of France? Also draw me a happy cat.", "a happy cat", "What is the capital of France?"),
    ("I had a long day. Please draw a rainbow.", "a rainbow", "I had a long day."),
    ("Write a short poem about the sea and draw a ship", "a ship", "Write a short poem about the sea"),
    ("/image sad cat and tell me a joke", "sad cat", "tell me a joke"),
    ("draw me a picture and tell me a story", "", "tell me a story"),
    ("draw a happy cat", "a happy cat", ""),
    ("Draw a cat and a dog", "a cat and a dog", ""),
    ("draw a cat and make it blue", "a cat and make it blue", ""),
    ("Draw a cat. It should be sad.", "a cat. It should be sad", ""),
    ("draw a man who tells a joke", "a man who tells a joke", ""),
    ("draw a heart from memory", "a heart from memory", ""),
    ("draw my cat", "my cat", ""),
    ("paint a house", "a house", ""),
    ("paint me a house with a garden", "a house with a garden", ""),
    ("draw a picture of a line", "a line", ""),
    ("draw a lion", "a lion", ""),
    ("draw a blank face", "a blank face", ""),
    ("Draw a bathtub", "a bathtub", ""),
    ("draw a line of ants", "a line of ants", ""),
    ("sketch a planet", "a planet", ""),
    ("draw fire", "fire", ""),
    ("draw a nail", "a nail", ""),
    ("I want you to paint a sad face", "a sad face", ""),
    ("ok loquent, now draw a star!", "a star", ""),
    ("draw an onion", "an onion", ""),
    ("draw a bath duck", "a bath duck", ""),
]

NOT_ASKING = [
    "draw a blank",
    "Draw a blank on his name.",
    "draw strength from my heart",
    "paint my house",
    "Paint your nails red",
    "paint our living room",
    "please paint their room",
    "Paint the fence",
    "paint the town red",
    "draw a line",
    "Draw the line somewhere!",
    "draw a line under it",
    "draw a conclusion",
    "Draw your own conclusions.",
    "draw conclusions from these numbers: 3, 4, 8",
    "draw a parallel between Rome and Athens",
    "Draw parallels between cats and dogs.",
    "can you draw a comparison of tea and coffee?",
    "draw a distinction between a virus and a bacterium",
    "draw an analogy to a river",
    "draw attention to the sad cat",
    "Draw my attention to mistakes, please",
    "draw a deep breath",
    "draw breath",
    "draw lots",
    "draw straws",
    "draw the short straw",
    "draw the curtain",
    "Please draw the curtains.",
    "draw a bath",
    "draw me a bath, please",
    "draw up a contract",
    "Could you draw up a list of animals?",
    "draw on experience",
    "Draw on your experience and tell me about love",
    "draw upon the ideas of Kant",
    "draw inspiration from the sun",
    "draw near",
    "draw blood",
    "draw a crowd",
    "draw a salary",
    "Draw water from the well.",
    "sketch out a plan",
    "sketch a plan for my week",
    "paint a bleak picture of the future",
    "Draw a blank and tell me a joke",
    "draw back",
    "draw to a close",
    "paint over the cracks",
    "I like to sing and draw a cat",
    "How do I relax and draw a cat?",
    "Tell me how to sit still and draw a cat",
    "What can I draw?",
    "Tell me a joke and draw a conclusion",
]


@pytest.mark.parametrize(("message", "subject", "rest"), ASKING)
def test_a_message_that_asks_says_what_is_to_be_drawn_and_what_is_asked_besides(
    message: str, subject: str, rest: str
) -> None:
    assert asked(message) == Ask(subject, rest)


@pytest.mark.parametrize("message", NOT_ASKING)
def test_an_idiom_or_another_use_of_the_word_asks_for_no_picture(message: str) -> None:
    assert asked(message) is None


def test_long_hostile_messages_are_split_in_no_time() -> None:
    for text in (
        "draw a cat and tell " * 14,
        "tell me a joke and " * 15,
        "draw a cat. " * 24,
        "draw a , and , and , and " * 11,
        "tell me " + "a b " * 60 + "and draw",
    ):
        assert len(text) <= LONGEST
        for _ in range(200):
            asked(text)
