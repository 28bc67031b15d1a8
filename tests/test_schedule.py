"""The learning rate's way up and down."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneseek.engine.schedule import Kind, schedule_factor, warmup_steps

KINDS: tuple[Kind, ...] = ("linear", "cosine", "constant")
kinds = st.sampled_from(KINDS)
totals = st.integers(1, 400)
ratios = st.floats(0, 1)


@given(total=totals, ratio=ratios, kind=kinds)
def test_it_stays_above_zero_and_reaches_one_at_most(total: int, ratio: float, kind: Kind) -> None:
    warmup = warmup_steps(total, ratio)

    factors = [schedule_factor(step, total, warmup, kind) for step in range(total)]

    assert all(0 < factor <= 1 for factor in factors)
    assert max(factors) == 1.0


@given(total=totals, ratio=ratios, kind=kinds)
def test_it_rises_through_the_warmup_and_never_after(total: int, ratio: float, kind: Kind) -> None:
    warmup = warmup_steps(total, ratio)

    factors = [schedule_factor(step, total, warmup, kind) for step in range(total)]

    assert factors[:warmup] == sorted(factors[:warmup])
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)
    assert all(first < second for first, second in itertools.pairwise(factors[:warmup]))


@given(total=totals, ratio=ratios)
def test_the_warmup_is_never_longer_than_the_training(total: int, ratio: float) -> None:
    assert 0 <= warmup_steps(total, ratio) <= total


@pytest.mark.parametrize(("total", "ratio", "steps"), [(100, 0.07, 7), (100, 0.071, 8), (10, 0.03, 1), (10, 0, 0)])
def test_the_share_of_warmup_steps_is_rounded_up_but_not_by_rounding_errors(
    total: int, ratio: float, steps: int
) -> None:
    assert warmup_steps(total, ratio) == steps


@pytest.mark.parametrize(
    ("kind", "factors"),
    [
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1.0, 1.0, 0.8535533905932737, 0.5, 0.14644660940672624]),
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_worked_examples(kind: Kind, factors: list[float]) -> None:
    assert [schedule_factor(step, 6, 2, kind) for step in range(6)] == pytest.approx(factors)
