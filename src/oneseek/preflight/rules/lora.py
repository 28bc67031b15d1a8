"""Where the adapters go."""

from __future__ import annotations

from collections.abc import Iterator

from oneseek.config.schema import TrainingConfig
from oneseek.preflight.facts import Facts
from oneseek.preflight.finding import Change, Finding, rule
from oneseek.registry.capabilities import ModelInfo, answers_to, lora_targets
from oneseek.registry.coverage import Coverage, ModuleCoverage, coverage

SHARED = "lora.target_modules"
LAYERS_SHOWN = 8


@rule
def lora_targets_exist(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """LoRA can only be put on linear modules that the model's layers have."""
    for model in facts.models:
        if model.unseen:
            continue
        requested = config.lora_for(model.key).target_modules
        if not model.linear_modules or not lora_targets(model, requested):
            if model.usable:
                yield _nothing_to_adapt(model, _field(config, model))
            continue
        if isinstance(requested, tuple) and (absent := coverage(model, requested).of("absent")):
            yield Finding(
                severity="error",
                field=_field(config, model),
                problem=_absence(model, absent, requested),
                fix=f"It has {', '.join(lora_targets(model, 'all-linear'))}. {_line_to_type(config, facts, model)}",
                model=model.key,
                changes=_to_auto(config, facts, model),
            )


@rule
def lora_targets_can_be_trained(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """Some linear modules take no adapter: PEFT refuses it, or the model's code goes past it."""
    for model, found in _named(config, facts):
        for module in found.of("forbidden"):
            yield Finding(
                severity="error",
                field=_field(config, model),
                problem=f"{model.display_name}: no adapter can be put on {module.name}: {module.reason}.",
                fix=f"Leave {module.name} out. {_line_to_type(config, facts, model)}",
                model=model.key,
                changes=_to_auto(config, facts, model),
            )


@rule
def lora_targets_take_effect(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """What `auto` and `all-linear` leave out can be asked for by name; then it is said why they do."""
    for model, found in _named(config, facts):
        for target in found.targets:
            for name in sorted(model.left_out.keys() - model.forbidden.keys()):
                if answers_to(target, name):
                    yield Finding(
                        severity="warning",
                        field=_field(config, model),
                        problem=f"{model.display_name}: an adapter on {target} may do nothing: {model.left_out[name]}.",
                        fix=f"Leave {target} out, or set {_change_field(config, facts, model)} to 'auto'.",
                        model=model.key,
                        changes=_to_auto(config, facts, model),
                        meant=True,
                    )


@rule
def lora_targets_reach_every_layer(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """A module that only some layers have leaves the other layers as they are."""
    for model, found in _named(config, facts):
        partial = found.of("partial")
        if partial:
            yield Finding(
                severity="warning",
                field=_field(config, model),
                problem=f"{model.display_name}: {'; '.join(_reach(module) for module in partial)}. "
                f"{_share(found)} are trained.",
                fix=f"Set {_change_field(config, facts, model)} to 'auto' to train every kind of layer, if that is not "
                "what is meant.",
                model=model.key,
                changes=_to_auto(config, facts, model),
                meant=True,
            )


def _named(config: TrainingConfig, facts: Facts) -> Iterator[tuple[ModelInfo, Coverage]]:
    """The models for which modules are asked for by name, and what that trains."""
    for model in facts.models:
        requested = config.lora_for(model.key).target_modules
        if isinstance(requested, tuple) and model.linear_modules:
            yield model, coverage(model, requested)


def _absence(model: ModelInfo, absent: tuple[ModuleCoverage, ...], requested: tuple[str, ...]) -> str:
    """Those that are nothing are named in the order in which they were asked for."""
    explained = {module.name: module.reason for module in absent}
    nothing = [name for name in dict.fromkeys(requested) if name in explained and not explained[name]]
    parts = [
        f"{name} of {model.display_name} can't be adapted: {reason}" for name, reason in explained.items() if reason
    ]
    if nothing:
        modules = f"module{'s' if len(nothing) > 1 else ''} {', '.join(nothing)}"
        parts.insert(0, f"{model.display_name} has no {modules}")
    return ". ".join(parts) + "."


def _reach(module: ModuleCoverage) -> str:
    if len(module.trained) == module.layers:
        return f"{module.trained_places} of {module.places} modules called {module.name} are asked for"
    shown = [str(number) for number in module.trained[:LAYERS_SHOWN]]
    more = ["…"] if len(module.trained) > LAYERS_SHOWN else []
    return f"{module.name} is in {len(module.trained)} of {module.layers} layers ({', '.join([*shown, *more])})"


def _share(found: Coverage) -> str:
    return f"{found.trained_places} of {found.places} linear layers"


def _nothing_to_adapt(model: ModelInfo, field: str) -> Finding:
    experts = " Its expert weights are fused, which LoRA cannot adapt in this release." if model.fused_experts else ""
    passed = "".join(f" {name} is left out: {reason}." for name, reason in sorted(model.left_out.items()))
    return Finding(
        severity="error",
        field=field,
        problem=f"{model.display_name} has no linear module that LoRA can adapt.{experts}{passed}",
        fix="Select another base model.",
        model=model.key,
    )


def _line_to_type(config: TrainingConfig, facts: Facts, model: ModelInfo) -> str:
    """The setting that suits this model; what it means there is said where it is for this model alone."""
    names = ", ".join(lora_targets(model, "auto"))
    if not names:
        return "Select another base model."
    field = _change_field(config, facts, model)
    for_all = field == SHARED and len(facts.models) > 1
    return f"Set {field} to 'auto'{', which suits each model' if for_all else f', which is [{names}]'}."


def _to_auto(config: TrainingConfig, facts: Facts, model: ModelInfo) -> tuple[Change, ...]:
    return (Change(_change_field(config, facts, model), "auto"),) if lora_targets(model, "auto") else ()


def _change_field(config: TrainingConfig, facts: Facts, model: ModelInfo) -> str:
    """The setting of all where no model that reads it can use it; else that of this model, which spares the others."""
    if _has_own(config, model) or len(facts.models) < len(config.model.selection):
        return _own_field(model)
    if len(facts.models) == 1:
        return SHARED
    readers = [each for each in facts.models if not _has_own(config, each)]
    return SHARED if all(_is_refused(each, config.lora.target_modules) for each in readers) else _own_field(model)


def _is_refused(model: ModelInfo, requested: str | tuple[str, ...]) -> bool:
    if isinstance(requested, str) or not model.linear_modules:
        return False
    found = coverage(model, requested)
    return bool(found.of("absent") or found.of("forbidden"))


def _field(config: TrainingConfig, model: ModelInfo) -> str:
    return _own_field(model) if _has_own(config, model) else SHARED


def _has_own(config: TrainingConfig, model: ModelInfo) -> bool:
    override = config.per_model.get(model.key)
    return override is not None and "target_modules" in override.lora


def _own_field(model: ModelInfo) -> str:
    return f"per_model.{model.key}.lora.target_modules"
