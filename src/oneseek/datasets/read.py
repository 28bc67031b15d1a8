"""Reading a dataset: one pass over the file gives the usable rows, what is wrong with the others, and its digest."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any, Final, overload

import msgspec

from oneseek.datasets.formats import Format, check_row, detect, normalise_row, row_digest
from oneseek.errors import DatasetError

_BLOCK: Final = 1 << 16  # bytes: what is looked at to tell text from something else
_UTF8_BOM: Final = b"\xef\xbb\xbf"
_FOREIGN_BOMS: Final = {  # UTF-32 first: in little-endian order it begins like UTF-16
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_BLANK: Final = b" \t\r\n"
_WHAT_ROWS_NEED: Final = (
    "Give every row `messages`, or `text`, or `prompt` and `completion`, or `prompt`, `chosen` and `rejected`."
)

# Strings whole, so that brackets inside them do not count. A string that is never closed reaches to the end of the
# data (the last quote is optional, everything before it possessive): trying again from inside it would take quadratic
# time on a broken file.
_TOKEN: Final = re.compile(rb'"(?:[^"\\]+|\\.)*+"?|[\[\]{},]', re.DOTALL)
_HALF_PAIR: Final = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")


class RowProblem(msgspec.Struct, frozen=True):
    """A row that cannot be used. Lines are counted from 1."""

    line: int
    reason: str


class Rows(Sequence[dict[str, Any]]):
    """Normalised rows, kept as JSON: that takes a fraction of the memory that objects do. Each access decodes anew."""

    def __init__(self, encoded: Sequence[bytes] = ()) -> None:
        self._encoded = encoded

    def __len__(self) -> int:
        return len(self._encoded)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Rows: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | Rows:
        if isinstance(index, slice):
            return Rows(self._encoded[index])
        row: dict[str, Any] = msgspec.json.decode(self._encoded[index])
        return row

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)


class Dataset(msgspec.Struct, frozen=True):
    """What a file of rows holds.

    `sha256` is of the file's bytes, in hex. `rows` are the usable rows, normalised; `lines[i]` is the line on which
    `rows[i]` starts, `digests[i]` its `row_digest`. `format` is that of the first row that has one.
    """

    path: str
    sha256: str
    format: Format | None
    rows: Sequence[dict[str, Any]]
    lines: tuple[int, ...]
    digests: tuple[bytes, ...]
    problems: tuple[RowProblem, ...]


def read_dataset(path: Path) -> Dataset:
    """Read JSONL, or a JSON array (the first character that is not blank is `[`), in UTF-8 with or without a BOM.

    Rows that cannot be used do not stop the reading: each becomes a RowProblem. In an array, the line of a row is the
    one on which its element starts.

    Raises:
        DatasetError: there is no dataset at all: no such file, not a file, no permission, nothing in it, not text, or
            no row of a known format.
    """
    digest = hashlib.sha256()
    reading = _Reading(str(path))
    if "\0" in str(path):
        raise DatasetError(f"{str(path)!r} is not a path: it holds a NUL character.", "Name a JSONL or JSON file.")
    try:
        if path.exists() and not path.is_file():
            what = "a directory" if path.is_dir() else "not a regular file"
            raise DatasetError(f"The dataset {path} is {what}.", "Name a JSONL or JSON file.")
        with BufferedReader(path.open("rb", buffering=0), _BLOCK) as file:
            _refuse_binary(file, path)
            for piece in _pieces(file, digest):
                reading.add(piece)
    except OSError as error:
        raise _unreadable(path, error) from error
    return reading.dataset(digest.hexdigest())


class _Reading:
    """The rows read so far."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.format: Format | None = None
        self.rows: list[bytes] = []
        self.lines: list[int] = []
        self.digests: list[bytes] = []
        self.problems: list[RowProblem] = []
        self.first_fields: tuple[str, ...] | None = None

    def add(self, piece: _Piece) -> None:
        if isinstance(piece, RowProblem):
            self.problems.append(piece)
            return
        line, raw = piece
        try:
            row = _decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self.problems.append(RowProblem(line, _why_not_json(raw, error)))
            return
        self.format = self.format or detect(row)
        reason = check_row(row, self.format) if self.format else self._why_no_format(row)
        if reason:
            self.problems.append(RowProblem(line, reason))
        elif self.format:
            used = normalise_row(row, self.format)
            self.rows.append(msgspec.json.encode(used))
            self.lines.append(line)
            self.digests.append(row_digest(used))

    def dataset(self, sha256: str) -> Dataset:
        if self.format is None:
            raise self._no_dataset()
        return Dataset(
            path=self.path,
            sha256=sha256,
            format=self.format,
            rows=Rows(self.rows),
            lines=tuple(self.lines),
            digests=tuple(self.digests),
            problems=tuple(self.problems),
        )

    def _why_no_format(self, row: object) -> str:
        if not isinstance(row, dict):
            return "the row is not an object"
        if self.first_fields is None:
            self.first_fields = tuple(row)
        return f"the row has no known format (fields: {_listed(tuple(row))})"

    def _no_dataset(self) -> DatasetError:
        if not self.problems:
            return DatasetError(f"The dataset {self.path} is empty.", "Name a file with at least two rows.")
        if self.first_fields is not None:
            return DatasetError(
                f"No row of {self.path} has a known format; the fields found are: {_listed(self.first_fields)}.",
                _WHAT_ROWS_NEED,
            )
        first = self.problems[0]
        return DatasetError(
            f"No row of {self.path} can be read; line {first.line}: {first.reason}.",
            "Write one JSON object a line (JSONL), or one JSON array of objects. " + _WHAT_ROWS_NEED,
        )


