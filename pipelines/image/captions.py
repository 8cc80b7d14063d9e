"""What a picture can be asked for by: colours, and captions with a colour."""

import re

# Hues of the colour words in degrees; pictures are recoloured to these.
COLOURS = {"red": 0, "orange": 30, "yellow": 50, "green": 125, "blue": 215, "purple": 275, "pink": 330}

_COLOUR = re.compile(rf"\b(?:light |dark |bright )?({'|'.join(COLOURS)})(?:ish)?\b", re.IGNORECASE)


def coloured(caption: str, colour: str) -> str:
    """The caption of a recoloured picture."""
    return f"{colour} {caption}"


def without_colour(text: str) -> tuple[str, str | None]:
    """The text without the first word for a colour, and that word."""
    found = _COLOUR.search(text)
    if found is None:
        return text, None
    return " ".join((text[: found.start()] + text[found.end() :]).split()), found[1].lower()
