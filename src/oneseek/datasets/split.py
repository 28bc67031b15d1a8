"""Which rows are trained on and which are set aside: a function of the rows, the share and the seed alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from oneseek.errors import DatasetError


class Split(msgspec.Struct, frozen=True):
    """Indices into the dataset's rows, ascending. Every row is on exactly one side."""

    training: tuple[int, ...]
    validation: tuple[int, ...]


def split(digests: Sequence[bytes], share: float, seed: int) -> Split:
    """Set aside `max(1, round(share * rows))` rows, identical rows (equal digests) all on one side.

    Groups of identical rows stand in the order of SHA-256(`<seed>:` + digest), and validation takes from the front
    every group that fits into what is still wanted, of at most all rows but one. Where none fits, it is the smallest
    group. No group's place depends on the other rows: where all rows differ, of those that two datasets share, one
    dataset's validation side contains the other's.

    Args:
        digests: `formats.row_digest` of every row, in the order of the rows.
        share: of the rows, above 0 and below 1.
        seed: the run's seed.

    Raises:
        DatasetError: there are fewer than two different rows, so that one side would be empty.
    """
    groups: dict[bytes, list[int]] = {}
    for index, digest in enumerate(digests):
        groups.setdefault(digest, []).append(index)
    if len(groups) < 2:
        raise DatasetError(
            f"The dataset has {len(digests)} usable rows and {len(groups)} different ones; training and validation "
            "need at least one each.",
            "Add rows that differ.",
        )
    wanted = min(max(1, round(share * len(digests))), len(digests) - 1)
    ordered = [groups[digest] for digest in sorted(groups, key=lambda digest: _place(digest, seed))]
    validation: list[int] = []
    for group in ordered:
        if len(validation) + len(group) <= wanted:
            validation += group
    smallest: list[int] = min(ordered, key=len)
    aside = frozenset(validation or smallest)
    return Split(tuple(index for index in range(len(digests)) if index not in aside), tuple(sorted(aside)))


def rows_digest(digests: Sequence[bytes], split: Split) -> str:
    """SHA-256 in hex that names the rows used, their order and their side: for each side, training first, the number
    of its rows as 8 bytes (big-endian), then their digests."""
    digest = hashlib.sha256()
    for side in (split.training, split.validation):
        digest.update(len(side).to_bytes(8, "big"))
        for index in side:
            digest.update(digests[index])
    return digest.hexdigest()


def _place(digest: bytes, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:".encode() + digest).digest()
