"""Journals of runs that could have happened, made by hand or by Hypothesis."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from oneseek.config.schema import TrainingConfig
from oneseek.events import (
    AnyEvent,
    AutoStop,
    CheckpointDamaged,
    DatasetUsed,
    EpochCommitted,
    EpochFinished,
    EpochStarted,
    MemoryNeed,
    ModelFailed,
    ModelPlan,
    ProgressReported,
    RunAccepted,
    RunInterrupted,
    RunPlanned,
    RunQueued,
    RunResumed,
    SelectedModel,
    StopRequested,
    WeightsAdjusted,
    WorkerRestarted,
)


def accepted(*keys: str, config: TrainingConfig | None = None) -> RunAccepted:
    return RunAccepted(
        run_id="run-20251122-143025",
        version="1.0",
        oneseek_version="0.1.0",
        engine="scripted",
        config=(config or TrainingConfig()).model_dump(mode="json"),
        models=tuple(
            SelectedModel(
                key=key,
                display_name=key.title(),
                path=f"models/{key}",
                target_modules=("q_proj",),
                memory=MemoryNeed(fixed=1, per_token=1, per_token_checkpointed=1, longest_row=1, longest_step=1),
                weights_sha256="a" * 64,
                config_sha256="b" * 64,
                tokenizer_sha256="c" * 64,
                template_sha256=None,
            )
            for key in keys or ("alfa", "beta")
        ),
        available=keys or ("alfa", "beta", "gamma"),
        dataset=DatasetUsed(
            path="rows.jsonl",
            sha256="d" * 64,
            format="messages",
            strategy="chat",
            training_rows=18,
            validation_rows=2,
            rows_sha256="e" * 64,
        ),
    )


def planned(*keys: str, **changes: Any) -> RunPlanned:
    values: dict[str, Any] = {
        "models": tuple(model_plan(key) for key in keys or ("alfa", "beta")),
        "unprepared": {},
        "at_once": 2,
        "rank_by": "bits_per_byte",
        "excluded_validation_rows": (),
    }
    return RunPlanned(**(values | changes))


def model_plan(key: str, **changes: Any) -> ModelPlan:
    values: dict[str, Any] = {
        "key": key,
        "dtype": "float32",
        "device": "cpu",
        "attention": "packed",
        "head": "chunked",
        "token_budget": 4096,
        "gradient_checkpointing": False,
        "threads": 1,
        "target_modules": ("q_proj",),
        "parameters": 1000,
        "trainable_parameters": 10,
        "steps_per_epoch": 5,
        "training_tokens": 500,
        "supervised_tokens": 200,
        "truncated_rows": 0,
        "rows_without_labels": 0,
        "fingerprint": {"torch": "2.13.0"},
    }
    return ModelPlan(**(values | changes))


def finished(key: str, epoch: int, loss: float, **changes: Any) -> EpochFinished:
    values: dict[str, Any] = {
        "model": key,
        "epoch": epoch,
        "train_loss": loss,
        "val_loss": loss,
        "bits_per_byte": loss / 2,
        "learning_rate": 1e-4,
        "gradient_norm": 1.0,
        "tokens_per_second": 100.0,
        "memory_bytes": 1000,
        "checkpoint": "f" * 64,
    }
    return EpochFinished(**(values | changes))


def committed(epoch: int, losses: dict[str, float], **changes: Any) -> EpochCommitted:
    values: dict[str, Any] = {
        "epoch": epoch,
        "results": {key: finished(key, epoch, loss) for key, loss in losses.items()},
        "weights": dict.fromkeys(losses, 1.0),
        "learning_rates": dict.fromkeys(losses, 1e-4),
        "total_loss": sum(losses.values()) / len(losses) if losses else None,
        "auto_stop": AutoStop(remaining=3, threshold=0.001, current_change=None, triggered=False),
        "quarantined": {},
    }
    return EpochCommitted(**(values | changes))


def progress(key: str, epoch: int, step: int, steps: int = 5) -> ProgressReported:
    return ProgressReported(
        model=key,
        epoch=epoch,
        step=step,
        steps=steps,
        loss=1.0,
        learning_rate=1e-4,
        gradient_norm=1.0,
        tokens_per_second=100.0,
    )


@st.composite
def histories(draw: st.DrawFn) -> list[AnyEvent]:
    """The events of a run that may be interrupted and resumed anywhere, and each time wait for its turn; epochs are
    committed in order."""
    keys = ("alfa", "beta")
    told: list[AnyEvent] = [accepted(*keys)]
    if draw(st.booleans()):
        told += [RunQueued(device="cpu"), RunResumed(epoch=0)]
    told.append(planned(*keys))
    epoch = 1
    numbers = st.floats(0, 10)
    for _ in range(draw(st.integers(0, 6))):
        told.append(EpochStarted(epoch=epoch, learning_rates=dict.fromkeys(keys, 1e-4)))
        told += draw(
            st.lists(
                st.sampled_from(
                    [
                        progress("alfa", epoch, 1),
                        progress("beta", epoch, 4),
                        WorkerRestarted(model="alfa", epoch=epoch, attempt=2, cause="killed"),
                        CheckpointDamaged(model="beta", epoch=epoch, problem="flipped"),
                        ModelFailed(model="beta", epoch=epoch, kind="crashed", problem="gone"),
                        StopRequested(),
                    ]
                ),
                max_size=4,
            )
        )
        if draw(st.booleans()):
            if draw(st.booleans()):
                told.append(RunInterrupted(cause="Ctrl-C"))
            if draw(st.booleans()):
                told.append(RunQueued(device="cpu"))
            told.append(RunResumed(epoch=epoch - 1))
            continue
        losses = {key: draw(numbers) for key in keys}
        told += [finished(key, epoch, losses[key]) for key in keys]
        told.append(WeightsAdjusted(epoch=epoch, weights=dict.fromkeys(keys, 1.0), learning_rates={}))
        told.append(committed(epoch, losses))
        epoch += 1
    return told
