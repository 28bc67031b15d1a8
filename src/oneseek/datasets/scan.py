"""What one pass over a dataset finds out, without keeping its rows."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from oneseek.datasets.convert import targets_of
from oneseek.datasets.formats import METHOD_OF, STRATEGY_OF, USED_AS, FaultKind, Format

Container = Literal["jsonl", "json", "csv", "parquet"]

EXAMPLES = 3
"""Bad rows that are shown of each kind."""

SHOWN_ROWS = 3
"""First rows that are shown."""


class RowProblem(msgspec.Struct, frozen=True):
    """A row that cannot be used. Lines are counted from 1; in Parquet a row's number stands for its line."""

    line: int
    reason: str


class ProblemGroup(msgspec.Struct, frozen=True, kw_only=True):
    """The bad rows of one kind: how many, and the first EXAMPLES of them."""

    kind: FaultKind
    count: int
    examples: tuple[RowProblem, ...]


class Sample(msgspec.Struct, frozen=True):
    """A usable row, normalised; `index` counts the usable rows from 0."""

    index: int
    line: int
    row: dict[str, Any]


class Duplicates(msgspec.Struct, frozen=True):
    """Usable rows that equal an earlier one: how many, and of the first EXAMPLES of them the line and that of the
    earliest row that they equal."""

    count: int
    examples: tuple[tuple[int, int], ...]


class Scan(msgspec.Struct, frozen=True, kw_only=True, eq=False, dict=True):
    """A dataset, described.

    `sha256` is of the file's bytes, in hex. `format` is that of the first row that has one. `rows` counts the usable
    rows; `digests` holds the first 8 bytes of each one's `row_digest` (big-endian, as uint64) and `lines` where it
    starts (uint32), both (rows,). `rows_sha256` is the SHA-256 in hex of all whole digests, in order. `longest_row` is
    the number of bytes of the longest row, normalised, as JSON; None without rows.

    `samples` are usable rows in the file's order: the longest, and others drawn by a seed, or all rows where there are
    no more. `first` are the first five rows of at most 1 MiB as they stand in the file, usable or not.
    """

    path: str
    sha256: str
    size_bytes: int
    container: Container
    format: Format
    rows: int
    problems: tuple[ProblemGroup, ...]
    digests: NDArray[np.uint64]
    lines: NDArray[np.uint32]
    rows_sha256: str
    longest_row: int | None
    samples: tuple[Sample, ...]
    first: tuple[dict[str, Any], ...] = ()

    @property
    def bad_rows(self) -> int:
        return sum(group.count for group in self.problems)

    @property
    def samples_are_all(self) -> bool:
        return len(self.samples) == self.rows

    @cached_property
    def duplicates(self) -> Duplicates:
        """Told by the digests; takes a moment for a million rows, so only where it is asked for."""
        order = np.argsort(self.digests, kind="stable")  # (rows,): equal rows together, the earliest first
        ordered = self.digests[order]
        repeats = np.zeros(len(order), dtype=np.bool_)
        repeats[1:] = ordered[1:] == ordered[:-1]
        again = np.flatnonzero(repeats)  # places in `order`
        shown = again[np.argsort(order[again])[:EXAMPLES]]
        firsts = np.searchsorted(ordered, ordered[shown])
        pairs = zip(self.lines[order[shown]].tolist(), self.lines[order[firsts]].tolist(), strict=True)
        return Duplicates(len(again), tuple(pairs))

    def wire(self) -> dict[str, Any]:
        """What programs are told of it."""
        return {
            "path": self.path,
            "sha256": self.sha256,
            "size_bytes": self.size_bytes,
            "container": self.container,
            "format": self.format,
            **suggestions(self.format),
            "rows": self.rows,
            "bad_rows": self.problems,
            "duplicates": self.duplicates,
            "first": self.first[:SHOWN_ROWS],
        }


def suggestions(form: Format) -> dict[str, Any]:
    """What can be done with rows of a format, for programs."""
    return {
        "used_as": USED_AS[form],
        "strategy": STRATEGY_OF[form],
        "method": METHOD_OF[form],
        "converts_to": targets_of(form),
    }
