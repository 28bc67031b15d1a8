"""The settings as the form shows them: names for people, and the reach of sliders, from the one schema."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

from oneseek.config import reference
from oneseek.server.pages.help import HELP

_NAMES: Final[Mapping[str, str]] = {
    "model.base_models": "Base models",
    "model.name": "Base model",
    "data.validation_split": "Validation share",
    "training.num_epochs": "Epochs",
    "training.gradient_accumulation_steps": "Batches per step",
    "training.lr_scheduler": "Learning rate schedule",
    "training.warmup_ratio": "Warm-up",
    "training.max_grad_norm": "Gradient clipping",
    "training.checkpoint_every": "Steps between checkpoints",
    "training.sample_tokens": "Length of sample answers",
    "training.keep": "Adapter to keep",
    "lora.r": "Rank (r)",
    "lora.use_rslora": "Rank-stabilised LoRA",
    "dpo.beta": "Beta",
    "dpo.loss": "DPO loss",
    "adaptive_weights.enabled": "Adaptive weights",
    "adaptive_weights.min_multiplier": "Smallest weight",
    "adaptive_weights.max_multiplier": "Largest weight",
    "adaptive_weights.adjust_strategy.top_model_boost": "Boost of the best model",
    "adaptive_weights.adjust_strategy.bottom_model_penalty": "Penalty of the worst model",
    "adaptive_weights.adjust_strategy.normalize_weights": "Keep the mean at 1.0",
    "adaptive_weights.adjust_strategy.adjust_every_epoch": "Adjust after every epoch",
    "confidence_auto_stop.enabled": "Auto-stop",
    "confidence_auto_stop.threshold": "Smallest change",
    "confidence_auto_stop.patience": "Flat epochs",
    "confidence_auto_stop.min_epochs": "Fewest epochs",
    "live_leaderboard.enabled": "Leaderboard in the terminal",
    "live_leaderboard.refresh_interval": "Seconds between events",
    "live_leaderboard.display.show_weights": "Show weights",
    "live_leaderboard.display.show_lr_multipliers": "Show learning rates",
    "live_leaderboard.display.show_loss_per_model": "Show losses",
    "live_leaderboard.display.show_progress": "Show progress",
    "metadata.use_atomic_writes": "Files whole or not at all",
    "metadata.temp_suffix": "Temporary suffix",
    "output.directory": "Results directory",
    "output.version": "Version of the results",
    "execution.executor": "Processes",
    "execution.threads": "CPU threads",
    "execution.worker_timeout": "Seconds without a sign of life",
    "execution.max_tries": "Tries of an epoch",
}
"""Where the field's own words do not say it."""

SHOWN_FIRST: Final = (
    "model.base_models",
    "data.dataset",
    "data.strategy",
    "training.method",
    "lora.r",
    "lora.alpha",
    "lora.dropout",
    "lora.use_rslora",
    "lora.target_modules",
    "training.learning_rate",
    "training.num_epochs",
    "training.batch_size",
    "data.max_length",
    "data.validation_split",
    "dpo.beta",
    "dpo.loss",
    "dpo.label_smoothing",
    "adaptive_weights.enabled",
    "confidence_auto_stop.enabled",
    "training.sample_prompts",
    "training.seed",
    "model.quantization",
    "training.keep",
)
"""What the form asks for by itself; every other setting is among all settings."""

NEVER_SHOWN: Final[Mapping[str, str]] = {
    "model.name": "the same as a selection of one base model",
    "metadata.naming_pattern": "has one value",
    "metadata.timestamp_format": "has one value",
    "metadata.use_atomic_writes": "has one value",
    "metadata.temp_suffix": "has one value",
    "output.directory": "a server keeps results where it keeps them",
}
"""What the form never asks for, and why."""

_STEEP = 50
"""A range whose ends are so many times apart is shown on a logarithmic scale."""

_STEPS = 128
"""About so many places has a slider that is not logarithmic."""


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
        help=HELP.get(field) or " ".join(known.text.split()),
        kind=known.kind,
        default=known.default,
        choices=known.choices,
        bounds=known.bounds,
        recommended=known.recommended,
        unit=known.unit,
        expects=known.expects,
        knob=_knob(known) if known.recommended else None,
    )


@cache
def others() -> Mapping[str, tuple[str, ...]]:
    """The settings that are asked for nowhere else in the form, by their section, in the schema's order."""
    return {section: tuple(fields) for section, fields in _others()}


def figure(value: float, language: str, *, grouped: bool = True) -> str:
    """A number as the form writes it: 2,048, 0.05, 5e-4; with the signs of the language. grouped: by thousands."""
    if value and abs(value) < 0.001:
        mantissa, _, power = f"{value:e}".partition("e")
        text = f"{mantissa.rstrip('0').rstrip('.')}e{int(power)}"
    elif float(value).is_integer():
        text = f"{value:,.0f}" if grouped else f"{value:.0f}"
    else:
        text = f"{value:g}"
    return text.translate({ord(","): "\N{NO-BREAK SPACE}", ord("."): ","}) if language == "sv" else text


def _others() -> Iterator[tuple[str, list[str]]]:
    sections: dict[str, list[str]] = {}
    for field in reference.settings():
        if field not in SHOWN_FIRST and field not in NEVER_SHOWN:
            sections.setdefault(field.partition(".")[0], []).append(field)
    yield from sections.items()


def _knob(known: reference.Setting) -> Knob:
    """A slider reaches beyond both ends of the recommended range, as far as values are taken at all."""
    low, high = known.recommended or (0.0, 0.0)
    if low > 0 and high / low >= _STEEP:
        return Knob(math.log10(low) - 1, math.log10(high) + 1, 0.01, (math.log10(low), math.log10(high)), log=True)
    whole = known.kind == "whole number"
    step = float(max(1, int(2 * high) // _STEPS)) if whole else _round_step(2 * high / _STEPS)
    least, most = _reach(known.bounds, step)
    first = step if whole and least <= step else max(0.0, least)
    return Knob(first, min(2 * high, most), step, (max(low, first), high), log=False)


def _round_step(step: float) -> float:
    """The next of 1, 2, 5 and their tenfolds."""
    power: float = 10.0 ** math.floor(math.log10(step))
    return next(round(each * power, 12) for each in (1, 2, 5, 10) if each * power >= step * 0.999)


def _reach(bounds: tuple[str, ...], step: float) -> tuple[float, float]:
    """The least and the most that a slider may say; a bound that is no value itself is left by a step."""
    least, most = -math.inf, math.inf
    for bound in bounds:
        words, _, edge = bound.rpartition(" ")
        if words in ("greater than", "at least"):
            least = float(edge) + (step if words == "greater than" else 0.0)
        else:
            most = float(edge) - (step if words == "less than" else 0.0)
    return least, most
