"""Datasets written in another format or container, whole or not at all, and read back before they count."""

from __future__ import annotations

import csv
import os
import shlex
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from oneseek.datasets.containers import Progress
from oneseek.datasets.convert import convert, lost_by, targets_of
from oneseek.datasets.formats import COLUMNS_OF, USED_AS, Format, Holds, detect, normalise_row, row_digest
from oneseek.datasets.read import rows_of, scan
from oneseek.datasets.scan import Container, Scan
from oneseek.errors import DatasetError
from oneseek.files.durable import TEMP_SUFFIX, storage_errors, sync_directory

if TYPE_CHECKING:
    import pyarrow as pa

EXAMPLES: Final = 10
"""Reasons that are named of those why rows cannot be converted, and fields of those that are left out."""

LINES: Final = 3
"""Rows that are named for each reason."""

_CONTAINER_OF: Final[Mapping[str, Container]] = {
    ".jsonl": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset that was written: `rows` rows of `source_format` as `format`. `sha256` is of the new file's bytes.
    `left_out` are fields of the source that its format does not use, the first of them."""

    path: str
    source_format: Format
    format: Format
    container: Container
    rows: int
    size_bytes: int
    sha256: str
    left_out: tuple[str, ...]


def convert_file(
    source: Path,
    target: Format,
    into: Path,
    container: Container | None = None,
    *,
    replace: bool = False,
    progress: Progress | None = None,
) -> Written:
    """Write the rows of `source` as `target` to `into`, in the container that its ending says unless one is given.

    Nothing is lost: each row converts exactly, and the new file is read back and compared before it takes its name.
    Fields that the source's format does not use are left out, and told. progress: is told how far the reading is.

    Raises:
        DatasetError: `source` cannot be read; a row is bad, or would lose something: the first of them are named;
            `into` is there and not to be replaced, or cannot be a file of this container.
        StorageError: `into` could not be written.
    """
    container = container or _container_of(into)
    _refuse_place(into, container, replace=replace)
    rows = _Converted(source, target, container, progress)
    with storage_errors(into), tempfile.TemporaryDirectory(TEMP_SUFFIX, f"{into.name}.", into.parent) as beside:
        new = Path(beside) / f"rows.{container}"
        write_rows(rows, target, container, new)
        rows.refuse_losses()
        written = _read_back(new, rows, container, progress)
        with new.open("rb") as file:
            os.fsync(file.fileno())
        _refuse_place(into, container, replace=replace)  # it may have come meanwhile
        new.replace(into)
        sync_directory(into.parent)
    assert rows.format is not None  # a file of which a row was read has one
    return Written(
        path=str(into),
        source_format=rows.format,
        format=target,
        container=container,
        rows=written.rows,
        size_bytes=written.size_bytes,
        sha256=written.sha256,
        left_out=tuple(rows.left_out),
    )


class _Converted:
    """The rows of a file in another format, once; what cannot be converted is left out and remembered."""

    def __init__(self, source: Path, target: Format, container: Container, progress: Progress | None) -> None:
        self.format: Format | None = None  # of the first row that has one, as in `scan`
        self.lines = array("I")
        self.digests = array("Q")
        self.left_out: dict[str, None] = {}
        self._source = source
        self._target = target
        # Columns have one type: what messages may be written as in several ways is written as it is used.
        self._as_used = container in ("csv", "parquet") and USED_AS[target] == target
        self._heard = progress
        self._lines_of: dict[str, list[int]] = {}  # the first rows that are lost, by reason
        self._lost: Counter[str] = Counter()  # by reason; by "" for the reasons that are not named

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for line, _, row, fault in rows_of(self._source, self._heard):
            if self.format is None:
                self.format = detect(row)
                self._refuse_target()
            if fault or self.format is None:
                self._lose(line, fault.reason if fault else "the row has no known format")
                continue
            used = {name: value for name, value in row.items() if name in COLUMNS_OF[self.format]}
            if len(used) < len(row) and len(self.left_out) < EXAMPLES:
                self.left_out.update(dict.fromkeys(name for name in row if name not in used))
            if reason := lost_by(used, self.format, self._target):
                self._lose(line, reason)
                continue
            converted = convert(used, self.format, self._target)
            normal = normalise_row(converted, self._target)
            self.lines.append(line)
            self.digests.append(int.from_bytes(row_digest(normal)[:8], "big"))
            yield normal if self._as_used else converted

    def refuse_losses(self) -> None:
        if self._lost:
            reasons = [f"{_named(lines, self._lost[reason])}: {reason}" for reason, lines in self._lines_of.items()]
            if other := self._lost[""]:
                reasons.append(f"{_rows(other)} for other reasons")
            raise DatasetError(
                f"{_rows(self._lost.total())} of {self._source} cannot be converted to {self._target}: "
                f"{'; '.join(reasons)}.",
                "Correct or remove these rows, or convert to another format. Nothing was written.",
            )

    def _lose(self, line: int, reason: str) -> None:
        if reason not in self._lines_of and len(self._lines_of) == EXAMPLES:
            reason = ""
        elif len(lines := self._lines_of.setdefault(reason, [])) < LINES:
            lines.append(line)
        self._lost[reason] += 1

    def _refuse_target(self) -> None:
        if self.format and self._target not in (self.format, *(others := targets_of(self.format))):
            also = f", or be converted to {', '.join(others)}" if others else ""
            raise DatasetError(
                f"{self._source} holds {self.format}, which cannot be converted to {self._target} without losing "
                "something.",
                f"It can be trained on as it is{also}.",
            )


def _named(lines: Sequence[int], count: int) -> str:
    """`line 3`, `lines 3, 5` or `lines 3, 5, 9 and 12 more`."""
    more = f" and {count - len(lines):,} more" if count > len(lines) else ""
    return f"line{'' if count == 1 else 's'} {', '.join(map(str, lines))}{more}"


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def _container_of(into: Path) -> Container:
    if (ending := into.suffix.lower()) in _CONTAINER_OF:
        return _CONTAINER_OF[ending]
    raise DatasetError(
        f"{into} does not say by its ending what to write.",
        f"End it in {', '.join(_CONTAINER_OF)}, or say it with --container.",
    )


def _refuse_place(into: Path, container: Container, *, replace: bool) -> None:
    if container == "csv" and into.suffix.lower() not in (".csv", ".tsv"):
        raise DatasetError(f"{into} would not be read as CSV: that is told by its name.", "End the name in .csv")
    if not into.parent.is_dir():
        raise DatasetError(
            f"There is no directory {into.parent}.", f"Make it first: mkdir -p {shlex.quote(str(into.parent))}"
        )
    if into.exists() and not (replace and into.is_file()):
        raise DatasetError(f"{into} is there already.", "Name another file, or replace it with --force.")


def _read_back(new: Path, rows: _Converted, container: Container, progress: Progress | None) -> Scan:
    wanted = np.frombuffer(rows.digests, dtype=np.uint64)
    try:
        written = scan(new, longest=0, drawn=0, progress=progress)
    except DatasetError as error:  # none of its rows can be used
        raise _cannot_hold(container, rows.lines[0]) from error
    if not np.array_equal(written.digests, wanted):
        both = min(len(wanted), len(written.digests))
        differing = np.flatnonzero(written.digests[:both] != wanted[:both])
        raise _cannot_hold(container, rows.lines[differing[0] if len(differing) else min(both, len(wanted) - 1)])
    return written


def _cannot_hold(container: Container, line: int) -> DatasetError:
    return DatasetError(
        f"The row of line {line} cannot be written as {container} without losing something.",
        "Write JSONL, which holds every row: --container jsonl. Nothing was written.",
    )


# -- one container after the other ---------------------------------------------------------------------------------


_AT_ONCE: Final = 4096  # rows of Parquet, which become a row group


def write_rows(rows: Iterable[dict[str, Any]], form: Format, container: Container, path: Path) -> None:
    """Write rows of one format to a new file. CSV and Parquet hold only the fields that the format uses.

    Raises:
        DatasetError: Parquet's columns cannot hold a row.
        OSError: the file cannot be written.
    """
    _WRITERS[container](rows, form, path)


def _write_jsonl(rows: Iterable[dict[str, Any]], form: Format, path: Path) -> None:
    with path.open("wb") as file:
        file.writelines(msgspec.json.encode(row) + b"\n" for row in rows)


def _write_json(rows: Iterable[dict[str, Any]], form: Format, path: Path) -> None:
    with path.open("wb") as file:
        before = b"[\n"
        for row in rows:
            file.write(before + msgspec.json.encode(row))
            before = b",\n"
        file.write(b"\n]\n")


def _write_csv(rows: Iterable[dict[str, Any]], form: Format, path: Path) -> None:
    columns = COLUMNS_OF[form]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_cell(row.get(name)) for name in columns] for row in rows)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _write_parquet(rows: Iterable[dict[str, Any]], form: Format, path: Path) -> None:
    import pyarrow as pa  # here, since most datasets do without, and it takes 40 MB
    from pyarrow import parquet

    schema = _schema(form)
    left = iter(rows)
    try:
        with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
            while batch := list(islice(left, _AT_ONCE)):
                writer.write_table(pa.Table.from_pylist([_columns_of(row, form) for row in batch], schema))
    except pa.ArrowException as error:
        raise DatasetError(
            f"Parquet cannot hold these rows as {form}: {str(error).partition(chr(10))[0]}.",
            "Write JSONL instead: --container jsonl",
        ) from error


def _schema(form: Format) -> pa.Schema:
    import pyarrow as pa

    text = pa.string()
    call = pa.struct(
        {"id": text, "type": text, "function": pa.struct({"name": text, "arguments": text})},
    )
    turn = pa.struct({"from": text, "value": text})
    types: Mapping[Holds, pa.DataType] = {
        "text": text,
        "tools": text,  # schemas of functions differ from row to row, which columns can't: JSON can
        "turn": turn,
        "turns": pa.list_(turn),
        "history": pa.list_(pa.list_(text)),
        "messages": pa.list_(
            pa.struct({"role": text, "content": text, "tool_calls": pa.list_(call), "name": text, "tool_call_id": text})
        ),
    }
    return pa.schema([(name, types[kind]) for name, kind in COLUMNS_OF[form].items()])


def _columns_of(row: dict[str, Any], form: Format) -> dict[str, Any]:
    columns = {}
    for name, kind in COLUMNS_OF[form].items():
        value = row.get(name)
        if value is not None and kind == "tools":
            value = _cell(value)
        elif value is not None and kind == "messages":
            value = [_with_arguments_as_text(message) for message in value]
        columns[name] = value
    return columns


def _with_arguments_as_text(message: dict[str, Any]) -> dict[str, Any]:
    """Arguments differ from call to call, as tools do; JSON text of them means the same."""
    calls = message.get("tool_calls")
    if not calls:
        return message
    return {**message, "tool_calls": [_with_text(call) for call in calls]}


def _with_text(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, dict) or "arguments" not in function:
        return call
    return {**call, "function": {**function, "arguments": _cell(function["arguments"])}}


_WRITERS: Final[Mapping[Container, Callable[[Iterable[dict[str, Any]], Format, Path], None]]] = {
    "jsonl": _write_jsonl,
    "json": _write_json,
    "csv": _write_csv,
    "parquet": _write_parquet,
}
