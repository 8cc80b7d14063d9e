"""What the documents show, for the tests that hold them to it."""

import re

from tests.support import ROOT


def blocks(page: str) -> list[tuple[str, str]]:
    """The language and the text of each block of code of a page, such as "docs/voice.md"; "" for no language."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
