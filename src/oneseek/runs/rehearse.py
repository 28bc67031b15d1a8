"""Every selected model through one step, evaluation and export as its worker would do them; then all is thrown away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from oneseek.config.schema import TrainingConfig
from oneseek.engine.interface import Assignment, EngineName
from oneseek.engine.rehearsal import Measured, Stage
from oneseek.estimate import Pace, forward_share, memory_need, memory_of, run_seconds
from oneseek.events import DatasetUsed
from oneseek.executors import rehearsing
from oneseek.preflight.finding import Finding
from oneseek.preflight.rules.models import gib
from oneseek.registry.capabilities import ModelInfo, lora_targets
from oneseek.runs.staff import assignment, cores, shared

RULE = "rehearsal-passes"

Watch = Callable[[str, Stage], None]
"""Told the key of a model and what its rehearsal begins with."""


class Rehearsed(msgspec.Struct, frozen=True, kw_only=True):
    """What the rehearsal of one model took, or why it failed: then `problem` is there and what was measured is None.

    `peak_bytes` is the most memory that its worker held, `estimated_bytes` what was expected of it.
    `seconds_per_step` and `tokens_per_second` are of the heaviest step there is. `projected_seconds` is how long the
    whole training of this model would take by itself.
    """

    key: str
    estimated_bytes: int
    peak_bytes: int | None = None
    seconds_per_step: float | None = None
    tokens_per_second: float | None = None
    projected_seconds: float | None = None
    problem: str | None = None
    fix: str = ""


class Rehearsal(msgspec.Struct, frozen=True, kw_only=True):
    """Of every model, in the order of the selection. `projected_seconds` is how long the run would take, with
    `at_once` models at a time; None where a model failed."""

    models: tuple[Rehearsed, ...]
    at_once: int
    projected_seconds: float | None


def rehearse(
    config: TrainingConfig,
    models: Sequence[ModelInfo],
    dataset: DatasetUsed,
    longest_row: Callable[[str], int | None],
    *,
    engine: EngineName = "torch",
    watch: Watch = lambda key, stage: None,
) -> Rehearsal:
    """Rehearse what a configuration asks for, one model after the other, each with the share of cores and memory that
    it would have in the run. Nothing is left behind, however it ends.

    models: at least one, each usable and here. longest_row: for a model's key what `estimate.memory_need` takes.
    """
    needs = {model.key: memory_need(model, config, longest_row(model.key)) for model in models}
    at_once, shares = shared(needs, config)
    done: list[Rehearsed] = []
    paces: list[Pace] = []
    for model in models:
        share = shares[model.key]
        told = assignment(
            engine,
            dataset,
            config,
            key=model.key,
            model_path=str(Path(model.path).resolve()),
            target_modules=lora_targets(model, config.lora_for(model.key).target_modules),
            share=share,
            directory=Path(),  # the process is given one of its own
            token_cache=None,
        )
        rate = config.training_for(model.key).learning_rate
        found = rehearsing.rehearse(_steady(told), rate, partial(watch, model.key))
        estimated = memory_of(model, config, share.token_budget, checkpointing=share.gradient_checkpointing).total
        if isinstance(found, Measured):
            paces.append(pace(found, told))
            done.append(_passed(told.key, estimated, found, run_seconds([paces[-1]], config.training.num_epochs, 1)))
        else:
            done.append(Rehearsed(key=model.key, estimated_bytes=estimated, problem=found.problem, fix=found.fix))
    slower = max(1.0, at_once * shares[models[0].key].threads / cores(config))
    whole = run_seconds(paces, config.training.num_epochs, at_once, slower) if len(paces) == len(models) else None
    return Rehearsal(models=tuple(done), at_once=at_once, projected_seconds=whole)


def pace(found: Measured, told: Assignment) -> Pace:
    """How fast a training goes that was rehearsed. The heaviest step is the slowest a token, so this errs long."""
    looking = forward_share(checkpointing=told.gradient_checkpointing) / found.tokens_per_second  # seconds a token
    reference = (found.training_tokens + found.validation_tokens) * looking if told.method == "dpo" else 0.0
    return Pace(
        load=found.load_seconds,
        once=reference + found.export_seconds,
        epoch=found.training_tokens / found.tokens_per_second
        + found.validation_tokens * looking
        + found.evaluation_seconds,
    )


def findings(rehearsal: Rehearsal, free_bytes: int | None) -> tuple[Finding, ...]:
    """A rehearsal that failed is an error. Models that took more memory than there is for all that train side by side
    are a warning: what they take at the same moment is less.

    free_bytes: the memory that was free before.
    """
    failed = tuple(
        Finding(
            rule=RULE, severity="error", field="model.base_models", problem=each.problem, fix=each.fix, model=each.key
        )
        for each in rehearsal.models
        if each.problem is not None
    )
    peaks = sorted((each.peak_bytes or 0 for each in rehearsal.models), reverse=True)[: rehearsal.at_once]
    if free_bytes is None or sum(peaks) <= free_bytes:
        return failed
    models = "1 model" if len(peaks) == 1 else f"{len(peaks)} models side by side"
    problem = f"{models} took {gib(sum(peaks))} of memory in the rehearsal, and {gib(free_bytes)} are free."
    fix = "Close other programs, lower data.max_length, or select fewer models."
    return (*failed, Finding(rule=RULE, severity="warning", field="model.base_models", problem=problem, fix=fix))


def _steady(told: Assignment) -> Assignment:
    """The same without a schedule: a single step of a long one hardly moves an adapter."""
    return msgspec.structs.replace(told, num_epochs=1, lr_scheduler="constant", warmup_ratio=0.0, checkpoint_every=None)


def _passed(key: str, estimated: int, found: Measured, seconds: float) -> Rehearsed:
    return Rehearsed(
        key=key,
        estimated_bytes=estimated,
        peak_bytes=found.peak_bytes,
        seconds_per_step=found.step_seconds,
        tokens_per_second=found.tokens_per_second,
        projected_seconds=seconds,
    )
