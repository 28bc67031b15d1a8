"""How a run looks to programs that listen: one object per journal record, and views of the state.

Names and types of `epoch_end` are those that listeners of the old system know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from msgspec import to_builtins
from msgspec.structs import replace

from oneseek.events import (
    AutoStop,
    AutoStopTriggered,
    CheckpointDamaged,
    DownloadProgressed,
    EpochCommitted,
    EpochFinished,
    EpochStarted,
    Event,
    ModelFailed,
    ModelVerified,
    ProgressReported,
    RunAccepted,
    RunFailed,
    RunFinished,
    RunInterrupted,
    RunPlanned,
    RunQueued,
    RunResumed,
    RunStopped,
    StopRequested,
    WeightsAdjusted,
    WorkerRestarted,
)
from oneseek.events.state import RunState

Body = dict[str, Any]

_REPEATED = frozenset({"total_epochs", "quarantined", "progress_percent"})
"""What of `epoch_end` stands once beside a history of epochs."""


def wire(seq: int, at: str, event: Event, state: RunState) -> Body:
    """A record on the wire. `state` is the run after it; `seq` is the journal's, so gaps are allowed."""
    kind = _TABLE[type(event)][0]
    return {"type": kind, "seq": seq, "run_id": state.run_id, **_body(event, state), "timestamp": at}


def kinds() -> Iterator[tuple[str, type[Event]]]:
    """Every `type` of an object on the wire, with the event that it tells of. One of them tells of two."""
    return ((kind, event) for event, (kind, _) in _TABLE.items())


def _body(event: Event, state: RunState) -> Body:
    return _TABLE[type(event)][1](event, state)


def initial_state(seq: int, at: str, state: RunState, status: str) -> Body:
    """What somebody gets who begins to listen behind record `seq`, of the time `at`: the metrics, the leaderboard, and
    the last of each event whose successors alone would leave a gap. `status` is the run's derived one, as listed."""
    return {
        "type": "initial_state",
        "seq": seq,
        **metrics(at, state, status),
        "leaderboard": leaderboard(state),
        "progress": {key: _body(event, state) for key, event in state.progress.items()},
        "downloads": {key: _body(event, state) for key, event in state.downloads.items()},
        "failure": _body(state.failure, state) if state.failure else None,
        "result": _body(state.result, state) if state.result else None,
    }


def metrics(at: str, state: RunState, status: str) -> Body:
    """How a run stands after its last epoch that holds, and how it came there. `display` is what its settings want to
    be shown; nothing is left out for it. Before the first epoch there are no losses and no learning rates."""
    last = epoch_end(state.committed[-1], state) if state.committed else {}
    unmeasured = dict.fromkeys(state.keys)
    return {
        **_standing(at, state, status),
        "val_losses": last.get("val_losses", unmeasured),
        "bits_per_byte": last.get("bits_per_byte", unmeasured),
        "weights": state.weights,
        "lr_multipliers": last.get("lr_multipliers", {}),
        "total_loss": last.get("total_loss"),
        "quarantined": state.quarantined,
        "display": dict(state.config["live_leaderboard"]["display"]),
        "training_history": training_history(state),
        **sample_prompts(state),
    }


def standings(at: str, state: RunState, status: str) -> Body:
    """The leaderboard, and how far the run is."""
    return {**_standing(at, state, status), "leaderboard": leaderboard(state)}


def _standing(at: str, state: RunState, status: str) -> Body:
    return {
        "run_id": state.run_id,
        "status": status,
        "current_epoch": state.epochs_done,
        "total_epochs": state.total_epochs,
        "auto_stop_info": auto_stop_info(state, state.auto_stop),
        "progress_percent": state.progress_percent,
        "timestamp": at,
    }


def training_history(state: RunState) -> list[Body]:
    """`epoch_end` of every epoch that holds, without what would repeat."""
    told = []
    for done in range(1, state.epochs_done + 1):
        then = replace(state, committed=state.committed[max(0, done - 2) : done])
        body = epoch_end(then.committed[-1], then)
        told.append({name: value for name, value in body.items() if name not in _REPEATED})
    return told


def _accepted(event: RunAccepted, state: RunState) -> Body:
    return {
        "version": event.version,
        "base_models": list(state.keys),
        "available_models": list(event.available),
        "multiModelMode": len(event.models) > 1,
        "total_epochs": state.total_epochs,
        "dataset": {
            "format": event.dataset.format,
            "strategy": event.dataset.strategy,
            "training_rows": event.dataset.training_rows,
            "validation_rows": event.dataset.validation_rows,
            "sha256": event.dataset.sha256,
        },
        "warnings": list(event.warnings),
    }


