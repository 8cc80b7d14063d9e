"""Makes text sendable: input from a terminal or a command line may hold lone surrogates."""


def clean(text: str) -> str:
    """``text`` with U+FFFD for each lone surrogate, which UTF-8 can't encode."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