# -- from the file to the bytes of each row ------------------------------------------------------------------------

_Piece = tuple[int, bytes] | RowProblem  # line and bytes of a row, or what is wrong where a row should be


def _pieces(file: Iterable[bytes], digest: hashlib._Hash) -> Iterator[_Piece]:
    lines = _hashed_lines(file, digest)
    for number, line in enumerate(lines, 1):
        raw = line.removeprefix(_UTF8_BOM) if number == 1 else line
        raw = raw.strip(_BLANK)
        if raw.startswith(b"["):
            # The array is held whole: its rows are found by their brackets, wherever the line breaks are.
            yield from _array_elements(line + b"".join(lines), number)
            return
        if raw:
            yield number, raw
            yield from _jsonl_rows(lines, number + 1)
            return


def _hashed_lines(file: Iterable[bytes], digest: hashlib._Hash) -> Iterator[bytes]:
    for line in file:
        digest.update(line)
        yield line


def _jsonl_rows(lines: Iterator[bytes], first: int) -> Iterator[_Piece]:
    for number, line in enumerate(lines, first):
        raw = line.strip(_BLANK)
        if raw:
            yield number, raw


def _array_elements(data: bytes, line: int) -> Iterator[_Piece]:
    """The elements of a JSON array that starts on `line`, each on its own, so that a broken one spoils no other."""
    depth = 0
    start = 0  # where the current element starts, blanks included
    counted = 0  # up to where line breaks are counted
    commas = 0

    def element(end: int) -> tuple[int, bytes]:
        nonlocal line, counted
        raw = data[start:end]
        begin = end - len(raw.lstrip(_BLANK))
        line += data.count(b"\n", counted, begin)
        counted = begin
        return line, raw.strip(_BLANK)

    for token in _TOKEN.finditer(data):
        kind = token[0]
        if kind in (b"[", b"{"):
            depth += 1
            if depth == 1:
                start = token.end()
        elif kind in (b"]", b"}"):
            depth -= 1
            if depth == 0:
                at, raw = element(token.start())
                if raw:
                    yield at, raw
                elif commas:
                    yield RowProblem(at, "broken JSON: a comma with no row after it")
                start = token.end()
                at, raw = element(len(data))
                if raw:
                    yield RowProblem(at, "broken JSON: there is more after the end of the array")
                return
        elif depth == 1 and kind == b",":
            commas += 1
            at, raw = element(token.start())
            yield (at, raw) if raw else RowProblem(at, "broken JSON: a comma with no row before it")
            start = token.end()
    at, raw = element(len(data))
    if raw:
        yield at, raw
    if depth == 1:
        yield RowProblem(at + raw.count(b"\n"), "broken JSON: the file ends before the array does")


# -- what is wrong -------------------------------------------------------------------------------------------------


_decode = msgspec.json.Decoder().decode


def _why_not_json(raw: bytes, error: Exception) -> str:
    if b"\0" in raw:
        return f"NUL byte (at byte {raw.index(0)} of the row)"
    try:
        raw.decode()
    except UnicodeDecodeError as found:
        return f"not UTF-8 (byte 0x{raw[found.start]:02X} at byte {found.start} of the row)"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if _HALF_PAIR.search(raw):
        return "broken JSON: half of a surrogate pair, which is not a character"
    if "truncated" in str(error):
        return "broken JSON: it ends too early"
    return f"broken JSON: {str(error).removeprefix('JSON is malformed: ').partition(' - at ')[0].lower()}"


def _refuse_binary(file: BufferedReader[FileIO], path: Path) -> None:
    """A file that does not begin like JSON and is not text in its first block. One that does begin like JSON is read:
    its bad rows are named by their lines."""
    head = file.peek(_BLOCK)[:_BLOCK]
    encoding = next((name for mark, name in _FOREIGN_BOMS.items() if head.startswith(mark)), None)
    if encoding:
        raise DatasetError(
            f"The dataset {path} is {encoding}, not UTF-8.",
            f"Convert it: iconv -f {encoding} -t UTF-8 {shlex.quote(str(path))} > utf8.jsonl",
        )
    if head.removeprefix(_UTF8_BOM).lstrip(_BLANK).startswith((b"{", b"[")):
        return
    if b"\0" in head or not _is_utf8_so_far(head):
        raise DatasetError(f"The dataset {path} is not text (binary data).", "Name a JSONL or JSON file in UTF-8.")


def _is_utf8_so_far(head: bytes) -> bool:
    try:
        head.decode()
    except UnicodeDecodeError as error:
        # A character that the end of the block cuts in two is no fault.
        return error.reason == "unexpected end of data" and len(head) >= _BLOCK
    return True


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


def _listed(fields: tuple[str, ...]) -> str:
    shown = ", ".join(repr(field[:40]) for field in fields[:10])
    return (shown + (", …" if len(fields) > 10 else "")) or "none"
