"""What a terminal shows of the bytes that it is sent: enough of a VT100 to see what was printed twice."""

import re

CODE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\x1b\][^\x07]*\x07|\x1b.")


class TerminalScreen:
    """A screen of some rows and columns, and the lines that have left it at the top."""

    def __init__(self, rows: int, columns: int) -> None:
        self._columns = columns
        self._scrolled: list[str] = []
        self._rows = [""] * rows
        self._row = self._column = 0

    @property
    def lines(self) -> list[str]:
        """Everything that can be read, scrolling up included."""
        return [line.rstrip() for line in (*self._scrolled, *self._rows)]

    def feed(self, text: str) -> None:
        """Take what a program writes."""
        position = 0
        while position < len(text):
            if code := CODE.match(text, position):
                self._obey(code[2], code[1])
                position = code.end()
            else:
                self._write(text[position])
                position += 1

    def _obey(self, letter: str | None, argument: str) -> None:
        number = int(argument) if argument and argument.isdigit() else 1
        match letter:
            case "A":  # up, but never beyond the top of the screen
                self._row = max(self._row - number, 0)
            case "K":
                row = self._rows[self._row]
                self._rows[self._row] = "" if argument == "2" else row[: self._column]
            case "H" | "J" | "B" | "C" | "D" | "G":
                raise AssertionError(f"this screen does not know \\x1b[{argument}{letter}")

    def _write(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\n":
            self._column = 0
            self._down()
        elif character >= " ":
            if self._column == self._columns:
                self._column = 0
                self._down()
            row = self._rows[self._row].ljust(self._column)
            self._rows[self._row] = row[: self._column] + character + row[self._column + 1 :]
            self._column += 1

    def _down(self) -> None:
        if self._row + 1 < len(self._rows):
            self._row += 1
        else:
            self._scrolled.append(self._rows.pop(0))
            self._rows.append("")
