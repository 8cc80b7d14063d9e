"""Links to pictures in a text, as Markdown has them."""

IMAGES = "/v1/images/files/"
ADDRESS = 300  # characters of a link's address before the path, and behind it, at most
CAPTION = 200  # characters between its brackets, at most


def without_links(text: str) -> str:
    """A reply's text as the model reads it again: links to pictures would only lead it to make some up.

    Anybody can send such a text, so it is read in time that grows with its length alone.
    """
    kept: list[str] = []
    done = 0
    at = text.find(IMAGES)
    while at >= 0:
        after = at + len(IMAGES)
        middle = text.rfind("](", max(done, at - ADDRESS), at)
        start = text.rfind("![", max(done, middle - CAPTION), middle) if middle >= 0 else -1
        end = text.find(")", after, after + ADDRESS)
        if start >= 0 and end >= 0 and not set(text[middle + 2 : end]) & set(" \t\n)"):
            kept.append(text[done:start].rstrip())
            done = after = end + 1
        at = text.find(IMAGES, after)
    return "".join(kept) + text[done:]
