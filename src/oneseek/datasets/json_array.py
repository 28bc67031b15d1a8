"""The rows of a JSON array: its elements, found without decoding them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO, Final

from oneseek.datasets.faults import Fault
from oneseek.datasets.raw_rows import BLANK, BLOCK, LONGEST_ROW, RawRow, bad, too_long

# Strings are taken whole, so that brackets inside them do not count, and every repetition is possessive: trying again
# from inside a string that is never closed would take quadratic time.
_OPEN_STRING: Final = rb'"(?:[^"\\]++|\\.)*+'
_TOKEN: Final = re.compile(_OPEN_STRING + rb'("?)|[\[{]++|[\]}]++|,', re.DOTALL)

# The same three times as fast, from quote to quote: one after a single backslash does not close the string, and one
# after no backslash does. Several backslashes must be counted, so such a string is followed as above.
_STRING: Final = rb'"[^"]*+"(?:(?<=[^\\]\\")[^"]*+")*+(?<!\\")|' + _OPEN_STRING + rb'"'


def _nested(levels: int) -> bytes:
    inside = rb'[^\[\]{}"]++|' + _STRING + (rb"|" + _nested(levels - 1) if levels else b"")
    return rb"[\[{](?:" + inside + rb")*+[\]}]"


# A whole element and the comma after it, at one go. The last one, and those that are nested deeper, broken, or not read
# to their end yet, are followed token by token: that gives the same and takes five times as long.
_ELEMENT: Final = re.compile(rb"[ \t\r\n]*+(" + _nested(6) + rb")[ \t\r\n]*+,", re.DOTALL)
_BLANKS: Final = re.compile(rb"[ \t\r\n]*+")


def array_rows(file: BinaryIO) -> Iterator[RawRow]:
    """The elements of the array that the file is, each on its own, so that a broken one spoils no other."""
    window = _Window(file)
    window.skip(window.data.index(b"[") + 1)
    after_comma = False
    while True:
        while (whole := _ELEMENT.match(window.data, window.at)) and whole.end() - window.at <= LONGEST_ROW:
            window.skip(whole.start(1))
            yield RawRow(window.line, whole[1])
            window.skip(whole.end())
            after_comma = True
        row, closer, depth = _element(window)
        missing = not row.data and not row.fault
        if not missing:
            yield row
        elif closer == b"," or (closer and after_comma):
            yield _broken(row.line, f"a comma with no row {'before' if closer == b',' else 'after'} it")
        if not closer and not depth:
            yield _broken(window.line, "the file ends before the array does")
        if closer != b",":
            yield from _after_array(window)
            return
        after_comma = True


class _Window:
    """What is read of a file and not yet passed: `data` from `at` on. `line` is the one on which `at` is."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.data = file.read(BLOCK)
        self.at = 0
        self.line = 1

    def skip(self, to: int) -> None:
        self.line += self.data.count(b"\n", self.at, to)
        self.at = to

    def skip_blanks(self) -> None:
        if blanks := _BLANKS.match(self.data, self.at):
            self.skip(blanks.end())

    def more(self) -> bool:
        """Whether there was more to read. At least as much is read as there is, so that what is looked at again from
        its beginning was half as long the last time."""
        block = self._file.read(max(BLOCK, len(self.data) - self.at))
        self.data = self.data[self.at :] + block
        self.at = 0
        return bool(block)

    def drop(self, but: bytes) -> None:
        self.skip(len(self.data))
        self.data, self.at = but, 0


def _element(window: _Window) -> tuple[RawRow, bytes, int]:
    """The element at the window's place: its row, without data where there is none; the comma or bracket after it,
    which the window is past then, or nothing at the end of the file; and the brackets that it leaves open."""
    line = depth = 0
    gone = 0  # bytes of its beginning that are not held, since it is too long
    while True:
        if not gone:
            window.skip_blanks()
            line = window.line
        end, depth_there, string = _follow(window.data, window.at, depth)
        held = len(window.data) - window.at
        if end < 0 and (gone or held > LONGEST_ROW):
            gone += held - len(string)
            window.drop(but=string)
            depth = depth_there
        if end >= 0 or not window.more():
            break
    end = len(window.data) if end < 0 else end
    size = gone + end - window.at
    data = window.data[window.at : end].rstrip(BLANK)
    closer = window.data[end : end + 1]
    window.skip(end + len(closer))
    row = too_long(line, size) if size > LONGEST_ROW else RawRow(line, data)
    return row, closer, depth_there


def _follow(window: bytes, at: int, depth: int) -> tuple[int, int, bytes]:
    """Where the element ends that is `depth` brackets deep at `at`: the place of the comma or bracket after it, or -1
    where the window ends before. Then how deep it is at the window's end, and what must stand before the next block for
    an open string to be one: its quote, and a backslash that the window's end parts from what it escapes."""
    string = b""
    for token in _TOKEN.finditer(window, at):
        start = token.start()
        first = window[start : start + 1]
        if first == b'"':
            if not token[1]:
                string = b'"' + window[token.end() :]
        elif first in b"[{":
            depth += len(token[0])
        elif first == b",":
            if not depth:
                return start, 0, b""
        elif len(token[0]) > depth:
            return start + depth, 0, b""
        else:
            depth -= len(token[0])
    return -1, depth, string


def _after_array(window: _Window) -> Iterator[RawRow]:
    window.skip_blanks()
    while window.at == len(window.data):
        if not window.more():
            return
        window.skip_blanks()
    yield _broken(window.line, "there is more after the end of the array")


def _broken(line: int, what: str) -> RawRow:
    return bad(line, Fault("broken-json", f"broken JSON: {what}"))
