"""Who is winning."""

from __future__ import annotations

import math
from collections.abc import Mapping


def usable(value: float | None) -> bool:
    """Whether a metric is a number at all: None, NaN and infinities are not."""
    return value is not None and math.isfinite(value)


def ranking(metrics: Mapping[str, float | None]) -> tuple[str, ...]:
    """Model keys, the lowest metric first, equals by key; those without a number last."""
    return tuple(sorted(metrics, key=lambda key: (not usable(metrics[key]), _number(metrics[key]), key)))


def best_and_worst(metrics: Mapping[str, float | None]) -> tuple[frozenset[str], frozenset[str]]:
    """The models equal to the lowest and to the highest metric. Both empty when the two are the same number."""
    numbers = {key: value for key, value in metrics.items() if value is not None and math.isfinite(value)}
    if not numbers or min(numbers.values()) == max(numbers.values()):
        return frozenset(), frozenset()
    low, high = min(numbers.values()), max(numbers.values())
    return (
        frozenset(key for key, value in numbers.items() if value == low),
        frozenset(key for key, value in numbers.items() if value == high),
    )


def _number(value: float | None) -> float:
    return value if value is not None and math.isfinite(value) else 0.0
