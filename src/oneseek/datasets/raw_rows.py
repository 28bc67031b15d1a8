"""A raw row: JSON whatever holds it, so that the same code judges all of them. As it stands in the file, or, of CSV and
Parquet, the row written as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final, NamedTuple

import msgspec

from oneseek.datasets.faults import Fault

Progress = Callable[[int, int], None]
"""Is told how far a reading is: bytes done, bytes in all."""

LONGEST_ROW: Final = 64 << 20
"""Bytes of a row; a longer one is reported, and never held as a whole."""

BLOCK: Final = 1 << 20
"""Bytes read at once."""

BLANK: Final = b" \t\r\n"
UTF8_BOM: Final = b"\xef\xbb\xbf"

_encode: Final = msgspec.json.Encoder(enc_hook=str).encode


class RawRow(NamedTuple):
    """Where a row starts, and its bytes; or, where no row could be told, the `fault`. In Parquet the row's number
    stands for its line."""

    line: int
    data: bytes
    fault: Fault | None = None


def jsonl_rows(file: BinaryIO) -> Iterator[RawRow]:
    """Each line that is not blank."""
    for row in lines(file):
        if row.fault:
            yield row
        elif data := row.data.strip(BLANK):
            yield RawRow(row.line, data)


def lines(file: BinaryIO) -> Iterator[RawRow]:
    """Each line with its break."""
    number = 0
    while line := file.readline(LONGEST_ROW + 1):
        number += 1
        if number == 1:
            line = line.removeprefix(UTF8_BOM)
        if len(line) > LONGEST_ROW and not line.endswith(b"\n"):
            size = len(line)
            while line and not line.endswith(b"\n"):
                line = file.readline(BLOCK)
                size += len(line)
            yield too_long(number, size)
        else:
            yield RawRow(number, line)


def as_json(line: int, row: dict[str, Any]) -> RawRow:
    """A row that was no JSON. Bytes of text that are not UTF-8 (surrogate escapes) stay what they are."""
    try:
        data = _encode(row)
    except UnicodeEncodeError:
        plain = json.dumps(row, ensure_ascii=False, default=msgspec.json.decode)  # what is JSON already is msgspec.Raw
        data = plain.encode(errors="surrogateescape")
    return RawRow(line, data) if len(data) <= LONGEST_ROW else too_long(line, len(data))


def too_long(line: int, size: int) -> RawRow:
    """A row of `size` bytes that was not held."""
    return bad(line, Fault("line-too-long", f"the row has {size:,} bytes, and at most {LONGEST_ROW:,} are read"))


def bad(line: int, fault: Fault) -> RawRow:
    """No row, and why."""
    return RawRow(line, b"", fault)
