"""What is to be reached, and whether it was."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A figure and its bound. The median of `values` counts; where there are none, `note` says why. `unit` is written
    behind a figure; "%" multiplies it by a hundred."""

    what: str
    bound: float
    side: Literal["at least", "at most"]
    values: Sequence[float]
    unit: str = "x"
    stretch: bool = False
    note: str = ""

    @property
    def median(self) -> float | None:
        return statistics.median(self.values) if self.values else None

    @property
    def verdict(self) -> str:
        if self.median is None:
            return "not comparable"
        met = self.median >= self.bound if self.side == "at least" else self.median <= self.bound
        if met:
            return "met"
        return "missed (a stretch goal)" if self.stretch else "missed"

    @property
    def cells(self) -> tuple[str, str, str, str, str, str]:
        """What, goal, median, smallest and largest, verdict, note."""
        spread = f"{self._written(min(self.values))} to {self._written(max(self.values))}" if self.values else ""
        median = "" if self.median is None else self._written(self.median)
        return self.what, f"{self.side} {self._written(self.bound)}", median, spread, self.verdict, self.note

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "median": self.median, "verdict": self.verdict}

    def _written(self, value: float) -> str:
        if self.unit == "%":
            return f"{100 * value:.1f} %"
        if abs(value) >= 1000:
            return f"{value:,.0f} {self.unit}"
        return f"{value:.3g} {self.unit}"
