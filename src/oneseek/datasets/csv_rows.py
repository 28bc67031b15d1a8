"""The rows of a CSV file, each as JSON."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import starmap
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from oneseek.datasets.faults import Fault
from oneseek.datasets.formats import COLUMNS_OF
from oneseek.datasets.raw_rows import UTF8_BOM, RawRow, as_json, bad, lines
from oneseek.errors import DatasetError

_LONGEST_CELL: Final = 16 << 20  # characters; the parser of CSV takes 4 bytes for each

# The fields that hold JSON in some format, and those that hold text in some.
_KINDS: Final = {(name, kind == "text") for columns in COLUMNS_OF.values() for name, kind in columns.items()}
_HOLD_JSON: Final = frozenset(name for name, is_text in _KINDS if not is_text)
_HOLD_TEXT: Final = frozenset(name for name, is_text in _KINDS if is_text)


def csv_rows(file: BinaryIO, path: Path, head: bytes) -> Iterator[RawRow]:
    """The rows below the header, as RFC 4180 has them. An empty cell is an absent field, and so is one that a short row
    does not have.

    head: how the file begins; the header's first line tells what parts the cells.

    Raises:
        DatasetError: the header cannot be read, or names a column twice.
    """
    too_long: list[tuple[int, Fault]] = []

    def texts() -> Iterator[str]:
        for row in lines(file):
            if row.fault:
                too_long.append((row.line, row.fault))
            # Bytes that are not UTF-8 pass through, for the row to be judged as one that holds them.
            yield "\n" if row.fault else row.data.decode(errors="surrogateescape")

    csv.field_size_limit(_LONGEST_CELL)  # the module's own limit, 128 KiB, is one setting for the process
    reader = csv.reader(texts(), delimiter=_delimiter(head), strict=True)
    names: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            broken = _why_not_csv(error)
            if not names:
                raise _no_header(path, broken) from error
            yield bad(line, broken)
            continue
        if names and cells:
            yield _csv_row(line, names, cells)
        elif not names:
            if too_long:
                raise _no_header(path, too_long[0][1])
            names = [name.strip() for name in cells]
            _refuse_twins(names, path)
        yield from starmap(bad, too_long)
        too_long.clear()
    yield from starmap(bad, too_long)


def _csv_row(line: int, names: list[str], cells: list[str]) -> RawRow:
    if len(cells) > len(names):
        return bad(line, Fault("broken-csv", f"the row has {len(cells)} cells, the header {len(names)}"))
    if any("\0" in cell for cell in cells):
        return bad(line, Fault("nul-byte", "NUL byte"))
    return as_json(line, {name: _cell(name, cell) for name, cell in zip(names, cells, strict=False) if name and cell})


def _cell(name: str, text: str) -> str | msgspec.Raw:
    """JSON in the columns that hold it; in those that hold text as well, where it is messages. Anywhere else, JSON is a
    text that somebody wants to train on."""
    if name not in _HOLD_JSON or not text.lstrip().startswith(("[", "{")):
        return text
    try:
        value = msgspec.json.decode(text, type=msgspec.Raw)  # which is written as it stands
        return text if name in _HOLD_TEXT and not _are_messages(msgspec.json.decode(value)) else value
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return text


def _are_messages(value: Any) -> bool:
    messages = value if isinstance(value, list) else [value]
    return bool(messages) and all(isinstance(item, dict) and {"role", "from"} & item.keys() for item in messages)


def _delimiter(head: bytes) -> str:
    """The one that parts the header into the most cells; a comma where none does."""
    header = head.removeprefix(UTF8_BOM).lstrip(b"\r\n").partition(b"\n")[0].decode(errors="replace")
    return max(",;\t", key=lambda mark: max((len(cells) for cells in csv.reader([header], delimiter=mark)), default=0))


def _no_header(path: Path, fault: Fault) -> DatasetError:
    return DatasetError(
        f"The header of {path} cannot be read: {fault.reason.removeprefix('broken CSV: ')}.",
        "Write the columns' names in the first line, those that hold a quote or what parts the cells in quotes.",
    )


def _refuse_twins(names: list[str], path: Path) -> None:
    twin = next((name for name in names if name and names.count(name) > 1), None)
    if twin is not None:
        raise DatasetError(f"The header of {path} names the column {twin[:40]!r} twice.", "Rename one of them.")


def _why_not_csv(error: csv.Error) -> Fault:
    if "field limit" in str(error):
        return Fault("line-too-long", f"a cell has more than {_LONGEST_CELL:,} characters; is a quote never closed?")
    if "unexpected end" in str(error):
        return Fault("broken-csv", "broken CSV: a quote is never closed")
    return Fault("broken-csv", f"broken CSV: {error}")
