"""What a run is now: a fold over its journal. Nothing else knows anything about a run."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from typing import Any, Literal

import msgspec

from oneseek.errors import JournalDamaged
from oneseek.events import (
    AnyEvent,
    AutoStop,
    DownloadProgressed,
    EpochCommitted,
    EpochFinished,
    EpochStarted,
    Event,
    ModelFailed,
    ModelVerified,
    Part,
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
    WorkerRestarted,
)

Status = Literal["queued", "preparing", "training", "stopping", "stopped", "interrupted", "failed", "completed"]


class RunState(Part, frozen=True, kw_only=True):
    """A run. Everything that decides what happens next comes from RunAccepted, RunPlanned and EpochCommitted alone;
    `downloads`, `progress`, `finished`, `failing` and `verified` are void after an interruption."""

    accepted: RunAccepted
    planned: RunPlanned | None = None
    status: Status = "preparing"
    committed: tuple[EpochCommitted, ...] = ()
    epoch: int = 0
    downloads: dict[str, DownloadProgressed] = msgspec.field(default_factory=dict)
    progress: dict[str, ProgressReported] = msgspec.field(default_factory=dict)
    finished: dict[str, EpochFinished] = msgspec.field(default_factory=dict)
    failing: dict[str, ModelFailed] = msgspec.field(default_factory=dict)
    restarts: int = 0
    verified: dict[str, ModelVerified] = msgspec.field(default_factory=dict)
    failure: RunFailed | None = None
    result: RunFinished | None = None

    @property
    def run_id(self) -> str:
        return self.accepted.run_id

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(model.key for model in self.accepted.models)

    @property
    def config(self) -> dict[str, Any]:
        return self.accepted.config

    @property
    def total_epochs(self) -> int:
        return int(self.config["training"]["num_epochs"])

    @property
    def epochs_done(self) -> int:
        return len(self.committed)

    @property
    def next_epoch(self) -> int:
        return self.epochs_done + 1

    @property
    def quarantined(self) -> dict[str, str]:
        """Models that left, with the cause, in the order in which they left."""
        if self.result:
            return self.result.quarantined
        gone = dict(self.planned.unprepared) if self.planned else {}
        for commit in self.committed:
            gone.update(commit.quarantined)
        return gone

    @property
    def live(self) -> tuple[str, ...]:
        gone = self.quarantined
        return tuple(key for key in self.keys if key not in gone)

    @property
    def weights(self) -> dict[str, float]:
        """Adaptive weights of the live models, 1.0 before the first epoch."""
        return self.committed[-1].weights if self.committed else dict.fromkeys(self.keys, 1.0)

    @property
    def auto_stop(self) -> AutoStop | None:
        return self.committed[-1].auto_stop if self.committed else None

    @property
    def rank_by(self) -> Literal["bits_per_byte", "val_loss"]:
        return self.planned.rank_by if self.planned else self.config["training"]["rank_by"]

    @property
    def trained(self) -> bool:
        """No epoch is left to train: all are done, nothing more is learned, or nobody is left."""
        return bool(
            self.epochs_done >= self.total_epochs or (self.auto_stop and self.auto_stop.triggered) or not self.live
        )

    @property
    def over(self) -> bool:
        return self.result is not None

    def metric(self, key: str, epoch: int) -> float | None:
        """The ranked metric of a model after an epoch (from 1); None where it has none."""
        result = self.committed[epoch - 1].results.get(key) if 1 <= epoch <= self.epochs_done else None
        return getattr(result, self.rank_by) if result else None

    def metrics(self, key: str) -> tuple[float | None, ...]:
        """The ranked metric after each committed epoch."""
        return tuple(self.metric(key, epoch) for epoch in range(1, self.epochs_done + 1))

    def best_epoch(self, key: str) -> int:
        """The epoch with the lowest ranked metric, the first of equals; 0 before any."""
        measured = [(value, epoch) for epoch, value in enumerate(self.metrics(key), start=1) if value is not None]
        return min(measured)[1] if measured else 0

    def kept_epoch(self, key: str) -> int:
        """The epoch whose adapter the run keeps for a model (`training.keep`)."""
        return self.best_epoch(key) if self.config["training"]["keep"] == "best" else self.epochs_done

    @property
    def progress_percent(self) -> float:
        """Share of all steps of all epochs that are done, live models only, from 0 to 100."""
        if self.status == "completed":
            return 100.0
        live = self.live or self.keys
        done = 0.0
        for key in live:
            step = self.progress.get(key)
            done += 1 if key in self.finished else (step.step / step.steps if step else 0)
        return round(100 * (self.epochs_done + done / len(live)) / self.total_epochs, 2)


def begin(event: AnyEvent) -> RunState:
    """The state after the first record of a journal."""
    if not isinstance(event, RunAccepted):
        raise JournalDamaged(
            f"A journal begins with RunAccepted, not {type(event).__name__}.", "Restore it from a backup."
        )
    return RunState(accepted=event)


def apply(state: RunState, event: AnyEvent) -> RunState:
    """The state after one more event. Pure: neither the state nor the event is changed."""
    match event:
        case DownloadProgressed():
            return _with(state, downloads={**state.downloads, event.model: event})
        case RunPlanned():
            return _with(state, planned=event, downloads={})
        case EpochStarted():
            return _with(
                state,
                epoch=event.epoch,
                status="stopping" if state.status == "stopping" else "training",
                **_NOTHING_SHOWN,
            )
        case ProgressReported():
            return _with(state, progress={**state.progress, event.model: event})
        case EpochFinished():
            return _with(state, finished={**state.finished, event.model: event})
        case ModelFailed():
            return _with(state, failing={**state.failing, event.model: event})
        case WorkerRestarted():
            progress = {key: step for key, step in state.progress.items() if key != event.model}
            return _with(state, restarts=state.restarts + 1, progress=progress)
        case EpochCommitted():
            return _with(state, committed=(*state.committed, event), **_NOTHING_SHOWN)
        case StopRequested():
            return _with(state, status="stopping")
        case RunQueued():
            return _with(state, status="queued", failure=None, **_NOTHING_SHOWN)
        case RunStopped():
            return _with(state, status="stopped")
        case RunInterrupted():
            return _with(state, status="interrupted")
        case RunResumed():
            return _with(
                state,
                status="training" if state.planned else "preparing",
                epoch=state.epochs_done,
                failure=None,
                verified={},
                downloads={},
                **_NOTHING_SHOWN,
            )
        case RunFailed():
            return _with(state, status="failed", failure=event)
        case ModelVerified():
            return _with(state, verified={**state.verified, event.model: event})
        case RunFinished():
            return _with(state, status="completed", result=event, **_NOTHING_SHOWN)
        case RunAccepted():
            raise JournalDamaged("A journal holds RunAccepted once, at its beginning.", "Restore it from a backup.")
        case _:  # CheckpointDamaged, WeightsAdjusted, AutoStopTriggered: for who watches
            return state


def replay(events: Iterable[Event]) -> RunState | None:
    """The state after all of them; None where there are none."""
    rest = iter(events)
    first = next(rest, None)
    return None if first is None else reduce(apply, rest, begin(first))  # type: ignore[arg-type]


_NOTHING_SHOWN: dict[str, Any] = {"progress": {}, "finished": {}, "failing": {}}


def _with(state: RunState, **changes: Any) -> RunState:
    return msgspec.structs.replace(state, **changes)
