"""Which base models the administrator chose."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from oneseek.config.schema import TrainingConfig
from oneseek.names import nearest_name, nothing_selected
from oneseek.preflight.facts import Facts
from oneseek.preflight.finding import Change, Finding, rule

FIELD = "model.base_models"


@rule
def base_models_selected(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """Discovered models are never trained unasked."""
    if config.model.selection or facts.was_refused(FIELD) or facts.was_refused("model.name"):
        return
    nothing = nothing_selected()
    yield Finding(severity="error", field=FIELD, problem=nothing.problem, fix=nothing.fix)


@rule
def selection_matches(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """Every name of the selection means one base model, and no two names the same one."""
    names: dict[str, list[str]] = defaultdict(list)
    for wanted in facts.wanted:
        if wanted.key is not None:
            names[wanted.key].append(repr(wanted.name))
        elif wanted.trouble is not None:
            yield Finding(severity="error", field=FIELD, problem=wanted.trouble.problem, fix=wanted.trouble.fix)
    for key, same in names.items():
        if len(same) > 1:
            yield Finding(
                severity="error",
                field=FIELD,
                problem=f"{' and '.join(same)} mean the same base model, {key}.",
                fix="Name each base model once.",
                model=key,
                changes=(Change(FIELD, _each_once(facts)),),
            )


def _each_once(facts: Facts) -> tuple[str, ...]:
    """The names of the selection without those that mean the same as an earlier one."""
    first = {wanted.key or wanted.name: wanted.name for wanted in reversed(facts.wanted)}
    return tuple(dict.fromkeys(first[wanted.key or wanted.name] for wanted in facts.wanted))


@rule
def overrides_name_selected_models(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """Settings for a model that is not trained would change nothing, silently."""
    keys = {wanted.key for wanted in facts.wanted if wanted.key is not None}
    if any(wanted.key is None for wanted in facts.wanted) or not keys:
        return
    for name in config.per_model:
        if name not in keys:
            near = nearest_name(name.lower(), keys)
            yield Finding(
                severity="error",
                field=f"per_model.{name}",
                problem=f"per_model.{name} is for a base model that is not selected.",
                fix=f"Did you mean per_model.{near}?"
                if near
                else f"Select it, or use a key of: {', '.join(sorted(keys))}.",
            )
