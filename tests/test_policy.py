from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneseek.config.schema import AdaptiveWeightsSection, AdjustStrategySection, ConfidenceAutoStopSection
from oneseek.events import AutoStop
from oneseek.policy import auto_stop
from oneseek.policy.ranking import best_and_worst, ranking
from oneseek.policy.weights import adjust, final_weights, normalise

DEFAULTS = AdaptiveWeightsSection()


def section(**settings: object) -> AdaptiveWeightsSection:
    strategy = {name: settings.pop(name) for name in list(settings) if name in AdjustStrategySection.model_fields}
    return AdaptiveWeightsSection.model_validate({**settings, "adjust_strategy": strategy})


def test_two_models_of_which_one_leads_each_time_end_at_the_bounds() -> None:
    metrics = {"a": 1.0, "b": 2.0}

    first = adjust({"a": 1.0, "b": 1.0}, metrics, DEFAULTS)
    second = adjust(first, metrics, DEFAULTS)
    third = adjust(second, metrics, DEFAULTS)

    assert first == pytest.approx({"a": 1.3684, "b": 0.6316}, abs=1e-4)
    assert second == pytest.approx({"a": 1.5, "b": 0.5})
    assert third == pytest.approx({"a": 1.5, "b": 0.5})
    assert final_weights(second) == pytest.approx({"a": 0.75, "b": 0.25})
    assert {key: 1e-4 * weight for key, weight in first.items()} == pytest.approx(
        {"a": 0.00013684, "b": 0.00006316}, abs=1e-8
    )


def test_one_model_keeps_its_weight() -> None:
    assert adjust({"a": 1.0}, {"a": 0.5}, DEFAULTS) == {"a": 1.0}


def test_equal_models_keep_their_weights() -> None:
    assert adjust({"a": 1.2, "b": 0.8}, {"a": 0.5, "b": 0.5}, DEFAULTS) == pytest.approx({"a": 1.2, "b": 0.8})


def test_all_that_equal_the_best_are_raised_and_the_middle_is_only_scaled() -> None:
    weights = adjust(dict.fromkeys("abcd", 1.0), {"a": 1, "b": 1, "c": 2, "d": 3}, section(max_multiplier=10))

    assert weights["a"] == weights["b"] > weights["c"] > weights["d"]
    assert weights["a"] / weights["c"] == pytest.approx(1.3)


def test_switched_off_every_weight_is_one() -> None:
    assert adjust({"a": 1.3, "b": 0.7}, {"a": 1, "b": 2}, section(enabled=False)) == {"a": 1.0, "b": 1.0}


def test_without_normalising_weights_are_only_clipped() -> None:
    weights = adjust({"a": 1.4, "b": 0.7}, {"a": 1, "b": 2}, section(normalize_weights=False))

    assert weights == pytest.approx({"a": 1.5, "b": 0.5})


@pytest.mark.parametrize(("improved", "changed"), [(True, True), (False, False)])
def test_adjusting_only_after_improvement_leaves_other_epochs_alone(improved: bool, changed: bool) -> None:
    before = {"a": 1.0, "b": 1.0}

    after = adjust(before, {"a": 1, "b": 2}, section(adjust_every_epoch=False), improved=improved)

    assert (after != before) is changed


def test_after_a_model_left_the_rest_has_mean_one_again() -> None:
    weights = adjust({"a": 1.5, "c": 0.9}, {"a": 1.0, "c": 1.0}, DEFAULTS)

    assert math.fsum(weights.values()) == pytest.approx(2)


products = st.dictionaries(st.text(max_size=3), st.floats(1e-6, 1e6), min_size=1, max_size=12)
lows, highs = st.floats(0.01, 1), st.floats(1, 20)


@given(products, lows, highs)
def test_normalised_weights_are_in_bounds_with_mean_one_and_keep_their_order(
    values: dict[str, float], low: float, high: float
) -> None:
    weights = normalise(values, low, high)

    assert all(low <= weight <= high for weight in weights.values())
    assert math.fsum(weights.values()) == pytest.approx(len(values))
    for one in values:
        for other in values:
            assert values[one] > values[other] or weights[one] <= weights[other] * (1 + 1e-9)


@given(products, lows, highs, st.floats(0.001, 1000))
def test_normalising_does_not_depend_on_the_scale(
    values: dict[str, float], low: float, high: float, scale: float
) -> None:
    scaled = normalise({key: value * scale for key, value in values.items()}, low, high)

    assert scaled == pytest.approx(normalise(values, low, high), rel=1e-6)


metrics = st.dictionaries(
    st.text(max_size=3), st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True)), max_size=8
)


@given(metrics)
def test_the_ranking_names_everyone_once_numbers_first_in_order(values: dict[str, float | None]) -> None:
    order = ranking(values)

    numbers = [value for key in order if (value := values[key]) is not None and math.isfinite(value)]
    assert sorted(order) == sorted(values)
    assert numbers == sorted(numbers)
    assert all(values[key] is not None and math.isfinite(values[key] or 0) for key in order[: len(numbers)])


@given(metrics)
def test_nobody_is_both_best_and_worst(values: dict[str, float | None]) -> None:
    best, worst = best_and_worst(values)

    assert not best & worst
    assert bool(best) == bool(worst)


def stop_after(*values: float, **settings: object) -> AutoStop:
    history = [{"a": value} for value in values]
    return auto_stop.decide(history, ConfidenceAutoStopSection.model_validate(settings))


def test_the_first_epoch_has_no_change_and_full_patience() -> None:
    info = stop_after(2.0)

    assert (info.current_change, info.remaining, info.triggered) == (None, 3, False)


def test_plateau_epochs_count_down_and_stop_at_patience() -> None:
    assert stop_after(2.0, 1.0, 0.9995).remaining == 2
    assert stop_after(2.0, 1.0, 0.9995, 0.9993).remaining == 1
    assert stop_after(2.0, 1.0, 0.9995, 0.9993, 0.9992).triggered


def test_a_real_change_restores_the_patience() -> None:
    assert stop_after(2.0, 1.9999, 1.9998, 1.5).remaining == 3


def test_a_change_of_exactly_the_threshold_is_a_real_change() -> None:
    assert stop_after(1.0, 0.75, threshold=0.25).remaining == 3


def test_no_stop_before_the_minimum_number_of_epochs() -> None:
    values = (1.0, 1.0, 1.0, 1.0)

    assert not stop_after(*values, patience=1, min_epochs=5).triggered
    assert stop_after(*values, 1.0, patience=1, min_epochs=5).triggered


def test_switched_off_it_never_stops() -> None:
    assert not stop_after(*[1.0] * 20, enabled=False).triggered


def test_one_models_gain_does_not_hide_anothers_loss() -> None:
    before, after = {"a": 1.0, "b": 1.0}, {"a": 0.5, "b": 1.5}

    assert auto_stop.change(before, after) == pytest.approx(0.5)


def test_a_model_without_a_number_in_one_epoch_does_not_count() -> None:
    assert auto_stop.change({"a": 1.0, "b": None}, {"a": 0.75, "b": 1.0}) == pytest.approx(0.25)
    assert auto_stop.change({"a": None}, {"a": 1.0}) is None


@given(st.lists(st.floats(0, 10), max_size=12))
def test_remaining_is_between_zero_and_patience_and_zero_when_it_stops(values: list[float]) -> None:
    info = stop_after(*values)

    assert info.remaining is not None
    assert 0 <= info.remaining <= 3
    assert not info.triggered or info.remaining == 0
