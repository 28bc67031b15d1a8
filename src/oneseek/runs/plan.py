"""What is frozen before the first step, so that a resumed run computes the same bits."""

from __future__ import annotations

from collections.abc import Mapping

from oneseek.engine.interface import Prepared
from oneseek.errors import TrainingFailed
from oneseek.events import ModelPlan, RunPlanned
from oneseek.events.state import RunState


def plan(state: RunState, prepared: Mapping[str, Prepared], at_once: int) -> RunPlanned:
    """The plan that follows from what the workers found.

    Raises:
        TrainingFailed: no model could be prepared.
    """
    unprepared = {key: failure.problem for key, failure in state.failing.items()}
    if not prepared:
        fixes = {failure.fix for failure in state.failing.values()}
        raise TrainingFailed(
            "No model could be prepared. " + " ".join(f"{key}: {cause}" for key, cause in unprepared.items()),
            " ".join(sorted(fixes)),
        )
    excluded = sorted({row for found in prepared.values() for row in found.incomparable_validation_rows})
    comparable = len(excluded) < state.accepted.dataset.validation_rows and state.config["training"]["method"] == "sft"
    return RunPlanned(
        models=tuple(_model_plan(key, prepared[key]) for key in state.keys if key in prepared),
        unprepared=unprepared,
        at_once=at_once,
        # Preferences have no bits per byte; and where no row is left to compare answers by their bytes, the loss is all
        # there is.
        rank_by=state.config["training"]["rank_by"] if comparable else "val_loss",
        excluded_validation_rows=tuple(excluded),
    )


def differences(frozen: RunPlanned, prepared: Mapping[str, Prepared | ModelPlan]) -> list[str]:
    """What would be computed otherwise than planned, in words; empty where nothing would."""
    changed = []
    for planned in frozen.models:
        if planned.key not in prepared:
            continue
        found = _model_plan(planned.key, prepared[planned.key])
        for name in planned.__struct_fields__:
            before, now = getattr(planned, name), getattr(found, name)
            if name == "fingerprint":
                changed += [
                    f"{part} was {before.get(part)}, is {now.get(part)}"
                    for part in sorted(before | now)
                    if before.get(part) != now.get(part)
                ]
            elif before != now:
                changed.append(f"{planned.key}: {name} was {before}, is {now}")
    return list(dict.fromkeys(changed))


def _model_plan(key: str, found: Prepared | ModelPlan) -> ModelPlan:
    names = set(ModelPlan.__struct_fields__) - {"key"}
    return ModelPlan(key=key, **{name: getattr(found, name) for name in names})
