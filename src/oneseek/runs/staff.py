"""Who does the work of a run: an assignment for each live model, and the crew that carries them out."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from oneseek.engine.interface import Assignment
from oneseek.estimate import models_at_once
from oneseek.events import SelectedModel
from oneseek.executors.crew import Crew, Outbox, Worker
from oneseek.executors.inline import InlineWorker
from oneseek.executors.processes import ProcessWorker
from oneseek.runs.recorder import Recorder


@contextmanager
def staff(run: Recorder, poll: Callable[[], None]) -> Iterator[Crew]:
    """The crew of a run. How many work at once, with how many threads, is the plan's word once there is one."""
    inline = run.config.execution.executor == "inline"
    at_once = run.state.planned.at_once if run.state.planned else 1 if inline else _at_once(run)
    crew = Crew(
        {
            model.key: _assignment(run, model, at_once)
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


def _process(run: Recorder, assignment: Assignment, outbox: Outbox) -> Worker:
    return ProcessWorker(assignment, outbox, run.directory.worker_log(assignment.key))


def _at_once(run: Recorder) -> int:
    estimates = [model.memory_bytes for model in run.state.accepted.models]
    return models_at_once(estimates, psutil.virtual_memory().available)


def _cores(run: Recorder) -> int:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return run.config.execution.threads or usable


def _assignment(run: Recorder, model: SelectedModel, at_once: int) -> Assignment:
    accepted, config = run.state.accepted, run.config
    training, lora = config.training_for(model.key), config.lora_for(model.key)
    planned = {plan.key: plan.threads for plan in run.state.planned.models} if run.state.planned else {}
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
        threads=planned.get(model.key) or max(1, _cores(run) // at_once),
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
