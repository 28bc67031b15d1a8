"""How long the rows of a dataset are: in characters, and in the tokens of a base model. All rows count, none is drawn.

A row's length takes four bytes here, so a million rows take a few megabytes whatever is written in them.
"""

from __future__ import annotations

import logging
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from oneseek.datasets.containers import Progress
from oneseek.datasets.formats import USED_AS, Format, UsedFormat, normalise_row
from oneseek.datasets.limited import RowTokens, measured
from oneseek.datasets.read import rows_of, scan
from oneseek.datasets.scan import EXAMPLES, ProblemGroup, Scan
from oneseek.datasets.tokens import TOKENIZER
from oneseek.errors import ModelError, StorageError
from oneseek.files.durable import sha256_bytes, sha256_file, storage_errors, write_json
from oneseek.registry.capabilities import ModelInfo

HISTOGRAM: Final = (0, *(step * 2**power for power in range(14) for step in (16, 24)))
"""Where the bins of a histogram begin: 0, 16, 24, 32, 48, 64, … tokens. Each ends where the next begins."""

# Raise it with every change of what is counted: what was kept before is not used then.
_COUNTING: Final = 1

_log = logging.getLogger(__name__)


class Lengths(msgspec.Struct, frozen=True, kw_only=True):
    """How long `rows` rows are. `median` is the mean of the two middle rows where their number is even; `p95` is the
    smallest length that at least 95 % of the rows do not exceed (nearest rank)."""

    rows: int
    total: int
    mean: float
    median: float
    p95: int
    max: int


class Bin(msgspec.Struct, frozen=True):
    """How many rows have at least so many tokens, and fewer than the next bin's."""

    at_least: int
    rows: int


class Refusal(msgspec.Struct, frozen=True):
    """A row that a base model's template does not take."""

    line: int
    reason: str


class TokenStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of a dataset as one base model meets them.

    `tokens` and `histogram` (the bins of HISTOGRAM, all of them) are before anything is cut. `truncated` rows are
    longer than `max_length` or the model's context. After cutting, `supervised` tokens are learned, and `unlearnable`
    rows have none, or a preference's answer has none. `refused` rows are not taken by the model's template;
    `unmeasured` stand after one that took too much time or memory. None of these two is in `tokens`.
    """

    max_length: int
    tokens: Lengths
    histogram: tuple[Bin, ...]
    truncated: int
    supervised: int
    unlearnable: int
    refused: int
    refusals: tuple[Refusal, ...]
    unmeasured: int

    @property
    def truncated_share(self) -> float:
        return self.truncated / self.tokens.rows if self.tokens.rows else 0.0


class Unusable(msgspec.Struct, frozen=True):
    """Why a base model can be used with none of the rows, and the fix."""

    problem: str
    fix: str


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """How long the usable rows of a dataset are; `bad_rows` are the others, by kind. `models` by key, and those that
    can't be used apart. `sha256` is of the file's bytes."""

    path: str
    sha256: str
    format: Format
    characters: Lengths
    bad_rows: tuple[ProblemGroup, ...]
    models: dict[str, TokenStatistics]
    unusable: dict[str, Unusable]


def lengths(values: Iterable[int]) -> Lengths:
    """Of whole numbers below 2**32; all 0 where there are none."""
    found = np.frombuffer(array("I", values), dtype=np.uintc)
    if not len(found):
        return Lengths(rows=0, total=0, mean=0.0, median=0.0, p95=0, max=0)
    return Lengths(
        rows=len(found),
        total=int(found.sum(dtype=np.uint64)),
        mean=float(found.mean()),
        median=float(np.median(found)),
        p95=int(np.percentile(found, 95, method="inverted_cdf")),
        max=int(found.max()),
    )


def characters(row: Mapping[str, Any]) -> int:
    """Characters of what is said in a normalised row: its texts, and the contents of its messages."""
    return sum(
        len(value) if isinstance(value, str) else sum(len(message["content"]) for message in value)
        for field, value in row.items()
        if field != "tools"
    )


def token_statistics(answers: Iterable[RowTokens], rows: int, max_length: int) -> TokenStatistics:
    """Count what a base model answered of the `rows` rows that it was asked."""
    counts = {"truncated": 0, "supervised": 0, "unlearnable": 0, "refused": 0}
    histogram = [0] * len(HISTOGRAM)
    refusals: list[Refusal] = []

    def taken() -> Iterator[int]:
        for answer in answers:
            if answer.refusal is not None:
                counts["refused"] += 1
                if len(refusals) < EXAMPLES:
                    refusals.append(Refusal(answer.line, answer.refusal))
                continue
            histogram[bisect_right(HISTOGRAM, answer.tokens) - 1] += 1
            counts["truncated"] += answer.truncated
            counts["supervised"] += answer.supervised
            counts["unlearnable"] += not answer.learnable
            yield answer.tokens

    tokens = lengths(taken())
    return TokenStatistics(
        max_length=max_length,
        tokens=tokens,
        histogram=tuple(map(Bin, HISTOGRAM, histogram)),
        refusals=tuple(refusals),
        unmeasured=rows - tokens.rows - counts["refused"],
        **counts,
    )


# -- of a file, with base models, and kept -------------------------------------------------------------------------


def file_statistics(
    path: Path,
    models: Iterable[ModelInfo],
    max_length: int,
    kept: Path,
    progress: Callable[[str], Progress | None] = lambda _: None,
) -> Statistics:
    """The statistics of a file's usable rows, in the tokens of each model that can be used.

    Args:
        kept: the directory of token counts that were made before.
        progress: for what is done, in words, who is told how far the reading is.

    Raises:
        DatasetError: the file cannot be read as a dataset, or changes meanwhile.
    """
    found = scan(path, longest=0, drawn=0, progress=progress("Checking rows"))
    rows = partial(_used_rows, path, found)
    said = lengths(characters(row) for _, row in rows(progress("Counting characters")))
    counted: dict[str, TokenStatistics] = {}
    unusable: dict[str, Unusable] = {}
    for model in models:
        try:
            counted[model.key] = model_statistics(
                model,
                USED_AS[found.format],
                rows(progress(f"Counting tokens of {model.key}")),
                count=found.rows,
                dataset_sha256=found.sha256,
                max_length=max_length,
                kept=kept,
            )
        except ModelError as error:
            unusable[model.key] = Unusable(error.problem, error.fix)
    return Statistics(
        path=found.path,
        sha256=found.sha256,
        format=found.format,
        characters=said,
        bad_rows=found.problems,
        models=counted,
        unusable=unusable,
    )


def _used_rows(path: Path, found: Scan, progress: Progress | None) -> Iterator[tuple[int, dict[str, Any]]]:
    judged = rows_of(path, progress, sha256=found.sha256)
    return ((line, normalise_row(row, found.format)) for line, _, row, fault in judged if fault is None)


def model_statistics(
    model: ModelInfo,
    form: UsedFormat,
    rows: Iterable[tuple[int, dict[str, Any]]],
    *,
    count: int,
    dataset_sha256: str,
    max_length: int,
    kept: Path,
) -> TokenStatistics:
    """The statistics of a dataset's `count` normalised rows (line, row) in a base model's tokens, out of the directory
    `kept` where they are there; `rows` is not read then.

    Raises:
        ModelError: the model cannot be used with any row.
    """
    path = kept / f"{_key(model, form, dataset_sha256, max_length)}.json"
    known = _read(path)
    if known is None:
        known = token_statistics(measured(model, form, rows, max_length), count, max_length)
        if not known.unmeasured:  # a child that was killed may do better another time
            _keep(path, known)
    return known


def _key(model: ModelInfo, form: UsedFormat, dataset_sha256: str, max_length: int) -> str:
    """SHA-256 in hex of all that the statistics depend on."""
    tokenizer = Path(model.path) / TOKENIZER
    made_of = [
        _COUNTING,
        version("tokenizers"),
        version("jinja2"),
        dataset_sha256,
        form,
        max_length,
        sha256_file(tokenizer) if tokenizer.is_file() else None,  # without one there is nothing to keep
        model.chat_template,
        sorted(model.special_tokens.items()),
        model.context_length,
    ]
    return sha256_bytes(msgspec.json.encode(made_of))


def _read(path: Path) -> TokenStatistics | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=TokenStatistics)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        _log.warning("%s could not be read, so its rows are counted again: %s.", path, error)
        return None


def _keep(path: Path, found: TokenStatistics) -> None:
    try:
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, msgspec.to_builtins(found))
    except StorageError as error:
        _log.warning("The statistics are not kept: %s", error)
