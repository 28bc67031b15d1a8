"""The journey of a run, from wherever it is to its end. It sequences; what follows from what is decided elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

from oneseek.certificate.documents import live_metrics
from oneseek.engine.checkpoint import Position, prune
from oneseek.errors import OneSeekError, RunError, TrainingFailed
from oneseek.events import (
    AnyEvent,
    AutoStopTriggered,
    EpochStarted,
    ModelVerified,
    ProgressReported,
    RunFailed,
    RunInterrupted,
    RunPlanned,
    RunStopped,
    StopRequested,
    WeightsAdjusted,
)
from oneseek.executors.crew import Crew
from oneseek.files.durable import write_json
from oneseek.policy import decide
from oneseek.runs import stopping
from oneseek.runs.plan import differences, plan
from oneseek.runs.prepare import prepare_models
from oneseek.runs.publish import publish
from oneseek.runs.recorder import Recorder, is_published
from oneseek.runs.staff import staff
from oneseek.runs.unchanged import changes


class StoppedAtOnce(KeyboardInterrupt):
    """Somebody asked the run, from outside, not to wait for the end of the epoch."""


def train(run: Recorder, like: RunPlanned | None = None) -> None:
    """Take an accepted run to its end, or until it is stopped; its journal says which.

    like: the plan of another run, which this one follows in what the machine would else decide.
    Raises:
        OneSeekError: the run failed, which is recorded where the disk still allows it.
        KeyboardInterrupt: it was broken off, which is recorded. It can be resumed.
    """
    if not run.state.over:
        try:
            _train(run, like)
        except KeyboardInterrupt as interruption:
            cause = "stop --now" if isinstance(interruption, StoppedAtOnce) else "Ctrl-C"
            _record_the_end(run, RunInterrupted(cause=cause))
            raise
        except OneSeekError as error:
            _record_the_end(run, RunFailed(problem=error.problem, fix=error.fix))
            raise
    if run.state.over and not is_published(run.directory):
        publish(run.directory, run.state)


def _record_the_end(run: Recorder, event: RunInterrupted | RunFailed) -> None:
    """How it was broken off, unless it was finished before: nothing stands behind RunFinished."""
    if not run.state.over:
        run.record_if_possible(event)


def _train(run: Recorder, like: RunPlanned | None) -> None:
    prepare_models(run, poll=lambda: _heed_stop(run))
    with staff(run, poll=lambda: _heed_stop(run), like=like) as crew:
        _plan(run, crew)
        while not run.state.trained:
            _train_epoch(run, crew)
            if run.state.status == "stopping" and not run.state.trained:
                run.record(RunStopped())
                return
        _finish(run, crew)


def _plan(run: Recorder, crew: Crew) -> None:
    """Every model is loaded; what could change the arithmetic is frozen, or must be as it was frozen."""
    _record(run, crew.prepare())
    if run.state.planned is None:
        run.record(plan(run.state, crew.prepared, crew.at_once))
    elif changed := differences(run.state.planned, crew.prepared):
        raise RunError(
            f"{run.state.run_id} can't go on here with the same result: {'; '.join(changed)}.",
            "Resume it where it was started, or start a new run.",
        )


def _train_epoch(run: Recorder, crew: Crew) -> None:
    """One epoch of every live model, then the one record that makes it count."""
    rates = decide.learning_rates_so_far(run.state, run.config)
    run.record(
        EpochStarted(epoch=run.state.next_epoch, learning_rates={key: known[-1] for key, known in rates.items()})
    )
    excluded = run.state.planned.excluded_validation_rows if run.state.planned else ()
    _record(run, crew.train_epoch(run.state.next_epoch, rates, excluded))
    if not run.state.finished:
        raise _nobody_left(run)
    commit = decide.commit(run.state, run.config)
    run.record(WeightsAdjusted(epoch=commit.epoch, weights=commit.weights, learning_rates=commit.learning_rates))
    run.record(commit)
    write_json(run.directory.live_metrics, live_metrics(run.state, run.last_at))
    for key in commit.quarantined:
        crew.dismiss(key)
    for key in run.state.live:
        keep = map(Position, (commit.epoch, commit.epoch - 1, run.state.best_epoch(key)))
        prune(run.directory.worker(key), set(keep))


def _finish(run: Recorder, crew: Crew) -> None:
    """Every live model's adapter read back and checked, then the journal's last record."""
    stopped = run.state.auto_stop
    if stopped and stopped.triggered:
        change = stopped.current_change
        run.record(AutoStopTriggered(epoch=run.state.epochs_done, current_change=change, threshold=stopped.threshold))
    rates = decide.learning_rates_so_far(run.state, run.config)
    verified = crew.verify({key: run.state.kept_epoch(key) for key in run.state.live}, rates)
    _record(run, _in_order(verified, run.state.keys))
    if not run.state.verified:
        raise _nobody_left(run)
    if changed := changes(run.state):
        raise RunError(f"{run.state.run_id} can't be certified: {'; '.join(changed)}.", "Put it back, then resume.")
    run.record(decide.finish(run.state))


def _in_order(events: Iterable[AnyEvent], keys: Sequence[str]) -> Iterator[AnyEvent]:
    """Verified models as they were selected, not as their workers happened to answer: it shows in every document."""
    verified = {}
    for event in events:
        if isinstance(event, ModelVerified):
            verified[event.model] = event
        else:
            yield event
    yield from (verified[key] for key in keys if key in verified)


def _nobody_left(run: Recorder) -> TrainingFailed:
    """No model can go on. Nothing of the epoch is committed: where the cause can be mended, resume tries it again."""
    causes = {**run.state.quarantined, **{key: failed.problem for key, failed in run.state.failing.items()}}
    fixes = dict.fromkeys(failed.fix for failed in run.state.failing.values() if failed.fix)
    return TrainingFailed(
        "No model is left. " + " ".join(f"{key}: {cause}" for key, cause in causes.items()),
        " ".join(fixes) or "Mend the cause, then resume the run or start a new one.",
    )


def _record(run: Recorder, events: Iterable[AnyEvent]) -> None:
    for event in _thinned(events, run.config.live_leaderboard.refresh_interval):
        run.record(event)


def _thinned(events: Iterable[AnyEvent], interval: float) -> Iterator[AnyEvent]:
    """At most one progress event per model in `interval` seconds; everything else passes."""
    shown: dict[str, float] = {}
    for event in events:
        if isinstance(event, ProgressReported):
            now = time.monotonic()
            if now - shown.get(event.model, -interval) < interval:
                continue
            shown[event.model] = now
        yield event


def _heed_stop(run: Recorder) -> None:
    request = stopping.asked(run.directory)
    if request == "now":
        raise StoppedAtOnce
    if request and run.state.status != "stopping":
        run.record(StopRequested())