def _download(event: DownloadProgressed, state: RunState) -> Body:
    left = event.total_bytes - event.done_bytes
    return {
        "model": event.model,
        "done_bytes": event.done_bytes,
        "total_bytes": event.total_bytes,
        "bytes_per_second": event.bytes_per_second,
        "seconds_left": left / event.bytes_per_second if event.bytes_per_second else None,
    }


def _planned(event: RunPlanned, state: RunState) -> Body:
    return {
        "at_once": event.at_once,
        "rank_by": event.rank_by,
        "excluded_validation_rows": len(event.excluded_validation_rows),
        "models": {
            plan.key: {
                "parameters": plan.parameters,
                "trainable_parameters": plan.trainable_parameters,
                "target_modules": list(plan.target_modules),
                "dtype": plan.dtype,
                "device": plan.device,
                "attention": plan.attention,
                "head": plan.head,
                "token_budget": plan.token_budget,
                "gradient_checkpointing": plan.gradient_checkpointing,
                "threads": plan.threads,
                "steps_per_epoch": plan.steps_per_epoch,
                "truncated_rows": plan.truncated_rows,
                "rows_without_labels": plan.rows_without_labels,
            }
            for plan in event.models
        },
    }


def _progress(event: ProgressReported, state: RunState) -> Body:
    return {
        "model": event.model,
        "epoch": event.epoch,
        "step": event.step,
        "steps": event.steps,
        "loss": event.loss,
        "learning_rate": event.learning_rate,
        "gradient_norm": event.gradient_norm,
        "tokens_per_second": event.tokens_per_second,
        "progress_percent": state.progress_percent,
    }


def _model_epoch(event: EpochFinished, state: RunState) -> Body:
    return {
        "model": event.model,
        "epoch": event.epoch,
        "train_loss": event.train_loss,
        "val_loss": event.val_loss,
        "bits_per_byte": event.bits_per_byte,
        "learning_rate": event.learning_rate,
        "gradient_norm": event.gradient_norm,
        "tokens_per_second": event.tokens_per_second,
        "memory_bytes": event.memory_bytes,
        **({"preference": to_builtins(event.preference)} if event.preference else {}),
    }


def epoch_end(event: EpochCommitted, state: RunState) -> Body:
    """The body of `epoch_end`. A quarantined model's losses are null."""

    def of(field: str) -> dict[str, Any]:
        return {key: getattr(event.results[key], field) if key in event.results else None for key in state.keys}

    return {
        "epoch": event.epoch,
        "total_epochs": state.total_epochs,
        "val_losses": of("val_loss"),
        "train_losses": of("train_loss"),
        "bits_per_byte": of("bits_per_byte"),
        "tokens_per_second": of("tokens_per_second"),
        "weights": event.weights,
        "lr_multipliers": event.learning_rates,
        "total_loss": event.total_loss,
        "auto_stop_info": auto_stop_info(state, event.auto_stop),
        "quarantined": state.quarantined,
        "overfitting": [key for key in event.results if overfits(state, key)],
        "progress_percent": round(100 * event.epoch / state.total_epochs, 2),
        **preferences(event),
        **samples(event),
    }


def preferences(event: EpochCommitted) -> Body:
    """How far each model learned the preferences; nothing where it learns from something else."""
    learned = {key: result.preference for key, result in event.results.items() if result.preference}
    return {"preferences": {key: to_builtins(value) for key, value in learned.items()}} if learned else {}


def samples(event: EpochCommitted) -> Body:
    """The answers to the sample prompts, by model and in the prompts' order; nothing where there were none."""
    said = {key: list(result.samples) for key, result in event.results.items() if result.samples}
    return {"samples": said} if said else {}


def sample_prompts(state: RunState) -> Body:
    """The prompts that `samples` answer; nothing where there are none."""
    prompts = state.config["training"].get("sample_prompts")  # runs of the first release know no such setting
    return {"sample_prompts": list(prompts)} if prompts else {}


def detail(state: RunState | None) -> Body:
    """What is told of a run beside its line in a listing where it is asked for alone: the leaderboard, and the answers
    to its sample prompts by epoch and model. A run that was never accepted has none."""
    if state is None:
        return {"leaderboard": []}
    said = [{"epoch": commit.epoch, **answers} for commit in state.committed if (answers := samples(commit))]
    return {"leaderboard": leaderboard(state)} | ({**sample_prompts(state), "samples": said} if said else {})


def auto_stop_info(state: RunState, info: AutoStop | None) -> Body | None:
    """The countdown of auto-stop; None before the first epoch. Where it is off, nothing counts down: `remaining` is
    None."""
    if info is None:
        return None
    ours = state.accepted.engine != "outside"
    off = ours and not state.config["confidence_auto_stop"]["enabled"]
    remaining = None if off else info.remaining
    return {"remaining": remaining, "threshold": info.threshold, "current_change": info.current_change}


