from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from oneseek.datasets.split import Split, rows_digest, split
from oneseek.errors import DatasetError

Digests = NDArray[np.uint64]


def digests(values: Iterable[int]) -> Digests:
    whole = (hashlib.sha256(str(value).encode()).digest() for value in values)
    return np.array([int.from_bytes(digest[:8], "big") for digest in whole], dtype=np.uint64)


def rows_sha256(rows: Digests) -> str:
    return hashlib.sha256(rows.tobytes()).hexdigest()


ROWS = st.lists(st.integers(0, 30), min_size=2, max_size=80).filter(lambda rows: len(set(rows)) > 1).map(digests)
DIFFERENT = st.lists(st.integers(0, 60), min_size=2, max_size=60, unique=True).map(digests)
MORE_DIFFERENT = st.lists(st.integers(61, 120), max_size=40, unique=True).map(digests)
SHARES = st.floats(0.001, 0.999)
SEEDS = st.integers(0, 2**32 - 1)


def chosen(rows: Digests, side: NDArray[np.int64]) -> set[int]:
    return set(rows[side].tolist())


@settings(deadline=None)
@given(rows=ROWS, share=SHARES, seed=SEEDS)
def test_every_row_is_on_exactly_one_side_and_neither_is_empty(rows: Digests, share: float, seed: int) -> None:
    sides = split(rows, share, seed)

    training, validation = sides.training.tolist(), sides.validation.tolist()
    assert sorted(training + validation) == list(range(len(rows)))
    assert training == sorted(training)
    assert validation == sorted(validation)
    assert training
    assert validation


@settings(deadline=None)
@given(rows=ROWS, share=SHARES, seed=SEEDS)
def test_identical_rows_stay_on_one_side(rows: Digests, share: float, seed: int) -> None:
    sides = split(rows, share, seed)

    assert not chosen(rows, sides.training) & chosen(rows, sides.validation)


@settings(deadline=None)
@given(rows=ROWS, share=SHARES, seed=SEEDS)
@example(rows=digests([1, 2]), share=0.999, seed=0)
@example(rows=digests([1] * 99 + [2]), share=0.1, seed=0)
@example(rows=digests([1] * 90 + list(range(2, 12))), share=0.1, seed=0)
def test_validation_is_never_larger_than_its_share_but_for_a_smallest_group(
    rows: Digests, share: float, seed: int
) -> None:
    sides = split(rows, share, seed)

    wanted = max(1, round(share * len(rows)))
    sizes = Counter(rows.tolist())
    left_out = chosen(rows, sides.training)
    if len(sides.validation) > wanted:
        assert len(sides.validation) == min(sizes.values())
    else:
        room = min(wanted, len(rows) - 1) - len(sides.validation)
        assert all(sizes[row] > room for row in left_out)


def test_the_smallest_group_is_set_aside_where_every_group_is_too_large() -> None:
    rows = digests([1] * 5 + [2] * 3 + [3] * 3)

    asides = {tuple(split(rows, 0.1, seed).validation.tolist()) for seed in range(30)}

    assert asides == {(5, 6, 7), (8, 9, 10)}


@settings(deadline=None)
@given(rows=ROWS, share=SHARES, seed=SEEDS, order=SEEDS)
def test_the_side_of_a_row_does_not_depend_on_its_place_in_the_file(
    rows: Digests, share: float, seed: int, order: int
) -> None:
    shuffled = np.random.default_rng(order).permutation(rows)

    here, there = split(rows, share, seed), split(shuffled, share, seed)

    assert chosen(rows, here.validation) == chosen(shuffled, there.validation)


@settings(deadline=None)
@given(rows=DIFFERENT, more=MORE_DIFFERENT, share=SHARES, seed=SEEDS)
def test_added_rows_only_move_the_boundary_between_the_sides(
    rows: Digests, more: Digests, share: float, seed: int
) -> None:
    together = np.concatenate([rows, more])

    before, after = split(rows, share, seed), split(together, share, seed)

    old = chosen(rows, before.validation)
    new = chosen(together, after.validation) & set(rows.tolist())
    assert old <= new or new <= old


@settings(deadline=None)
@given(rows=DIFFERENT, seed=SEEDS, shares=st.tuples(SHARES, SHARES))
def test_a_larger_share_sets_aside_the_same_rows_and_more(
    rows: Digests, seed: int, shares: tuple[float, float]
) -> None:
    small, large = split(rows, min(shares), seed), split(rows, max(shares), seed)

    assert set(small.validation.tolist()) <= set(large.validation.tolist())


def test_different_seeds_set_different_rows_aside() -> None:
    rows = digests(range(200))

    asides = {tuple(split(rows, 0.1, seed).validation.tolist()) for seed in range(10)}

    assert len(asides) == 10


def test_every_row_is_set_aside_about_as_often_as_any_other() -> None:
    rows = digests(range(50))

    often = Counter(index for seed in range(2000) for index in split(rows, 0.1, seed).validation.tolist())

    assert set(often) == set(range(50))
    assert all(140 <= count <= 260 for count in often.values())  # 200 expected, standard deviation 13


def mix(value: int) -> int:
    """The finaliser of SplitMix64, in Python's own numbers."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
    return value ^ (value >> 31)


def test_the_order_is_that_of_the_documented_mix() -> None:
    rows = digests(range(19))  # a tenth of them is rounded to two
    places = [mix(row ^ mix(42 + 0x9E3779B97F4A7C15)) for row in rows.tolist()]

    sides = split(rows, 0.1, 42)

    assert set(sides.validation.tolist()) == set(sorted(range(19), key=lambda index: places[index])[:2])


PROGRAM = """
import numpy as np
from oneseek.datasets.split import rows_digest, split
print(rows_digest("ab" * 32, split(np.arange(60, dtype=np.uint64) % 40, 0.2, 7)))
"""


def test_a_split_does_not_depend_on_the_hash_seed_of_python() -> None:
    answers = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }

    assert answers == {rows_digest("ab" * 32, split(np.arange(60, dtype=np.uint64) % 40, 0.2, 7)) + "\n"}


@pytest.mark.parametrize("rows", [digests([]), digests([1]), digests([1] * 9)], ids=["none", "one", "one nine times"])
def test_fewer_than_two_different_rows_are_refused_with_the_fix(rows: Digests) -> None:
    with pytest.raises(DatasetError) as refused:
        split(rows, 0.1, 42)

    assert f"{len(rows)} usable rows" in refused.value.problem
    assert "rows that differ" in refused.value.fix


@settings(deadline=None)
@given(rows=ROWS, share=SHARES, seed=SEEDS)
def test_the_rows_digest_names_the_rows_their_order_and_their_side(rows: Digests, share: float, seed: int) -> None:
    sides = split(rows, share, seed)

    name = rows_digest(rows_sha256(rows), sides)

    assert len(bytes.fromhex(name)) == 32
    assert name != rows_digest(rows_sha256(rows + np.uint64(1)), sides)
    everything = np.arange(len(rows))
    assert name != rows_digest(rows_sha256(rows), Split(everything, everything[:0]))


def test_the_rows_digest_is_over_the_documented_bytes() -> None:
    sides = Split(np.array([0, 2]), np.array([1]))

    expected = bytes.fromhex("ab" * 32) + b"".join(n.to_bytes(8, "big") for n in (2, 0, 2, 1, 1))
    assert rows_digest("ab" * 32, sides) == hashlib.sha256(expected).hexdigest()
