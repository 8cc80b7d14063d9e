"""What a part says of each sound while it measures, where it is wanted."""

_shown = False


def show_notes() -> None:
    """Print them from now on."""
    global _shown
    _shown = True


def note(text: str) -> None:
    """Print it where notes are wanted."""
    if _shown:
        print(text, flush=True)
