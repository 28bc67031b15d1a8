"""The rows of a Parquet file, each as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from io import FileIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from oneseek.datasets.raw_rows import BLOCK, Progress, RawRow, as_json
from oneseek.errors import DatasetError

if TYPE_CHECKING:
    import pyarrow as pa

_AT_ONCE: Final = 512  # rows


def parquet_rows(file: FileIO, path: Path, size: int, progress: Progress | None = None) -> Iterator[RawRow]:
    """Every row of a file of `size` bytes, with its number. What is null is left out of objects: a column's type gives
    each of them the fields of all.

    Raises:
        DatasetError: damaged, or of another version.
        OSError: it cannot be read.
    """
    import pyarrow as pa  # here, since most datasets do without, and it takes 40 MB
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file, buffer_size=BLOCK, pre_buffer=False) as opened:
            number, count = 0, opened.metadata.num_rows
            for batch in opened.iter_batches(_AT_ONCE, use_threads=False):
                for row in _values(batch.to_struct_array()):
                    number += 1
                    yield as_json(number, row)
                if progress:
                    progress(size * number // count, size)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        why = str(error).partition("\n")[0].rstrip(".")
        raise DatasetError(
            f"The dataset {path} can't be read as Parquet: {why}.", "Write it again, or as JSONL; it may be cut off."
        ) from error


def _values(array: pa.Array) -> list[Any]:
    """What a column holds, one value a row. Column by column, since an object for each cell takes twice the time."""
    from pyarrow import compute, types

    kind = array.type
    if types.is_struct(kind):
        return _objects(array)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        items = iter(_values(array.flatten()))
        counts = compute.list_value_length(array).to_pylist()
        return [None if count is None else list(islice(items, count)) for count in counts]
    if types.is_decimal(kind) or (types.is_temporal(kind) and not types.is_interval(kind)):
        # JSON has neither dates nor decimals, and Python's dates have bounds that Arrow's have not.
        return _values(array.cast("string"))
    return [_text(value) if isinstance(value, bytes) else value for value in array.to_pylist()]


def _objects(array: pa.Array) -> list[dict[str, Any] | None]:
    """Without what is null in them."""
    names = [field.name for field in array.type.fields]
    found: list[dict[str, Any] | None] = [
        {name: value for name, value in zip(names, values, strict=True) if value is not None}
        for values in zip(*map(_values, array.flatten()), strict=True)
    ]
    if not array.null_count:
        return found
    return [item if there else None for item, there in zip(found, array.is_valid().to_pylist(), strict=True)]


def _text(value: bytes) -> Any:
    """The text that bytes are in UTF-8; others are counted."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"bytes": len(value)}
