"""The rows of an assignment as examples, cached by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from oneseek.chat.render import Rendered
from oneseek.child import cpu_limit
from oneseek.datasets.formats import UsedFormat
from oneseek.datasets.limited import SECONDS
from oneseek.datasets.read import Dataset, read_dataset
from oneseek.datasets.split import split
from oneseek.datasets.token_cache import TokenCache
from oneseek.datasets.tokens import IGNORED, Encoder, Example, encoder_of
from oneseek.engine.interface import Assignment
from oneseek.errors import DatasetError, ModelError, WorkerFailed
from oneseek.registry.discover import describe

# Raise it with every change of what a row is encoded to, here or in `chat`: what was cached before is not used then.
ENCODING: Final = 1

_AT_ONCE = 64  # rows; an `Encoding` takes kilobytes for what an example keeps in a few bytes a token


class NumberedRow(NamedTuple):
    """A normalised row and the line of the dataset on which it starts."""

    line: int
    row: dict[str, Any]


def encode_rows(encoder: Encoder, rows: Sequence[NumberedRow], dataset: str) -> list[Example]:
    """The examples of a dataset's rows, in their order, two for a preference; out of the encoder's cache where they are
    there.

    Raises:
        WorkerFailed: the model's template refuses a row; its line is named.
    """
    if encoder.cache is None:
        return _encode(encoder, rows, dataset)
    key = _key(encoder, rows)
    stored = encoder.cache.get(key)
    if stored is not None:
        return list(_unpacked(stored))
    examples = _encode(encoder, rows, dataset)
    encoder.cache.put(key, _packed(examples))
    return examples


def _encode(encoder: Encoder, rows: Sequence[NumberedRow], dataset: str) -> list[Example]:
    examples = []
    for start in range(0, len(rows), _AT_ONCE):
        texts: list[Rendered] = []
        for line, row in rows[start : start + _AT_ONCE]:
            try:
                with cpu_limit(SECONDS):
                    texts += encoder.render(row)
            except (DatasetError, ModelError) as error:
                raise WorkerFailed("refused", f"{dataset}, line {line}: {error.problem}", error.fix) from error
        examples += encoder.encode_texts(texts)
    return examples


# -- the rows and the tokenizer of an assignment -------------------------------------------------------------------


def split_rows(assignment: Assignment) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The assignment's training and validation rows, as `numbered_rows` gives them, without their lines."""
    training, validation = numbered_rows(assignment)
    return [row for _, row in training], [row for _, row in validation]


def numbered_rows(assignment: Assignment) -> tuple[list[NumberedRow], list[NumberedRow]]:
    """The assignment's training and validation rows, the same for every model of a run.

    Raises:
        WorkerFailed: a file is no longer the one that the assignment names.
        DatasetError: it can't be read.
    """
    dataset = _unchanged(assignment.dataset_path, assignment.dataset_sha256)
    rows = _numbered(dataset)
    if assignment.validation_path is not None:
        return rows, _numbered(_unchanged(assignment.validation_path, assignment.validation_sha256))
    parts = split(dataset.digests, assignment.validation_split, assignment.seed)
    return [rows[i] for i in parts.training.tolist()], [rows[i] for i in parts.validation.tolist()]


def _unchanged(path: str, sha256: str | None) -> Dataset:
    dataset = read_dataset(Path(path))
    if dataset.sha256 != sha256:
        raise WorkerFailed(
            "refused",
            f"{path} has changed: its SHA-256 is {dataset.sha256}, the run began with {sha256}.",
            "Put the file of the run's beginning back, or start a new run.",
        )
    return dataset


def _numbered(dataset: Dataset) -> list[NumberedRow]:
    return [NumberedRow(line, row) for line, row in zip(dataset.lines.tolist(), dataset.rows, strict=True)]


def encoder_for(assignment: Assignment) -> Encoder:
    """The encoder of an assignment.

    Raises:
        ModelError: as `encoder_of`.
    """
    cache = None if assignment.cache_directory is None else TokenCache(Path(assignment.cache_directory))
    form = msgspec.convert(assignment.format, UsedFormat)
    return encoder_of(describe(Path(assignment.model_path)), form, assignment.max_length, cache)


# -- what a cache keeps --------------------------------------------------------------------------------------------


def _key(encoder: Encoder, rows: Sequence[NumberedRow]) -> str:
    """SHA-256 in hex of all that the examples depend on: what was written in the rows, and who encodes it."""
    made_by = [
        ENCODING,
        version("tokenizers"),
        version("jinja2"),
        encoder.sources,
        sorted(encoder.special_tokens.items()),
        encoder.format,
        encoder.max_length,
    ]
    digest = hashlib.sha256(msgspec.json.encode(made_by))
    for _, row in rows:
        # Not with sorted keys: a template may print an object as it stands.
        digest.update(b"\n" + msgspec.json.encode(row))
    return digest.hexdigest()


_LEARNED, _ANSWER = 1, 2  # bits of a token's mark


def _packed(examples: Sequence[Example]) -> bytes:
    """Little-endian: the number of examples; for each its tokens, answer bytes and whether it was cut (int64); every
    token's id (int32), then every token's mark (uint8)."""
    sizes = [(len(example.input_ids), example.answer_bytes, example.truncated) for example in examples]
    ids = [example.input_ids for example in examples]
    marks = [(example.labels != IGNORED) * _LEARNED + example.answer_mask * _ANSWER for example in examples]
    return b"".join(
        (
            np.array([len(examples), *chain.from_iterable(sizes)], dtype="<i8").tobytes(),
            *(part.astype("<i4").tobytes() for part in ids),
            *(part.astype("u1").tobytes() for part in marks),
        )
    )


def _unpacked(stored: memoryview) -> Iterator[Example]:
    """The examples that `_packed` made bytes of. Their arrays are views of few large ones."""
    count = int(np.frombuffer(stored, "<i8", 1)[0])
    sizes = np.frombuffer(stored, "<i8", 3 * count, offset=8).reshape(count, 3)
    tokens, begin = int(sizes[:, 0].sum()), 8 + sizes.nbytes
    ids = np.frombuffer(stored, "<i4", tokens, offset=begin).astype(np.int32, copy=False)
    marks = np.frombuffer(stored, "u1", tokens, offset=begin + ids.nbytes)
    labels = np.where(marks & _LEARNED, ids, np.int32(IGNORED))
    answer_mask = (marks & _ANSWER).astype(np.bool_)
    start = 0
    for length, answer_bytes, truncated in sizes.tolist():
        part = slice(start, start + length)
        yield Example(ids[part], labels[part], answer_mask[part], answer_bytes, bool(truncated))
        start += length
