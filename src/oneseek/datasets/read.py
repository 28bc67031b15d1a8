"""Reading a dataset: one pass over the file judges every row, and keeps what a scan or a worker needs of it."""

from __future__ import annotations

import hashlib
import heapq
import random
import re
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, overload

import msgspec
import numpy as np
from numpy.typing import NDArray

from oneseek.datasets.containers import Progress, RowFile
from oneseek.datasets.faults import Fault, FaultKind
from oneseek.datasets.formats import (
    COLUMNS_OF,
    FIELDS_OF,
    Format,
    canonical,
    check_row,
    detect,
    no_format,
    normalise_row,
)
from oneseek.datasets.scan import EXAMPLES, ProblemGroup, RowProblem, Sample, Scan
from oneseek.errors import DatasetError

_SHOWN: Final = 5  # rows that a scan shows as they stand
_LONGEST_SHOWN: Final = 1 << 20  # bytes
_HELD: Final = 16 << 20  # bytes of sample rows that are held, of the longest ones and of those drawn each

_decode: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode
_HALF_PAIR: Final = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")


class JudgedRow(NamedTuple):
    """A row of a file: the line on which it starts, its bytes (JSON, whatever the container is), what they decode to
    (None where they don't), and why it cannot be used (None where it can). `data` is empty where there is no row."""

    line: int
    data: bytes
    row: Any
    fault: Fault | None


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
        row: dict[str, Any] = _decode(self._encoded[index])
        return row

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    def __repr__(self) -> str:
        return f"Rows({list(self)!r})"


class Dataset(msgspec.Struct, frozen=True, eq=False):
    """The usable rows of a file, normalised. The other fields are those of Scan."""

    path: str
    sha256: str
    format: Format
    rows: Rows
    lines: NDArray[np.uint32]
    digests: NDArray[np.uint64]
    rows_sha256: str


def rows_of(path: Path, progress: Progress | None = None, *, sha256: str | None = None) -> Iterator[JudgedRow]:
    """Every row of a file, judged, in constant memory. Rows that cannot be used do not stop it.

    Args:
        progress: is told how far the reading is: bytes done, bytes in all.
        sha256: of the file's bytes as they were read before, in hex, where these must be the same rows.

    Raises:
        DatasetError: before the first row or after the last: there is no dataset at all. No such file, not a file, no
            permission, packed, not text, nothing in it, a CSV header that cannot be read, changed meanwhile or since
            `sha256`, or no row of a known format.
    """
    return iter(_Reading(path, progress, sha256))


def scan(
    path: Path, *, seed: int = 42, longest: int = 200, drawn: int = 1000, progress: Progress | None = None
) -> Scan:
    """Describe a dataset in one pass, in constant memory and 12 bytes a usable row.

    Args:
        seed: of the drawing. The same rows and seed give the same samples.
        longest: how many of the longest rows are among the samples.
        drawn: how many rows are drawn for the samples, each as likely as any other. There are fewer of either where
            they would take more than 16 MiB as JSON, but one at least.
        progress: as of `rows_of`.

    Raises:
        DatasetError: as `rows_of`.
    """
    reading, tally, problems = _Reading(path, progress), _Tally(), _Problems()
    first: list[dict[str, Any]] = []
    long_rows, drawn_rows = _Kept(longest), _Kept(drawn)
    random_rank = random.Random(seed).random
    for line, data, row, fault in reading:
        if len(first) < _SHOWN and isinstance(row, dict) and len(data) <= _LONGEST_SHOWN:
            first.append(row)
        if fault:
            problems.add(line, fault)
            continue
        used = normalise_row(row, reading.known_format)
        size = tally.add(line, used)
        place = len(tally.lines) - 1, line
        long_rows.offer(size, place, used)
        drawn_rows.offer(random_rank(), place, used)
    return Scan(
        path=str(path),
        sha256=reading.file.sha256,
        size_bytes=reading.file.size_bytes,
        container=reading.file.container,
        format=reading.known_format,
        rows=len(tally.lines),
        problems=problems.groups(),
        digests=np.asarray(tally.digests),
        lines=np.asarray(tally.lines),
        rows_sha256=tally.whole.hexdigest(),
        longest_row=tally.longest,
        samples=_samples(long_rows.rows() | drawn_rows.rows()),
        first=tuple(first),
    )


def read_dataset(path: Path) -> Dataset:
    """The usable rows of a file.

    Raises:
        DatasetError: as `rows_of`.
    """
    reading, tally = _Reading(path), _Tally()
    rows: list[bytes] = []
    for line, _, row, fault in reading:
        if not fault:
            used = normalise_row(row, reading.known_format)
            tally.add(line, used)
            rows.append(_encode(used))
    return Dataset(
        path=str(path),
        sha256=reading.file.sha256,
        format=reading.known_format,
        rows=Rows(rows),
        lines=np.asarray(tally.lines),
        digests=np.asarray(tally.digests),
        rows_sha256=tally.whole.hexdigest(),
    )