def overfits(state: RunState, key: str) -> bool:
    """Whether, in the last epoch, validation loss rose while training loss fell."""
    if state.epochs_done < 2:
        return False
    before, after = (commit.results.get(key) for commit in state.committed[-2:])
    if not before or not after or before.train_loss is None or after.train_loss is None:
        return False
    return after.val_loss > before.val_loss and after.train_loss < before.train_loss


def leaderboard(state: RunState) -> list[Body]:
    """One row per model, the leader first: by the ranked metric of the last epoch, or of the epoch whose adapter was
    kept once that is verified. Quarantined models come last."""
    names = {model.key: model.display_name for model in state.accepted.models}
    gone = state.quarantined

    def epoch(key: str) -> int:
        return state.verified[key].epoch if key in state.verified else state.epochs_done

    def order(key: str) -> tuple[bool, bool, float, str]:
        value = state.metric(key, epoch(key))
        return key in gone, value is None, value if value is not None else 0.0, key

    rates = state.committed[-1].learning_rates if state.committed else {}
    rows = []
    for rank, key in enumerate(sorted(state.keys, key=order), start=1):
        result = state.committed[epoch(key) - 1].results.get(key) if state.committed else None
        rows.append(
            {
                "rank": rank,
                "model": key,
                "display_name": names[key],
                "val_loss": result.val_loss if result else None,
                "bits_per_byte": result.bits_per_byte if result else None,
                "reward_accuracy": result.preference.accuracy if result and result.preference else None,
                "weight": state.weights.get(key),
                "lr_multiplier": rates.get(key),
                "tokens_per_second": _speed(state, key),
                "best_epoch": state.best_epoch(key) or None,
                "overfitting": key not in gone and overfits(state, key),
                "status": "quarantined" if key in gone else "verified" if key in state.verified else state.status,
                "cause": gone.get(key),
            }
        )
    return rows


def leading(state: RunState) -> Body | None:
    """The leaderboard's row of who is ahead, or has won; None as long as nothing is measured."""
    rows = leaderboard(state)
    if state.result:
        return next((row for row in rows if row["model"] == state.result.champion), None)
    first = rows[0]
    return first if first[state.rank_by] is not None and first["cause"] is None else None


def _speed(state: RunState, key: str) -> float | None:
    if key in state.progress:
        return state.progress[key].tokens_per_second
    if state.committed and key in state.committed[-1].results:
        return state.committed[-1].results[key].tokens_per_second
    return None


def _fields(*names: str) -> Callable[[Any, RunState], Body]:
    """A body that is some of the event's own fields."""
    return lambda event, state: {name: getattr(event, name) for name in names}


_TABLE: dict[type[Event], tuple[str, Callable[[Any, RunState], Body]]] = {
    RunAccepted: ("run_accepted", _accepted),
    DownloadProgressed: ("download_progress", _download),
    RunPlanned: ("run_planned", _planned),
    EpochStarted: (
        "epoch_start",
        lambda event, state: {
            "epoch": event.epoch,
            "total_epochs": state.total_epochs,
            "lr_multipliers": event.learning_rates,
        },
    ),
    ProgressReported: ("progress", _progress),
    EpochFinished: ("model_epoch_end", _model_epoch),
    CheckpointDamaged: ("checkpoint_damaged", _fields("model", "epoch", "problem")),
    WorkerRestarted: ("worker_restarted", _fields("model", "epoch", "attempt", "cause")),
    ModelFailed: ("training_error", _fields("model", "epoch", "kind", "problem", "fix")),
    WeightsAdjusted: (
        "weight_adjustment",
        lambda event, state: {
            "epoch": event.epoch,
            "weights": event.weights,
            "lr_multipliers": event.learning_rates,
        },
    ),
    EpochCommitted: ("epoch_end", epoch_end),
    AutoStopTriggered: ("auto_stop_triggered", _fields("epoch", "current_change", "threshold")),
    StopRequested: ("stop_requested", _fields()),
    RunQueued: ("run_queued", _fields("device")),
    RunStopped: ("training_stopped", lambda event, state: {"epoch": state.epochs_done}),
    RunInterrupted: ("training_interrupted", lambda event, state: {"epoch": state.epochs_done, "cause": event.cause}),
    RunResumed: ("training_resumed", _fields("epoch")),
    RunFailed: ("training_error", _fields("problem", "fix")),
    ModelVerified: ("model_verified", _fields("model", "epoch", "lora_b_norm", "output_difference")),
    RunFinished: ("training_complete", _fields("champion", "final_weights", "quarantined", "reason")),
}
