"""The settings as the form shows them: names for people, and the reach of sliders, from the one schema."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

from oneseek.config import reference

_NAMES = {
    "data.dataset": "Dataset",
    "data.validation_split": "Validation share",
    "data.max_length": "Max length",
    "lora.r": "Rank",
    "lora.use_rslora": "Rank-stabilised",
    "training.num_epochs": "Epochs",
    "training.max_grad_norm": "Gradient clipping",
    "training.warmup_ratio": "Warm-up",
    "training.lr_scheduler": "Schedule",
    "training.gradient_accumulation_steps": "Accumulation steps",
    "training.checkpoint_every": "Checkpoint every",
}
_STEEP = 50
"""A range whose ends are so many times apart is shown on a logarithmic scale."""


@dataclass(frozen=True)
class Knob:
    """A number on a slider. All of `low`, `high`, `step` and the recommended `band` are as the slider has them: powers
    of ten where it is `log`."""

    low: float
    high: float
    step: float
    band: tuple[float, float]
    log: bool


@dataclass(frozen=True)
class Shown:
    """A setting in the form: `label` and `help` in English."""

    field: str
    label: str
    help: str
    kind: str
    default: object
    choices: tuple[str, ...]
    bounds: tuple[str, ...]
    recommended: tuple[float, float] | None
    unit: str
    expects: str
    knob: Knob | None

    @property
    def id(self) -> str:
        """For the element that holds its value."""
        return self.field.replace(".", "-").replace("_", "-")


@cache
def setting(field: str) -> Shown:
    """A setting by its dotted name.

    Raises:
        KeyError: there is none of that name.
    """
    known = reference.settings()[field]
    return Shown(
        field=field,
        label=_NAMES.get(field, field.rpartition(".")[2].replace("_", " ").capitalize()),
        help=" ".join(known.text.split()),
        kind=known.kind,
        default=known.default,
        choices=known.choices,
        bounds=known.bounds,
        recommended=known.recommended,
        unit=known.unit,
        expects=known.expects,
        knob=_knob(known.kind, known.recommended) if known.recommended else None,
    )


def _knob(kind: str, recommended: tuple[float, float]) -> Knob:
    low, high = recommended
    if low > 0 and high / low >= _STEEP:
        return Knob(math.log10(low) - 1, math.log10(high) + 1, 0.01, (math.log10(low), math.log10(high)), log=True)
    if kind == "whole number":
        return Knob(1, 2 * high, 1, recommended, log=False)
    return Knob(0, 2 * high, high / 50, recommended, log=False)