class _Reading:
    """One pass over a file. The format is that of the first row that has one."""

    def __init__(self, path: Path, progress: Progress | None = None, sha256: str | None = None) -> None:
        self.file = RowFile(path, progress)
        self._sha256 = sha256
        self._format: Format | None = None
        self._telling: RowProblem | None = None  # the bad row that tells most where none has a format: an object
        self._any_object = False

    @property
    def known_format(self) -> Format:
        if self._format is None:
            raise self._no_dataset()
        return self._format

    def __iter__(self) -> Iterator[JudgedRow]:
        for line, data, fault in self.file:
            row = None
            if fault is None:
                try:
                    row = _decode(data)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                    fault = _why_not_json(data, error)
                else:
                    fault = self._judge(row)
            if fault:
                self._remember(line, row, fault)
            yield JudgedRow(line, data, row, fault)
        if self._sha256 not in (None, self.file.sha256):
            raise DatasetError(
                f"The dataset {self.file.path} changed after it was first read.",
                "Wait until it is written, then try again.",
            )
        if self._format is None:
            raise self._no_dataset()

    def _judge(self, row: Any) -> Fault | None:
        self._format = self._format or detect(row)
        return check_row(row, self._format) if self._format else no_format(row)

    def _remember(self, line: int, row: Any, fault: Fault) -> None:
        is_object = isinstance(row, dict)
        if self._telling is None or (is_object and not self._any_object):
            self._telling = RowProblem(line, fault.reason)
        self._any_object |= is_object

    def _no_dataset(self) -> DatasetError:
        path, telling = self.file.path, self._telling
        if telling is None:
            return DatasetError(f"The dataset {path} is empty.", "Name a file with at least two rows.")
        forms = "one JSON object a line (JSONL), or one JSON array of objects; a file of CSV must end in .csv"
        what = "" if self._any_object else f"Write {forms}. "
        return DatasetError(
            f"No row of {path} can be used; line {telling.line}: {telling.reason}.", what + _what_rows_need()
        )


class _Tally:
    """What is kept of every usable row: 12 bytes, and one digest over all."""

    def __init__(self) -> None:
        self.digests = array("Q")
        self.lines = array("I")
        self.whole = hashlib.sha256()
        self.longest: int | None = None

    def add(self, line: int, row: dict[str, Any]) -> int:
        """Bytes of the normalised row as JSON."""
        encoded = canonical(row)
        digest = hashlib.sha256(encoded).digest()  # row_digest's, without encoding once more
        self.whole.update(digest)
        self.digests.append(int.from_bytes(digest[:8], "big"))
        self.lines.append(line)
        self.longest = max(self.longest or 0, len(encoded))
        return len(encoded)


class _Problems:
    """Bad rows by kind, in the order in which the kinds are first met."""

    def __init__(self) -> None:
        self._found: dict[FaultKind, tuple[list[RowProblem], int]] = {}

    def add(self, line: int, fault: Fault) -> None:
        examples, count = self._found.get(fault.kind, ([], 0))
        if count < EXAMPLES:
            examples.append(RowProblem(line, fault.reason))
        self._found[fault.kind] = examples, count + 1

    def groups(self) -> tuple[ProblemGroup, ...]:
        return tuple(
            ProblemGroup(kind=kind, count=count, examples=tuple(examples))
            for kind, (examples, count) in self._found.items()
        )


class _Kept:
    """The rows of highest rank: at most `count`, and _HELD bytes of them unless it is one; of equal ranks the first."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._heap: list[tuple[float, int, int, bytes]] = []
        self._bytes = 0
        self._floor = -1.0  # no row of this rank or below comes in, even where bytes become free

    def offer(self, rank: float, place: tuple[int, int], row: dict[str, Any]) -> None:
        """place: the row's index and line."""
        if rank <= self._floor:
            return
        index, line = place
        encoded = _encode(row)
        heapq.heappush(self._heap, (rank, -index, line, encoded))
        self._bytes += len(encoded)
        while len(self._heap) > self._count or (self._bytes > _HELD and len(self._heap) > 1):
            self._floor, _, _, dropped = heapq.heappop(self._heap)
            self._bytes -= len(dropped)

    def rows(self) -> dict[int, tuple[int, bytes]]:
        """By index: line and JSON."""
        return {-index: (line, encoded) for _, index, line, encoded in self._heap}


def _samples(rows: dict[int, tuple[int, bytes]]) -> tuple[Sample, ...]:
    return tuple(Sample(index, line, _decode(encoded)) for index, (line, encoded) in sorted(rows.items()))


def _what_rows_need() -> str:
    needed = (
        [f"`{name}`" for name in columns if name in FIELDS_OF[form] or name == "prompt"]
        for form, columns in COLUMNS_OF.items()
    )
    listed = (" and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) for names in needed)
    return f"Give every row {', or '.join(dict.fromkeys(listed))}."


def _why_not_json(data: bytes, error: Exception) -> Fault:
    if b"\0" in data:
        return Fault("nul-byte", f"NUL byte (at byte {data.index(0)} of the row)")
    try:
        data.decode()
    except UnicodeDecodeError as found:
        return Fault("not-utf8", f"not UTF-8 (byte 0x{data[found.start]:02X} at byte {found.start} of the row)")
    if isinstance(error, RecursionError):
        return Fault("nested-too-deeply", "nested too deeply")
    if _HALF_PAIR.search(data):
        return Fault("surrogate", "broken JSON: half of a surrogate pair, which is not a character")
    if "truncated" in str(error):
        return Fault("broken-json", "broken JSON: it ends too early")
    why = str(error).removeprefix("JSON is malformed: ").partition(" - at ")[0].lower()
    return Fault("broken-json", f"broken JSON: {why}")
