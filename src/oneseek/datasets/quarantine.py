"""Bad rows, kept apart with the reason, so that none is lost when a run goes on without them."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import msgspec

from oneseek.datasets.read import JudgedRow, rows_of
from oneseek.files.durable import TEMP_SUFFIX, storage_errors, sync_directory


def quarantine(path: Path, into: Path) -> int:
    """Write every row of the dataset `path` that cannot be used to `into`, as JSONL; how many there are.

    A line holds `line`, `kind` and `reason`, and the row's text as `row`; of what is not UTF-8 its bytes in base64 as
    `row_base64`; of a row that is too long to be read, or missing, neither. Where no row is bad, nothing is written.
    The file is there whole or not at all.

    Raises:
        DatasetError: as `rows_of`.
        StorageError: it could not be written.
    """
    temporary = into.with_name(into.name + TEMP_SUFFIX)
    count = 0
    with storage_errors(into):
        into.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                for row in rows_of(path):
                    if row.fault:
                        file.write(msgspec.json.encode(_record(row)) + b"\n")
                        count += 1
                file.flush()
                os.fsync(file.fileno())
            if count:
                temporary.replace(into)
                sync_directory(into.parent)
        finally:
            temporary.unlink(missing_ok=True)
    return count


def _record(row: JudgedRow) -> dict[str, Any]:
    if row.fault is None:
        raise ValueError("The row is not bad.")
    record = {"line": row.line, "kind": row.fault.kind, "reason": row.fault.reason}
    if not row.data:
        return record
    try:
        return {**record, "row": row.data.decode()}
    except UnicodeDecodeError:
        return {**record, "row_base64": base64.b64encode(row.data).decode()}
