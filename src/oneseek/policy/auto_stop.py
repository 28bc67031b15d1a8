"""Confidence-based auto-stop: the run ends when nothing more is learned."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from oneseek.config.schema import ConfidenceAutoStopSection
from oneseek.events import AutoStop


def decide(history: Sequence[Mapping[str, float | None]], settings: ConfidenceAutoStopSection) -> AutoStop:
    """Whether to stop after the last of `history`'s epochs (each: ranked metric by model key).

    An epoch is a plateau when the ranked metric changed by less than `threshold`. `patience` plateau epochs in a row
    stop the run, but not before `min_epochs`. `remaining` counts down, and is back at `patience` after a real change.
    """
    plateau = 0
    current: float | None = None
    for before, after in itertools.pairwise(history):
        current = change(before, after)
        plateau = plateau + 1 if current is not None and current < settings.threshold else 0
    triggered = settings.enabled and plateau >= settings.patience and len(history) >= settings.min_epochs
    return AutoStop(
        remaining=max(0, settings.patience - plateau) if settings.enabled else settings.patience,
        threshold=settings.threshold,
        current_change=current,
        triggered=triggered,
    )


def change(before: Mapping[str, float | None], after: Mapping[str, float | None]) -> float | None:
    """Mean absolute change over the models that have a number in both epochs; None where there are none.

    The mean of absolute changes, not the change of the mean: one model's gain must not hide another's.
    """
    steps = [abs(now - then) for key, now in after.items() if now is not None and (then := before.get(key)) is not None]
    return math.fsum(steps) / len(steps) if steps else None
