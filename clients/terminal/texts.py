"""Text that can be sent: what a terminal or a command line hands over may hold bytes that are no characters."""


def clean(text: str) -> str:
    """``text`` with U+FFFD for each half of a character, which neither JSON nor UTF-8 can carry."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
