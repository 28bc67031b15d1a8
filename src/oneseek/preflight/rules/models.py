"""What the selected base models can do."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from oneseek import estimate
from oneseek.config.schema import TrainingConfig
from oneseek.datasets.formats import STRATEGY_OF, Strategy
from oneseek.preflight.facts import Facts, Rows
from oneseek.preflight.finding import Finding, rule
from oneseek.preflight.rules.selection import FIELD
from oneseek.registry.capabilities import ModelInfo, lora_targets, missing_targets


@rule
def base_models_usable(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """Every selected directory holds a whole model of a kind that can be trained, and a key of its own."""
    if facts.models_error is not None:
        yield Finding(severity="error", field=FIELD, problem=facts.models_error.problem, fix=facts.models_error.fix)
    for model in facts.models:
        for trouble in model.problems:
            yield Finding(
                severity="error",
                field=FIELD,
                problem=f"{model.display_name} ({model.path}): {trouble.problem}",
                fix=trouble.fix,
                model=model.key,
            )


@rule
def chat_needs_a_template(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """`chat` renders messages through the model's own template; a model without one cannot do it."""
    if strategy_of(config, facts) != "chat":
        return
    for model in facts.models:
        unknown = any(trouble.kind in ("broken-tokenizer", "unreadable") for trouble in model.problems)
        if model.chat_template is None and not unknown:
            yield Finding(
                severity="error",
                field="data.strategy",
                problem=f"{model.display_name} has no chat template.",
                fix="Set data.strategy to 'standard' with a dataset of text, or select a model with a template.",
                model=model.key,
            )


@rule
def lora_targets_exist(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """LoRA can only be put on modules that the model has."""
    for model in facts.models:
        requested = config.lora_for(model.key).target_modules
        if not model.linear_modules:
            if model.usable:
                yield _nothing_to_adapt(model, _field(config, model))
            continue
        missing = missing_targets(model, requested) if isinstance(requested, tuple) else ()
        if missing:
            yield Finding(
                severity="error",
                field=_field(config, model),
                problem=f"{model.display_name} has no {_modules(missing)}.",
                fix=f"It has {', '.join(lora_targets(model, 'all-linear'))}. Name some of these, for this model alone "
                f"in per_model.{model.key}.lora.target_modules, or set lora.target_modules to 'auto'.",
                model=model.key,
            )


@rule
def enough_memory(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """A model whose worker needs more than the free memory will swap, or be killed. The estimate is for full batches
    of the longest row, taken as one token a byte at most."""
    if facts.free_memory_bytes is None:
        return
    longest = _longest_row(facts.dataset)
    for model in facts.models:
        training, lora = config.training_for(model.key), config.lora_for(model.key)
        limits = (config.data.max_length, model.context_length, longest)
        needed = estimate.memory(
            model,
            lora_r=lora.r,
            targets=lora_targets(model, lora.target_modules),
            batch_size=training.batch_size,
            length=min(limit for limit in limits if limit is not None),
            threads=config.execution.threads or 1,
        ).total
        if needed > facts.free_memory_bytes:
            free = gib(facts.free_memory_bytes)
            yield Finding(
                severity="warning",
                field="training.batch_size",
                problem=f"{model.display_name} may need {gib(needed)} of memory, and {free} are free.",
                fix="Lower training.batch_size (and raise training.gradient_accumulation_steps) or data.max_length, "
                "or close other programs.",
                model=model.key,
            )


def strategy_of(config: TrainingConfig, facts: Facts) -> Strategy | None:
    """The strategy that the run would use: the one that is set, else that of the dataset's format."""
    if config.data.strategy is not None or facts.dataset is None or facts.dataset.format is None:
        return config.data.strategy
    return STRATEGY_OF[facts.dataset.format]


def gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def _nothing_to_adapt(model: ModelInfo, field: str) -> Finding:
    experts = " Its expert weights are fused, which LoRA cannot adapt in this release." if model.fused_experts else ""
    return Finding(
        severity="error",
        field=field,
        problem=f"{model.display_name} has no linear module that LoRA can adapt.{experts}",
        fix="Select another base model.",
        model=model.key,
    )


def _field(config: TrainingConfig, model: ModelInfo) -> str:
    override = config.per_model.get(model.key)
    own = override is not None and "target_modules" in override.lora
    return f"per_model.{model.key}.lora.target_modules" if own else "lora.target_modules"


def _modules(names: tuple[str, ...]) -> str:
    return f"module {names[0]}" if len(names) == 1 else f"modules {', '.join(names)}"


def _longest_row(dataset: Rows | None) -> int | None:
    """Bytes of the longest row as JSON, at least 1; its role names stand in for what a template adds."""
    if dataset is None or not dataset.rows:
        return None
    return max(len(msgspec.json.encode(row)) for row in dataset.rows)
