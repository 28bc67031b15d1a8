"""Which rows are trained on and which are set aside: a function of the rows, the share and the seed alone."""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from oneseek.errors import DatasetError


class Split(msgspec.Struct, frozen=True, eq=False):
    """Indices into the dataset's rows, ascending. Every row is on exactly one side."""

    training: NDArray[np.int64]
    validation: NDArray[np.int64]


def split(digests: NDArray[np.uint64], share: float, seed: int) -> Split:
    """Set aside `max(1, round(share * rows))` rows, identical rows (equal digests) all on one side.

    Groups of identical rows stand in an order that the seed gives (`_places`), and validation takes from the front
    every group that fits into what is still wanted, of at most all rows but one. Where none fits, it is the smallest
    group. No group's place depends on the other rows: where all rows differ, of those that two datasets share, one
    dataset's validation side contains the other's.

    Args:
        digests: (rows,), the first 8 bytes of `formats.row_digest` of every row. Where two different rows share them,
            both are on one side, which does no harm.
        share: of the rows, above 0 and below 1.
        seed: the run's seed.

    Raises:
        DatasetError: there are fewer than two different rows, so that one side would be empty.
    """
    groups, group_of_row, sizes = np.unique(digests, return_inverse=True, return_counts=True)
    if len(groups) < 2:
        raise DatasetError(
            f"The dataset has {len(digests)} usable rows and {len(groups)} different ones; training and validation "
            "need at least one each.",
            "Add rows that differ.",
        )
    wanted = min(max(1, round(share * len(digests))), len(digests) - 1)
    order = np.argsort(_places(groups, seed))
    taken = _fitting(sizes[order].tolist(), wanted)
    aside = np.zeros(len(groups), dtype=np.bool_)
    aside[order[taken]] = True
    is_validation = aside[group_of_row]
    return Split(np.flatnonzero(~is_validation), np.flatnonzero(is_validation))


def rows_digest(rows_sha256: str, split: Split) -> str:
    """SHA-256 in hex that names the rows used, their order and their side: over the 32 bytes of `rows_sha256` (the
    digest of all rows, as Scan has it), then for each side, training first, the number of its rows and their indices,
    each as 8 bytes (big-endian)."""
    digest = hashlib.sha256(bytes.fromhex(rows_sha256))
    for side in (split.training, split.validation):
        digest.update(len(side).to_bytes(8, "big"))
        digest.update(side.astype(">u8").tobytes())
    return digest.hexdigest()


def files_digest(training_sha256: str, validation_sha256: str) -> str:
    """The same where validation rows have a file of their own: SHA-256 in hex over a word that no digest of one file
    begins with, and the 32 bytes of the `rows_sha256` of both."""
    return hashlib.sha256(b"two files" + bytes.fromhex(training_sha256 + validation_sha256)).hexdigest()


def _fitting(sizes: list[int], wanted: int) -> list[int]:
    """Places of the groups that are taken, from the front."""
    taken = []
    for place, size in enumerate(sizes):
        if size <= wanted:
            taken.append(place)
            wanted -= size
            if not wanted:
                break
    return taken or [sizes.index(min(sizes))]


_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX: Final = ((np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB)))


def _places(digests: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Each digest's rank among all numbers of 64 bits: `mix(digest ^ mix(seed + GOLDEN))`, with the mix of SplitMix64
    (Steele, Lea, Flood 2014). It is one to one, so that no two digests share a place."""
    key = _mixed(np.array([seed % 2**64], dtype=np.uint64) + _GOLDEN)
    return _mixed(digests ^ key)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    for shift, factor in _MIX:
        values = (values ^ (values >> shift)) * factor
    return values ^ (values >> np.uint64(31))
