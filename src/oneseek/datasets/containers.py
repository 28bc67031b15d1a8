"""From a file to its raw rows: JSONL, a JSON array, CSV or Parquet, in one pass and in constant memory."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Iterator
from io import BufferedReader, FileIO, RawIOBase
from pathlib import Path
from typing import Any, Final

from oneseek.datasets.csv_rows import csv_rows
from oneseek.datasets.json_array import array_rows
from oneseek.datasets.parquet_rows import parquet_rows
from oneseek.datasets.raw_rows import BLANK, BLOCK, UTF8_BOM, Progress, RawRow, jsonl_rows
from oneseek.datasets.scan import Container
from oneseek.errors import DatasetError

__all__ = ["Progress", "RawRow", "RowFile"]

_HEAD: Final = 1 << 16  # bytes that are looked at to tell text from something else

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
        with BufferedReader(hashed, BLOCK) as file:
            head = file.peek(_HEAD)[:_HEAD]
            self.container = _container_of(head, self.path)
            match self.container:
                case "json":
                    yield from array_rows(file)
                case "jsonl":
                    yield from jsonl_rows(file)
                case "csv":
                    yield from csv_rows(file, self.path, head)
                case "parquet":
                    hashed.progress = None  # its rows take longer than its digest: they tell how far the reading is
            while file.read(BLOCK):
                pass
            self.sha256 = hashed.digest.hexdigest()
            if self.container == "parquet":
                plain.seek(0)
                yield from parquet_rows(plain, self.path, self.size_bytes, self._progress)
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
