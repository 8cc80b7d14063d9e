"""Talk to a Loquent server: text, speech and pictures, as they are made. It needs Python 3.11 and ``websockets``.

async with loquent.connect("http://127.0.0.1:8700") as session:
    async for piece in session.ask("Hello"):
        if isinstance(piece, loquent.Text):
            print(piece.text, end="", flush=True)
"""

from loquent.errors import ConnectionFailedError, LoquentError, RefusedError, UsageError
from loquent.pieces import Done, Heard, Picture, Piece, Screening, Sound, Text, ToolCall
from loquent.session import Session, connect
from loquent.settings import Settings

__all__ = [
    "ConnectionFailedError",
    "Done",
    "Heard",
    "LoquentError",
    "Picture",
    "Piece",
    "RefusedError",
    "Screening",
    "Session",
    "Settings",
    "Sound",
    "Text",
    "ToolCall",
    "UsageError",
    "connect",
]
