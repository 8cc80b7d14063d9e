"""Exit codes, and the exception that carries one."""

from enum import IntEnum


class Exit(IntEnum):
    """The exit codes of the process."""

    OK = 0
    RUN_TIME = 1
    USAGE = 2
    CONNECTION = 3  # also for a key that the server rejects
    INTERRUPTED = 130


class Failure(Exception):  # noqa: N818 - it ends the process, with a message for a person
    """The command failed; the message says what to do."""

    def __init__(self, code: Exit, message: str) -> None:
        super().__init__(message)
        self.code = code
