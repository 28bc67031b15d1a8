"""Who does the work of a run: an assignment for each live model, and the crew that carries them out.

How many work at once, with how many threads and tokens, is decided from the machine as it is before the plan is made;
from then on it is the plan's word.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from oneseek.config.schema import TrainingConfig
from oneseek.engine.interface import Assignment, EngineName
from oneseek.estimate import share_memory
from oneseek.events import DatasetUsed, MemoryNeed, RunPlanned
from oneseek.executors.crew import Crew, Outbox, Worker
from oneseek.executors.inline import InlineWorker
from oneseek.executors.processes import ProcessWorker
from oneseek.runs.find import engine_of
from oneseek.runs.machine import usable_cores
from oneseek.runs.recorder import Recorder


@contextmanager
def staff(run: Recorder, poll: Callable[[], None], like: RunPlanned | None = None) -> Iterator[Crew]:
    """The crew of a run. One that has no plan of its own yet gets what `like`, the plan of another, gave its models."""
    accepted, engine = run.state.accepted, engine_of(run.state, "trained")
    inline = run.config.execution.executor == "inline"
    needs = {model.key: model.memory for model in accepted.models}
    at_once, shares = shared(needs, run.config)
    if planned := run.state.planned or like:
        at_once, shares = planned.at_once, {**shares, **_planned(planned)}
    crew = Crew(
        {
            model.key: assignment(
                engine,
                accepted.dataset,
                run.config,
                key=model.key,
                model_path=model.path,
                hub_id=model.hub_id,
                revision=model.revision,
                target_modules=model.target_modules,
                share=shares[model.key],
                directory=run.directory.worker(model.key),
                token_cache=run.directory.results.token_cache,
            )
            for model in accepted.models
            if model.key in run.state.live
        },
        InlineWorker if inline else lambda assignment, outbox: _process(run, assignment, outbox),
        at_once=at_once,
        # A thread shares its interpreter with whoever would kill it.
        silence=math.inf if inline else run.config.execution.worker_timeout,
        tries=run.config.execution.max_tries,
        poll=poll,
    )
    try:
        yield crew
    finally:
        crew.close()


@dataclass(frozen=True)
class Share:
    """What a worker gets of the machine."""

    threads: int
    token_budget: int
    gradient_checkpointing: bool


def shared(needs: Mapping[str, MemoryNeed], config: TrainingConfig) -> tuple[int, dict[str, Share]]:
    """How many models are loaded at once, and each one's share of the cores and the memory that are free now. Inline
    they take turns.

    needs: by model key, at least one.
    """
    most = 1 if config.execution.executor == "inline" else len(needs)
    free = psutil.virtual_memory().available
    sharing = share_memory(list(needs.values()), free, config.execution.gradient_checkpointing, most)
    threads = max(1, cores(config) // sharing.at_once)
    return sharing.at_once, {
        key: Share(threads, budget.tokens, budget.checkpointing)
        for key, budget in zip(needs, sharing.budgets, strict=True)
    }


def cores(config: TrainingConfig) -> int:
    """How many cores a run may use."""
    return config.execution.threads or usable_cores()


def assignment(
    engine: EngineName,
    dataset: DatasetUsed,
    config: TrainingConfig,
    *,
    key: str,
    model_path: str,
    hub_id: str | None = None,
    revision: str | None = None,
    target_modules: tuple[str, ...],
    share: Share,
    directory: Path,
    token_cache: Path | None,
) -> Assignment:
    """What the worker of one model is told. `directory` is its own; with no `token_cache` no encoded row is kept."""
    training, lora = config.training_for(key), config.lora_for(key)
    return Assignment(
        engine=engine,
        key=key,
        model_path=model_path,
        hub_id=hub_id,
        revision=revision,
        dataset_path=dataset.path,
        dataset_sha256=dataset.sha256,
        validation_path=dataset.validation_path,
        validation_sha256=dataset.validation_sha256,
        format=dataset.format,
        strategy=dataset.strategy,
        validation_split=config.data.validation_split,
        max_length=config.data.max_length,
        directory=str(directory.resolve()),
        cache_directory=None if token_cache is None else str(token_cache.resolve()),
        threads=share.threads,
        token_budget=share.token_budget,
        gradient_checkpointing=share.gradient_checkpointing,
        quantization=config.model.quantization,
        method=training.method,
        seed=training.seed,
        num_epochs=training.num_epochs,
        batch_size=training.batch_size,
        gradient_accumulation_steps=training.gradient_accumulation_steps,
        lr_scheduler=training.lr_scheduler,
        warmup_ratio=training.warmup_ratio,
        max_grad_norm=training.max_grad_norm,
        weight_decay=training.weight_decay,
        lora_r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        lora_use_rslora=lora.use_rslora,
        target_modules=target_modules,
        dpo_beta=config.dpo.beta,
        dpo_loss=config.dpo.loss,
        dpo_label_smoothing=config.dpo.label_smoothing,
        checkpoint_every=training.checkpoint_every,
        sample_prompts=training.sample_prompts,
        sample_tokens=training.sample_tokens,
    )


def _planned(planned: RunPlanned) -> dict[str, Share]:
    return {plan.key: Share(plan.threads, plan.token_budget, plan.gradient_checkpointing) for plan in planned.models}


def _process(run: Recorder, assignment: Assignment, outbox: Outbox) -> Worker:
    return ProcessWorker(assignment, outbox, run.directory.worker_log(assignment.key))
