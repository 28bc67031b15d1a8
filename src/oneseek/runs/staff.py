"""Who does the work of a run: an assignment for each live model, and the crew that carries them out.

How many work at once, with how many threads and tokens, is decided from the machine as it is before the plan is made;
from then on it is the plan's word.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from oneseek.engine.interface import Assignment
from oneseek.estimate import share_memory
from oneseek.events import RunPlanned, SelectedModel
from oneseek.executors.crew import Crew, Outbox, Worker
from oneseek.executors.inline import InlineWorker
from oneseek.executors.processes import ProcessWorker
from oneseek.runs.recorder import Recorder


@contextmanager
def staff(run: Recorder, poll: Callable[[], None]) -> Iterator[Crew]:
    """The crew of a run."""
    inline = run.config.execution.executor == "inline"
    at_once, shares = _planned(run.state.planned) if run.state.planned else _shared(run, inline)
    crew = Crew(
        {
            model.key: _assignment(run, model, shares[model.key])
            for model in run.state.accepted.models
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
class _Share:
    """What a worker gets of the machine."""

    threads: int
    token_budget: int
    gradient_checkpointing: bool


def _planned(planned: RunPlanned) -> tuple[int, dict[str, _Share]]:
    return planned.at_once, {
        plan.key: _Share(plan.threads, plan.token_budget, plan.gradient_checkpointing) for plan in planned.models
    }


def _shared(run: Recorder, inline: bool) -> tuple[int, dict[str, _Share]]:
    """How many models are loaded at once, and each one's share of cores and memory. Inline they take turns."""
    models = run.state.accepted.models
    wanted = run.config.execution.gradient_checkpointing
    sharing = share_memory(
        [model.memory for model in models], psutil.virtual_memory().available, wanted, 1 if inline else len(models)
    )
    threads = max(1, _cores(run) // sharing.at_once)
    return sharing.at_once, {
        model.key: _Share(threads, budget.tokens, budget.checkpointing)
        for model, budget in zip(models, sharing.budgets, strict=True)
    }


def _process(run: Recorder, assignment: Assignment, outbox: Outbox) -> Worker:
    return ProcessWorker(assignment, outbox, run.directory.worker_log(assignment.key))


def _cores(run: Recorder) -> int:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return run.config.execution.threads or usable


def _assignment(run: Recorder, model: SelectedModel, share: _Share) -> Assignment:
    accepted, config = run.state.accepted, run.config
    training, lora = config.training_for(model.key), config.lora_for(model.key)
    return Assignment(
        engine=accepted.engine,
        key=model.key,
        model_path=model.path,
        dataset_path=accepted.dataset.path,
        dataset_sha256=accepted.dataset.sha256,
        format=accepted.dataset.format,
        strategy=accepted.dataset.strategy,
        validation_split=config.data.validation_split,
        max_length=config.data.max_length,
        directory=str(Path(run.directory.worker(model.key)).resolve()),
        cache_directory=str(run.directory.results.token_cache.resolve()),
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
        target_modules=model.target_modules,
        dpo_beta=config.dpo.beta,
        dpo_loss=config.dpo.loss,
        dpo_label_smoothing=config.dpo.label_smoothing,
        checkpoint_every=training.checkpoint_every,
        sample_prompts=training.sample_prompts,
        sample_tokens=training.sample_tokens,
    )
