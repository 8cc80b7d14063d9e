"""Links to pictures in a text, as Markdown has them."""

IMAGES = "/v1/images/files/"
ADDRESS = 300  # characters of a link's address before the path and after it, at most
CAPTION = 200  # characters between its brackets, at most


def without_links(text: str) -> str:
    """A reply's text without its picture links: a model that reads such links invents more of them.

    Clients can send any text here, so the run time is linear in its length.
    """
    pieces: list[str] = []
    done = 0
    at = text.find(IMAGES)
    while at >= 0:
        after = at + len(IMAGES)
        middle = text.rfind("](", max(done, at - ADDRESS), at)
        start = text.rfind("![", max(done, middle - CAPTION), middle) if middle >= 0 else -1
        end = text.find(")", after, after + ADDRESS)
        if start >= 0 and end >= 0 and not set(text[middle + 2 : end]) & set(" \t\n)"):
            pieces.append(text[done:start].rstrip())
            done = after = end + 1
        at = text.find(IMAGES, after)
    return "".join(pieces) + text[done:]
