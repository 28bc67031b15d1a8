"""A run of one model cut short: its heaviest step, an evaluation, a checkpoint and an export, and what they took."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import msgspec

from oneseek.engine.interface import Damaged, Progress, Trainer
from oneseek.engine.machine import peak_memory_bytes

T = TypeVar("T")
Stage = Literal["loading", "training", "evaluating", "saving"]


class Measured(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What a rehearsal took: the peak of its process's resident memory in bytes, and seconds.

    `load_seconds` until the model could be trained; `step_seconds` and `tokens_per_second` of the heaviest step;
    `evaluation_seconds` of one batch, the checkpoint and the sample answers; `export_seconds` until the adapter was
    written, read back and compared. `training_tokens` and `validation_tokens` are those of all rows.
    """

    peak_bytes: int
    load_seconds: float
    step_seconds: float
    tokens_per_second: float
    evaluation_seconds: float
    export_seconds: float
    training_tokens: int
    validation_tokens: int


def rehearse(trainer: Trainer, learning_rate: float, enter: Callable[[Stage], None]) -> Measured:
    """Put a trainer, not yet prepared, through everything that a run asks of it, once.

    enter: told each stage as it begins.

    Raises:
        WorkerFailed: what the run would have failed with.
    """
    marks = [time.perf_counter()]

    def report(message: Progress | Damaged) -> None:
        if isinstance(message, Progress):
            enter("evaluating")
            marks.append(time.perf_counter())

    enter("loading")
    trainer.prepare()
    workload = trainer.shorten()
    loaded = time.perf_counter()
    enter("training")
    result = trainer.train_epoch(1, (learning_rate,), (), report)
    kept = time.perf_counter()
    enter("saving")
    trainer.export(1, (learning_rate,), report)
    began, stepped = marks
    return Measured(
        peak_bytes=peak_memory_bytes(),
        load_seconds=loaded - began,
        step_seconds=workload.step_tokens / result.tokens_per_second,
        tokens_per_second=result.tokens_per_second,
        evaluation_seconds=kept - stepped,
        export_seconds=time.perf_counter() - kept,
        training_tokens=workload.training_tokens,
        validation_tokens=workload.validation_tokens,
    )


def heaviest(items: Sequence[T], size: Callable[[T], int], count: int, room: int) -> list[T]:
    """At most `count` of some items, at least one, whose first batch is as heavy as it can be: the longest, and what
    fills the `room` that a batch has; then the longest of the others."""
    left = sorted(items, key=size)
    chosen = [left.pop()]
    room -= size(chosen[0])
    while len(chosen) < count and (fitting := bisect_right(left, room, key=size)):
        chosen.append(left.pop(fitting - 1))
        room -= size(chosen[-1])
    return [*chosen, *left[::-1][: count - len(chosen)]]
