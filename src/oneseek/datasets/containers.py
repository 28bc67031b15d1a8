"""From a file to its raw rows: JSONL, a JSON array, CSV or Parquet, in one pass and in constant memory.

A raw row is JSON whatever holds it, so that the same code judges all of them: as it stands in the file, or, of CSV and
Parquet, the row written as JSON.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shlex
from collections.abc import Callable, Iterator
from io import BufferedReader, FileIO, RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from oneseek.datasets.faults import Fault
from oneseek.datasets.scan import Container
from oneseek.errors import DatasetError

if TYPE_CHECKING:
    import pyarrow as pa

Progress = Callable[[int, int], None]
"""Is told how far a reading is: bytes done, bytes in all."""

LONGEST_ROW: Final = 64 << 20
"""Bytes of a row; a longer one is reported, and never held as a whole."""

BLANK: Final = b" \t\r\n"
UTF8_BOM: Final = b"\xef\xbb\xbf"

_BLOCK: Final = 1 << 20  # bytes read at once
_HEAD: Final = 1 << 16  # bytes that are looked at to tell text from something else
_AT_ONCE: Final = 1024  # rows of Parquet
_LONGEST_CELL: Final = 16 << 20  # characters; the parser of CSV takes 4 bytes for each

_FOREIGN_BOMS: Final = {  # UTF-32 first: in little-endian order it begins like UTF-16
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}

_WHAT_TO_NAME: Final = "Name a file of JSONL, JSON or CSV in UTF-8, or of Parquet."
_UNPACK: Final = "Unpack it, and name what was inside: "
_ZIP: Final = b"PK\x03\x04"
_XLS: Final = b"\xd0\xcf\x11\xe0"
_PACKED: Final = {
    b"\x1f\x8b": ("compressed with gzip", _UNPACK + "gunzip -c {path} > rows.jsonl"),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", _UNPACK + "zstd -dc {path} > rows.jsonl"),
    b"BZh": ("compressed with bzip2", _UNPACK + "bunzip2 -c {path} > rows.jsonl"),
    b"\xfd7zXZ\0": ("compressed with xz", _UNPACK + "xz -dc {path} > rows.jsonl"),
    _ZIP: ("a zip archive", _UNPACK + "unzip {path}"),
    _XLS: ("an Excel workbook", "Save its sheet as CSV UTF-8."),
}
_WORKBOOK: Final = b"[Content_Types].xml"  # the first file in every .xlsx, which is a zip archive

# Columns of CSV whose cells hold JSON, and those whose cells do where they are lists of messages, else plain text.
_JSON_COLUMNS: Final = frozenset(("messages", "conversations", "tools"))
_ANSWER_COLUMNS: Final = frozenset(("prompt", "chosen", "rejected"))


class RawRow(NamedTuple):
    """Where a row starts, and its bytes; or, where no row could be told, the `fault`. In Parquet the row's number
    stands for its line."""

    line: int
    data: bytes
    fault: Fault | None = None


class RowFile:
    """A file of rows, to be read once: `container`, `size_bytes` and `sha256` (hex, of its bytes) hold after the last.

    What it is shows in its first bytes: Parquet's mark, `[` for a JSON array, `{` for JSONL; else its name may end in
    .csv or .tsv, and what is left is read as JSONL. The line of a row is the one on which it starts.

    Iterating raises:
        DatasetError: no such file, not a file, no permission, packed, not text, damaged, or changed meanwhile.
    """

    def __init__(self, path: Path, progress: Progress | None = None) -> None:
        self.path = path
        self.container: Container = "jsonl"
        self.size_bytes = 0
        self.sha256 = ""
        self._progress = progress

    def __iter__(self) -> Iterator[RawRow]:
        try:
            _refuse_what_is_no_file(self.path)
            with self.path.open("rb", buffering=0) as plain:
                yield from self._rows(plain)
        except OSError as error:
            raise _unreadable(self.path, error) from error

    def _rows(self, plain: FileIO) -> Iterator[RawRow]:
        before = os.fstat(plain.fileno())
        self.size_bytes = before.st_size
        hashed = _Hashed(plain, before.st_size, self._progress)
        with BufferedReader(hashed, _BLOCK) as file:
            self.container = _container_of(file.peek(_HEAD)[:_HEAD], self.path)
            match self.container:
                case "json":
                    yield from _array_rows(file)
                case "jsonl":
                    yield from _jsonl_rows(file)
                case "csv":
                    yield from _csv_rows(file, self.path)
                case "parquet":
                    hashed.progress = None  # its rows take longer than its digest: they tell how far the reading is
            while file.read(_BLOCK):
                pass
            self.sha256 = hashed.digest.hexdigest()
            if self.container == "parquet":
                plain.seek(0)
                yield from _parquet_rows(plain, self.path, self.size_bytes, self._progress)
        after = self.path.stat()
        if _identity(before) != _identity(after):
            raise DatasetError(
                f"The dataset {self.path} changed while it was read.", "Wait until it is written, then try again."
            )


class _Hashed(RawIOBase):
    """Reads the first `size` bytes of a file, and digests them on the way. What a file grows by meanwhile is left: a
    writer that never stops would keep a reader for ever."""

    def __init__(self, file: FileIO, size: int, progress: Progress | None) -> None:
        self.digest = hashlib.sha256()
        self.progress = progress
        self._file = file
        self._size = size
        self._done = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: self._size - self._done]
        count = self._file.readinto(view)
        self.digest.update(view[:count])
        self._done += count
        if self.progress:
            self.progress(self._done, self._size)
        return count


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_ino, status.st_size, status.st_mtime_ns


# -- JSONL ---------------------------------------------------------------------------------------------------------


def _jsonl_rows(file: BufferedReader[_Hashed]) -> Iterator[RawRow]:
    for row in _lines(file):
        if row.fault:
            yield row
        elif data := row.data.strip(BLANK):
            yield RawRow(row.line, data)


def _lines(file: BufferedReader[_Hashed]) -> Iterator[RawRow]:
    """Each line with its break."""
    number = 0
    while line := file.readline(LONGEST_ROW + 1):
        number += 1
        if number == 1:
            line = line.removeprefix(UTF8_BOM)
        if len(line) > LONGEST_ROW and not line.endswith(b"\n"):
            size = len(line)
            while line and not line.endswith(b"\n"):
                line = file.readline(_BLOCK)
                size += len(line)
            yield RawRow(number, b"", _too_long(size))
        else:
            yield RawRow(number, line)


def _too_long(size: int) -> Fault:
    return Fault("line-too-long", f"the row has {size:,} bytes, and at most {LONGEST_ROW:,} are read")


# -- JSON array ----------------------------------------------------------------------------------------------------

# Strings are taken whole, so that brackets inside them do not count, and every repetition is possessive: trying again
# from inside a string that is never closed would take quadratic time.
_STRING: Final = rb'"(?:[^"\\]++|\\.)*+'
_TOKEN: Final = re.compile(_STRING + rb'("?)|[\[{]++|[\]}]++|,', re.DOTALL)


def _nested(levels: int) -> bytes:
    inside = rb'[^\[\]{}"]++|' + _STRING + rb'"' + (rb"|" + _nested(levels - 1) if levels else b"")
    return rb"[\[{](?:" + inside + rb")*+[\]}]"


# A whole element and the comma after it, at one go. The last one, and those that are nested deeper, broken, or not read
# to their end yet, are followed token by token: that gives the same and takes three times as long.
_ELEMENT: Final = re.compile(rb"[ \t\r\n]*+(" + _nested(6) + rb")[ \t\r\n]*+,", re.DOTALL)
_BLANKS: Final = re.compile(rb"[ \t\r\n]*+")


class _Window:
    """What is read of a file and not yet passed: `data` from `at` on. `line` is the one on which `at` is."""

    def __init__(self, file: BufferedReader[_Hashed]) -> None:
        self._file = file
        self.data = file.read(_BLOCK)
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
        block = self._file.read(max(_BLOCK, len(self.data) - self.at))
        self.data = self.data[self.at :] + block
        self.at = 0
        return bool(block)

    def drop(self, but: bytes) -> None:
        self.skip(len(self.data))
        self.data, self.at = but, 0


def _array_rows(file: BufferedReader[_Hashed]) -> Iterator[RawRow]:
    """The elements of an array, each on its own, so that a broken one spoils no other."""
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
    row = RawRow(line, b"", _too_long(size)) if size > LONGEST_ROW else RawRow(line, data)
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
    return RawRow(line, b"", Fault("broken-json", f"broken JSON: {what}"))


# -- CSV -----------------------------------------------------------------------------------------------------------


def _csv_rows(file: BufferedReader[_Hashed], path: Path) -> Iterator[RawRow]:
    """The rows below the header, as RFC 4180 has them. An empty cell is an absent field, and so is one that a short row
    does not have."""
    too_long: list[RawRow] = []

    def texts() -> Iterator[str]:
        for row in _lines(file):
            if row.fault:
                too_long.append(row)
            # Bytes that are not UTF-8 pass through, for the row to be judged as one that holds them.
            yield "\n" if row.fault else row.data.decode(errors="surrogateescape")

    csv.field_size_limit(_LONGEST_CELL)  # the module's own limit, 128 KiB, is one setting for the process
    reader = csv.reader(texts(), delimiter=_delimiter(file), strict=True)
    names: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            yield RawRow(line, b"", _why_not_csv(error))
            continue
        if not names:
            names = [name.strip() for name in cells]
            _refuse_twins(names, path)
        elif cells:
            yield _csv_row(line, names, cells)
        yield from too_long
        too_long.clear()
    yield from too_long


def _csv_row(line: int, names: list[str], cells: list[str]) -> RawRow:
    if len(cells) > len(names):
        counts = f"the row has {len(cells)} cells, the header {len(names)}"
        return RawRow(line, b"", Fault("broken-csv", counts))
    if any("\0" in cell for cell in cells):
        return RawRow(line, b"", Fault("nul-byte", "NUL byte"))
    return _as_json(line, {name: _cell(name, cell) for name, cell in zip(names, cells, strict=False) if name and cell})


def _cell(name: str, text: str) -> Any:
    """JSON in the columns that hold it. Anywhere else, JSON is a text that somebody wants to train on."""
    if not text.lstrip().startswith(("[", "{")) or name not in _JSON_COLUMNS | _ANSWER_COLUMNS:
        return text
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return text
    return value if name in _JSON_COLUMNS or _are_messages(value) else text


def _are_messages(value: Any) -> bool:
    messages = value if isinstance(value, list) else [value]
    return bool(messages) and all(isinstance(item, dict) and {"role", "from"} & item.keys() for item in messages)


def _delimiter(file: BufferedReader[_Hashed]) -> str:
    """The one that parts the header into the most cells; a comma where none does."""
    head = file.peek(_HEAD).removeprefix(UTF8_BOM).lstrip(b"\r\n")[:_HEAD]
    header = head.partition(b"\n")[0].decode(errors="replace")
    return max(",;\t", key=lambda mark: max((len(cells) for cells in csv.reader([header], delimiter=mark)), default=0))


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


# -- Parquet -------------------------------------------------------------------------------------------------------


def _parquet_rows(file: FileIO, path: Path, size: int, progress: Progress | None) -> Iterator[RawRow]:
    """Every row with its number. What is null is left out: a column's type gives each row the fields of all."""
    import pyarrow as pa  # here, since most datasets do without, and it takes 40 MB
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file, buffer_size=_BLOCK, pre_buffer=False) as opened:
            number, count = 0, opened.metadata.num_rows
            schema = opened.schema_arrow
            binary = "binary" in schema.to_string(show_schema_metadata=False)
            for batch in opened.iter_batches(_AT_ONCE, use_threads=False):
                for row in batch.cast(pa.schema(map(_as_text, batch.schema))).to_pylist():
                    number += 1
                    raw = _as_json(number, row)
                    # Most rows hold no null, which their JSON tells faster than a look at every value.
                    yield _as_json(number, _stated(row)) if binary or b":null" in raw.data else raw
                if progress:
                    progress(size * number // count, size)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        why = str(error).partition("\n")[0].rstrip(".")
        raise DatasetError(
            f"The dataset {path} can't be read as Parquet: {why}.", "Write it again, or as JSONL; it may be cut off."
        ) from error


def _as_text(field: pa.Field) -> pa.Field:
    """A column of dates or decimals becomes text, as JSON has neither, and Python's dates have bounds that Arrow's have
    not."""
    from pyarrow import string, types

    kind = field.type
    convert = types.is_decimal(kind) or (types.is_temporal(kind) and not types.is_interval(kind))
    return field.with_type(string()) if convert else field


def _stated(value: Any) -> Any:
    """A value without what is null in its objects. Bytes are the text that they are in UTF-8; others are counted."""
    if isinstance(value, dict):
        return {name: _stated(item) for name, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_stated(item) for item in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"bytes": len(value)}
    return value


def _as_json(line: int, row: dict[str, Any]) -> RawRow:
    try:
        data = msgspec.json.encode(row, enc_hook=str)
    except UnicodeEncodeError:
        data = json.dumps(row, ensure_ascii=False).encode(errors="surrogateescape")
    return RawRow(line, data) if len(data) <= LONGEST_ROW else RawRow(line, b"", _too_long(len(data)))


# -- which container, and what is none -----------------------------------------------------------------------------


def _container_of(head: bytes, path: Path) -> Container:
    """What begins like JSON is read as such whatever else is in it: its bad rows are named by their lines."""
    _refuse_foreign(head, path)
    begin = head.removeprefix(UTF8_BOM).lstrip(BLANK)[:1]
    if head.startswith(b"PAR1"):
        return "parquet"
    if begin in (b"[", b"{"):
        return "json" if begin == b"[" else "jsonl"
    if path.suffix.lower() in (".csv", ".tsv"):
        return "csv"
    if b"\0" in head or not _is_utf8_so_far(head):
        raise DatasetError(f"The dataset {path} is not text (binary data).", _WHAT_TO_NAME)
    return "jsonl"


def _refuse_foreign(head: bytes, path: Path) -> None:
    encoding = next((name for mark, name in _FOREIGN_BOMS.items() if head.startswith(mark)), None)
    if encoding:
        raise DatasetError(
            f"The dataset {path} is {encoding}, not UTF-8.",
            f"Convert it: iconv -f {encoding} -t UTF-8 {shlex.quote(str(path))} > utf8{path.suffix or '.jsonl'}",
        )
    packed = next((mark for mark in _PACKED if head.startswith(mark)), None)
    if packed is not None:
        workbook = _WORKBOOK in head[:100] or path.suffix.lower() == ".xlsx"
        what, fix = _PACKED[_XLS] if packed == _ZIP and workbook else _PACKED[packed]
        raise DatasetError(f"The dataset {path} is {what}.", fix.format(path=shlex.quote(str(path))))


def _is_utf8_so_far(head: bytes) -> bool:
    try:
        head.decode()
    except UnicodeDecodeError as error:
        # A character that the end of the head cuts in two is no fault.
        return error.reason == "unexpected end of data" and len(head) >= _HEAD
    return True


def _refuse_what_is_no_file(path: Path) -> None:
    """Before it is opened, since opening a pipe waits for its other end."""
    if "\0" in str(path):
        raise DatasetError(f"{str(path)!r} is not a path: it holds a NUL character.", _WHAT_TO_NAME)
    if path.exists() and not path.is_file():
        what = "a directory" if path.is_dir() else "not a regular file"
        raise DatasetError(f"The dataset {path} is {what}.", _WHAT_TO_NAME)


def _unreadable(path: Path, error: OSError) -> DatasetError:
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return DatasetError(f"There is no dataset {path}.", "Check the path; it is relative to where you are.")
        case PermissionError():
            return DatasetError(
                f"No permission to read the dataset {path}.", f"Allow it: chmod u+r {shlex.quote(str(path))}"
            )
        case _:
            return DatasetError(f"The dataset {path} cannot be read: {error.strerror}.", "Check the disk and the path.")
