"""The widget's built files: its hashes, its address, and the tag that loads it. Needs no package of the server's."""

import base64
import hashlib
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path

BUILT = Path(__file__).parents[2] / "clients" / "web" / "built"
FILE, RECORDER = BUILT / "widget.js", BUILT / "recorder.js"
VERSION_DIGITS = 16  # hexadecimal, of the file's SHA-256


@dataclass(frozen=True)
class WidgetFile:
    """What browsers load: the widget, or what it has on the audio thread."""

    content: bytes

    @classmethod
    def read(cls, file: Path = FILE) -> "WidgetFile":
        """The file of this installation. Raises: OSError."""
        return cls(file.read_bytes())

    @cached_property
    def version(self) -> str:
        """What tells this file from any other."""
        return hashlib.sha256(self.content).hexdigest()[:VERSION_DIGITS]

    @property
    def path(self) -> str:
        """The address of this version, which never has other content."""
        return f"/widget.{self.version}.js"

    @cached_property
    def integrity(self) -> str:
        """Subresource integrity: a browser runs no other file."""
        return "sha384-" + base64.b64encode(hashlib.sha384(self.content).digest()).decode()

    def tag(self, server: str, secret_url: str) -> str:
        """What a page needs in its HTML to have the widget of the server at this URL."""
        address, source = escape(server), escape(server + self.path)
        return (
            f'<script src="{source}" integrity="{self.integrity}" crossorigin="anonymous" defer></script>\n'
            f'<loquent-chat server="{address}" secret-url="{escape(secret_url)}"></loquent-chat>'
        )
