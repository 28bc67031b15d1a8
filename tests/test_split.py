from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from oneseek.datasets.split import Split, rows_digest, split
from oneseek.errors import DatasetError


def digest(value: int) -> bytes:
    return hashlib.sha256(str(value).encode()).digest()


ROWS = st.lists(st.integers(0, 30).map(digest), min_size=2, max_size=80).filter(lambda rows: len(set(rows)) > 1)
DIFFERENT = st.lists(st.integers(0, 60).map(digest), min_size=2, max_size=60, unique=True)
MORE_DIFFERENT = st.lists(st.integers(61, 120).map(digest), max_size=40, unique=True)
SHARES = st.floats(0.001, 0.999)
SEEDS = st.integers(0, 2**32 - 1)


@settings(deadline=None)
@given(rows=ROWS, share=SHARES, seed=SEEDS)
def test_every_row_is_on_exactly_one_side_and_neither_is_empty(rows: list[bytes], share: float, seed: int) -> None:
    sides = split(rows, share, seed)

    assert sorted(sides.training + sides.validation) == list(range(len(rows)))
    assert list(sides.training) == sorted(sides.training)
    assert list(sides.validation) == sorted(sides.validation)
    assert sides.training
    assert sides.validation


@settings(deadline=None)
@given(rows=ROWS, share=SHARES, seed=SEEDS)
def test_identical_rows_stay_on_one_side(rows: list[bytes], share: float, seed: int) -> None:
    sides = split(rows, share, seed)

    assert not {rows[index] for index in sides.training} & {rows[index] for index in sides.validation}


@settings(deadline=None)
@given(rows=ROWS, share=SHARES, seed=SEEDS)
@example(rows=[digest(1), digest(2)], share=0.999, seed=0)
@example(rows=[digest(1)] * 99 + [digest(2)], share=0.1, seed=0)
@example(rows=[digest(1)] * 90 + [digest(n) for n in range(2, 12)], share=0.1, seed=0)
def test_validation_is_never_larger_than_its_share_but_for_a_smallest_group(
    rows: list[bytes], share: float, seed: int
) -> None:
    sides = split(rows, share, seed)

    wanted = max(1, round(share * len(rows)))
    sizes = Counter(rows)
    left_out = {rows[index] for index in sides.training}
    if len(sides.validation) > wanted:
        assert len(sides.validation) == min(sizes.values())
    else:
        room = min(wanted, len(rows) - 1) - len(sides.validation)
        assert all(sizes[row] > room for row in left_out)


def test_the_smallest_group_is_set_aside_where_every_group_is_too_large() -> None:
    rows = [digest(1)] * 5 + [digest(2)] * 3 + [digest(3)] * 3

    asides = {split(rows, 0.1, seed).validation for seed in range(30)}

    assert asides == {(5, 6, 7), (8, 9, 10)}


@settings(deadline=None)
@given(rows=ROWS, share=SHARES, seed=SEEDS, order=st.randoms(use_true_random=False))
def test_the_side_of_a_row_does_not_depend_on_its_place_in_the_file(
    rows: list[bytes], share: float, seed: int, order: st.DataObject
) -> None:
    shuffled = list(rows)
    order.shuffle(shuffled)  # type: ignore[attr-defined]

    here, there = split(rows, share, seed), split(shuffled, share, seed)

    assert {rows[index] for index in here.validation} == {shuffled[index] for index in there.validation}


@settings(deadline=None)
@given(rows=DIFFERENT, more=MORE_DIFFERENT, share=SHARES, seed=SEEDS)
def test_added_rows_only_move_the_boundary_between_the_sides(
    rows: list[bytes], more: list[bytes], share: float, seed: int
) -> None:
    before, after = split(rows, share, seed), split(rows + more, share, seed)

    old = {rows[index] for index in before.validation}
    new = {(rows + more)[index] for index in after.validation} & set(rows)
    assert old <= new or new <= old


@settings(deadline=None)
@given(rows=DIFFERENT, seed=SEEDS, shares=st.tuples(SHARES, SHARES))
def test_a_larger_share_sets_aside_the_same_rows_and_more(
    rows: list[bytes], seed: int, shares: tuple[float, float]
) -> None:
    small, large = split(rows, min(shares), seed), split(rows, max(shares), seed)

    assert set(small.validation) <= set(large.validation)


def test_different_seeds_set_different_rows_aside() -> None:
    rows = [digest(value) for value in range(200)]

    assert split(rows, 0.1, 1) != split(rows, 0.1, 2)


def test_the_order_is_that_of_the_documented_hash() -> None:
    rows = [digest(value) for value in range(19)]  # a tenth of them is rounded to two
    places = [hashlib.sha256(b"42:" + row).hexdigest() for row in rows]

    sides = split(rows, 0.1, 42)

    assert set(sides.validation) == set(sorted(range(19), key=lambda index: places[index])[:2])


PROGRAM = """
import hashlib
from oneseek.datasets.split import rows_digest, split
rows = [hashlib.sha256(str(value % 40).encode()).digest() for value in range(60)]
print(rows_digest(rows, split(rows, 0.2, 7)))
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

    rows = [digest(value % 40) for value in range(60)]
    assert answers == {rows_digest(rows, split(rows, 0.2, 7)) + "\n"}


@pytest.mark.parametrize("rows", [[], [digest(1)], [digest(1)] * 9])
def test_fewer_than_two_different_rows_are_refused_with_the_fix(rows: list[bytes]) -> None:
    with pytest.raises(DatasetError) as refused:
        split(rows, 0.1, 42)

    assert f"{len(rows)} usable rows" in refused.value.problem
    assert "rows that differ" in refused.value.fix


@settings(deadline=None)
@given(rows=ROWS, share=SHARES, seed=SEEDS)
def test_the_rows_digest_names_the_rows_their_order_and_their_side(rows: list[bytes], share: float, seed: int) -> None:
    sides = split(rows, share, seed)
    assume(rows[0] != rows[-1])

    name = rows_digest(rows, sides)

    assert len(bytes.fromhex(name)) == 32
    assert name == rows_digest(tuple(rows), sides)
    assert name != rows_digest(rows, Split(sides.training + sides.validation, ()))
    assert name != rows_digest([*rows[:-1], digest(99)], sides)


def test_the_rows_digest_changes_with_the_order_of_rows() -> None:
    rows = [digest(value) for value in range(4)]

    assert rows_digest(rows, Split((0, 1), (2, 3))) != rows_digest(rows, Split((1, 0), (2, 3)))
    assert rows_digest(rows, Split((0, 1), (2, 3))) != rows_digest(rows, Split((0, 1, 2), (3,)))
