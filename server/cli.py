"""The command's former entry point; it goes as soon as the command is installed again."""

from server.commands.main import main

__all__ = ["main"]
