"""Settings by themselves: taken or not, in their recommended range, in this release."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from oneseek.config.parse import ConfigProblem, leaves, shown
from oneseek.config.reference import number_text, setting_of
from oneseek.config.schema import DpoSection, TrainingConfig
from oneseek.preflight.facts import Facts
from oneseek.preflight.finding import Finding, rule


@rule
def settings_are_valid(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """Every setting is known, of its type, inside its bounds and in no conflict with another."""
    yield from settings_findings(facts.config_problems)


@rule
def numbers_in_recommended_range(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """A number outside its recommended range is allowed, and rarely meant."""
    for path, value in leaves(config.model_dump()):
        field = ".".join(path)
        setting = setting_of(field)
        if setting is None or setting.recommended is None or not isinstance(value, (int, float)):
            continue
        low, high = setting.recommended
        if not low <= value <= high:
            yield Finding(
                severity="warning",
                field=field,
                problem=f"{field} is {number_text(value)}, outside the recommended {setting.recommended_range}.",
                fix=f"Set {field} between {number_text(low)} and {number_text(high)}, unless you mean it.",
                model=path[1] if path[0] == "per_model" else None,
            )


@rule
def label_smoothing_fits_the_loss(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """Label smoothing belongs to the sigmoid loss; `ipo` has no term that it could smooth."""
    if config.dpo.loss == "ipo" and config.dpo.label_smoothing > 0:
        yield Finding(
            severity="error",
            field="dpo.label_smoothing",
            problem=f"dpo.label_smoothing is {number_text(config.dpo.label_smoothing)}, but dpo.loss is 'ipo', which "
            "has none.",
            fix="Set dpo.loss to 'sigmoid', or dpo.label_smoothing to 0.",
        )


@rule
def dpo_settings_are_read(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """Without `dpo` nothing reads its settings; who changed one may think that it is what trains."""
    if config.training.method == "dpo" or facts.was_refused("training.method"):
        return
    defaults = dict(DpoSection())
    for name, value in config.dpo:
        if value != defaults[name]:
            yield Finding(
                severity="warning",
                field=f"dpo.{name}",
                problem=f"dpo.{name} is {shown(value)}, but training.method is '{config.training.method}', which does "
                "not read it.",
                fix=f"Set training.method: dpo, or remove dpo.{name}.",
            )


@rule
def not_in_this_release(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """Settings whose meaning is decided and whose work is not done yet are refused, never ignored."""
    if config.execution.executor == "ray":
        yield _absent("execution.executor", "Training on a Ray cluster", "Set execution.executor to 'local'.")
    if config.data.validation_dataset is not None:
        yield _absent(
            "data.validation_dataset",
            "A validation dataset of its own",
            "Remove data.validation_dataset; data.validation_split sets rows of the dataset aside.",
        )


def settings_findings(problems: Iterable[ConfigProblem]) -> tuple[Finding, ...]:
    """Problems of settings as findings, for who has settings and nothing else."""
    return tuple(
        Finding(
            rule="settings-are-valid", severity="error", field=problem.field, problem=problem.problem, fix=problem.fix
        )
        for problem in problems
    )


def _absent(field: str, what: str, fix: str) -> Finding:
    return Finding(severity="error", field=field, problem=f"{what} is not in this release.", fix=fix)
