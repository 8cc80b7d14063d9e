"""Stands between an MCP server that is a command and its reader, which holds a line of any length in memory.

``python relay.py LINE_BYTES LINES_A_SECOND COMMAND…`` runs the command with the same standard input, copies its
standard output, and ends it when a line is longer, or more lines come in a second. Its standard error is dropped.
"""

import os
import subprocess
import sys
import time

PIECE = 64 * 1024  # bytes of one read
FLOODED = 3  # the exit code where the command was ended


class Bounds:
    """Counts what comes."""

    def __init__(self, line_bytes: int, lines_a_second: int) -> None:
        self._line_bytes, self._lines = line_bytes, lines_a_second
        self._line = 0  # bytes of the line that has begun
        self._second, self._in_second = 0, 0

    def hold(self, piece: bytes, now: float) -> bool:
        """Whether this piece, which follows the earlier ones, keeps to the bounds; ``now`` in seconds."""
        lines = piece.split(b"\n")
        longest = max([self._line + len(lines[0]), *map(len, lines[1:])])
        self._line = len(lines[-1]) + (self._line if len(lines) == 1 else 0)
        if int(now) != self._second:
            self._second, self._in_second = int(now), 0
        self._in_second += len(lines) - 1
        return longest <= self._line_bytes and self._in_second <= self._lines


def main(arguments: list[str]) -> int:
    """Relay; returns the command's exit code."""
    bounds = Bounds(int(arguments[0]), int(arguments[1]))
    command = subprocess.Popen(arguments[2:], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # noqa: S603
    assert command.stdout is not None  # noqa: S101 - it is a pipe
    try:
        while piece := os.read(command.stdout.fileno(), PIECE):
            if not bounds.hold(piece, time.monotonic()):
                return FLOODED
            view = memoryview(piece)
            while view:
                view = view[os.write(sys.stdout.fileno(), view) :]
        return command.wait()
    except BrokenPipeError:
        return 0
    finally:
        command.kill()
        command.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
