"""Settings by themselves: taken or not, in their recommended range, in this release."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from oneseek.config.parse import ConfigProblem, leaves, shown
from oneseek.config.reference import number_text, setting_of
from oneseek.config.schema import DpoSection, TrainingConfig
from oneseek.preflight.facts import Facts
from oneseek.preflight.finding import Change, Finding, rule

LEAST_SCALE, MOST_SCALE = 0.5, 8.0
"""Of LoRA's update; what is outside is rarely meant."""


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
        if field == "data.validation_split" and config.data.validation_dataset:
            continue  # nothing reads it
        low, high = setting.recommended
        if not low <= value <= high:
            yield Finding(
                severity="warning",
                field=field,
                problem=f"{field} is {number_text(value)}, outside the recommended {setting.recommended_range}.",
                fix=f"Set {field} between {number_text(low)} and {number_text(high)}, unless you mean it.",
                model=path[1] if path[0] == "per_model" else None,
                changes=(Change(field, setting.recommended_near(value)),),
                meant=True,
            )


@rule
def alpha_suits_the_rank(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """The update is scaled by alpha / r (alpha / sqrt(r) with rsLoRA): typically by two."""
    sections = {None: config.lora} | {
        key: config.lora_for(key) for key, override in config.per_model.items() if override.lora
    }
    for key, lora in sections.items():
        path = "lora" if key is None else f"per_model.{key}.lora"
        scale = lora.alpha / (lora.r**0.5 if lora.use_rslora else lora.r)
        if not LEAST_SCALE <= scale <= MOST_SCALE:
            usual = round(2 * lora.alpha / scale, 3)
            yield Finding(
                severity="warning",
                field=f"{path}.alpha",
                problem=f"{path}.alpha is {number_text(lora.alpha)} at {path}.r {lora.r}: the adapter's update is "
                f"scaled by {scale:.3g}, typically by 2.",
                fix=f"Set {path}.alpha to {number_text(usual)}, unless you mean it.",
                model=key,
                changes=(Change(f"{path}.alpha", usual),),
                meant=True,
            )


@rule
def batch_fits_the_rows(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """With more rows in an optimiser step than there are, an epoch is one step."""
    if facts.dataset is None or not facts.dataset.rows:
        return
    training = config.training
    step, rows = training.batch_size * training.gradient_accumulation_steps, facts.dataset.rows
    if step > rows:
        yield Finding(
            severity="warning",
            field="training.batch_size",
            problem=f"An optimiser step takes {step:,} rows (training.batch_size x gradient_accumulation_steps), and "
            f"the dataset has {rows:,}: each epoch would be one step.",
            fix=f"Set training.batch_size to {max(1, rows // 10)}, and gradient_accumulation_steps to 1.",
            changes=(
                Change("training.batch_size", max(1, rows // 10)),
                Change("training.gradient_accumulation_steps", 1),
            ),
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
            changes=(Change("dpo.label_smoothing", 0),),
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
                fix=f"Set training.method to 'dpo', or remove dpo.{name}.",
                changes=(Change(f"dpo.{name}", None),),
                meant=True,
            )


@rule
def not_in_this_release(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """Settings whose meaning is decided and whose work is not done yet are refused, never ignored."""
    if config.execution.executor == "ray":
        yield Finding(
            severity="error",
            field="execution.executor",
            problem="Training on a Ray cluster is not in this release.",
            fix="Set execution.executor to 'local'.",
            changes=(Change("execution.executor", "local"),),
        )


def settings_findings(problems: Iterable[ConfigProblem]) -> tuple[Finding, ...]:
    """Problems of settings as findings, for who has settings and nothing else."""
    return tuple(
        Finding(
            rule="settings-are-valid",
            severity="error",
            field=problem.field,
            problem=problem.problem,
            fix=problem.fix,
            changes=tuple(Change(field, value) for field, value in problem.changes),
        )
        for problem in problems
    )
