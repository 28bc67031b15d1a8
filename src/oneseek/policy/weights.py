"""Adaptive weights: learning rate moved towards the models that are winning."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

from oneseek.config.schema import AdaptiveWeightsSection
from oneseek.policy.ranking import best_and_worst


def adjust(
    weights: Mapping[str, float],
    metrics: Mapping[str, float | None],
    settings: AdaptiveWeightsSection,
    *,
    improved: bool = True,
) -> dict[str, float]:
    """The weights after an epoch, of the models that `weights` names (the live ones).

    Models equal to the best are multiplied by 1 + boost, those equal to the worst by 1 - penalty; when best and worst
    are equal nobody is. The products u are then scaled and clipped: w_i = clip(lambda * u_i, min, max) with the lambda
    for which the weights sum to their number, so that their mean stays 1.0.

    improved: whether some model's metric fell in this epoch (`adjust_every_epoch: false` adjusts only then).
    """
    if not settings.enabled:
        return dict.fromkeys(weights, 1.0)
    strategy = settings.adjust_strategy
    boost, cut = frozenset[str](), frozenset[str]()
    if strategy.adjust_every_epoch or improved:
        boost, cut = best_and_worst({key: metrics.get(key) for key in weights})
    products = {
        key: weight
        * ((1 + strategy.top_model_boost) if key in boost else (1 - strategy.bottom_model_penalty) if key in cut else 1)
        for key, weight in weights.items()
    }
    low, high = settings.min_multiplier, settings.max_multiplier
    if not strategy.normalize_weights:
        return {key: _clip(value, low, high) for key, value in products.items()}
    return normalise(products, low, high)


def normalise(products: Mapping[str, float], low: float, high: float) -> dict[str, float]:
    """w_i = clip(lambda * u_i, low, high) with sum(w) = len(w), for u_i > 0 and low <= 1 <= high.

    The sum is continuous, piecewise linear and never falling in lambda; its breakpoints are low/u_i and high/u_i. The
    segment in which it reaches the number of models is found by walking them in order, and solved exactly.
    """
    count = len(products)
    if count == 0:
        return {}
    values = list(products.values())
    points = sorted({low / value for value in values} | {high / value for value in values})
    factor = points[-1]
    for left, right in itertools.pairwise(points):
        if _total(right, values, low, high) >= count:
            # Between two breakpoints each weight is either clipped or proportional to lambda.
            middle = math.sqrt(left * right)
            proportional = sum(value for value in values if low < middle * value < high)
            clipped = sum(_clip(middle * value, low, high) for value in values if not low < middle * value < high)
            factor = (count - clipped) / proportional if proportional else left
            break
    if _total(points[0], values, low, high) >= count:
        factor = points[0]
    return {key: _clip(factor * value, low, high) for key, value in products.items()}


def final_weights(weights: Mapping[str, float]) -> dict[str, float]:
    """Weights scaled to sum 1.0, as certified files show them."""
    total = math.fsum(weights.values())
    return {key: weight / total for key, weight in weights.items()}


def _total(factor: float, values: list[float], low: float, high: float) -> float:
    return math.fsum(_clip(factor * value, low, high) for value in values)


def _clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
