"""Runs that another program trains and only reports, epoch by epoch: their journal is written here, from what it says.

Nothing of it is decided anew. Weights, learning rates and the countdown to auto-stop are those of the report; what it
leaves out is not filled in with what our own policy would have done, since nobody did it: a weight stays as it was, 1.0
at first, a learning rate is not known. Only the change since the epoch before is measured here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from oneseek import __version__
from oneseek.config.schema import TrainingConfig
from oneseek.errors import ConfigError, RunError, RunUnknown
from oneseek.events import (
    AutoStop,
    DatasetUsed,
    EpochFinished,
    EpochStarted,
    MemoryNeed,
    ModelFailed,
    RunAccepted,
    RunFailed,
    RunFinished,
    RunResumed,
    SelectedModel,
    WeightsAdjusted,
)
from oneseek.events.state import RunState, begin, replay
from oneseek.files.durable import storage_errors, sync_directory
from oneseek.files.layout import Home, Results, RunDirectory
from oneseek.journal.file import read as read_journal
from oneseek.names import is_run_id, normalize_model_name
from oneseek.policy import decide
from oneseek.policy.ranking import ranking
from oneseek.policy.weights import final_weights
from oneseek.runs.recorder import Recorder, nobody
from oneseek.runs.submit import sweep_abandoned
from oneseek.runs.turn import turn

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Value = TypeVar("Value")

_MOST_EPOCHS = 1_000_000
_FEW = msgspec.Meta(max_length=200)  # each report looks for every model among all of them


class Countdown(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How far the other program is from stopping by itself, as it says."""

    remaining: Annotated[int, msgspec.Meta(ge=0)] | None
    threshold: Annotated[float, msgspec.Meta(ge=0)]
    current_change: float | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What a program tells of the epoch that it has ended, 0 before the first. Losses are nats per token, by model.

    `val_losses` names every model that still trains; null is one that diverged, and is out from then on. The first
    report of a run says `total_epochs`. `failed` says why the program gives up, `done` that it has ended. What the
    event `epoch_end` carries besides (`type`, `run_id`, `progress_percent`, `timestamp`) may be sent too, and is not
    read: it follows from the rest.
    """

    epoch: Annotated[int, msgspec.Meta(ge=0, le=_MOST_EPOCHS)]
    total_epochs: Annotated[int, msgspec.Meta(ge=1, le=_MOST_EPOCHS)] | None = None
    val_losses: Annotated[dict[Name, float | None], _FEW] = {}
    train_losses: Annotated[dict[Name, float | None], _FEW] = {}
    bits_per_byte: Annotated[dict[Name, float | None], _FEW] = {}
    weights: Annotated[dict[Name, Positive], _FEW] = {}
    lr_multipliers: Annotated[dict[Name, float], _FEW] = {}
    total_loss: float | None = None
    auto_stop_info: Countdown | None = None
    base_models: Annotated[tuple[Name, ...], _FEW] = ()
    done: bool = False
    failed: Annotated[str, msgspec.Meta(min_length=1, max_length=10_000)] | None = None
    type: Literal["epoch_end"] | None = None
    run_id: str | None = None
    progress_percent: float | None = None
    timestamp: str | None = None


def read(body: Mapping[str, Any]) -> Report:
    """A report as it is sent, in camelCase or in snake_case.

    Raises:
        ConfigError: it is none, or says something twice.
    """
    said = _in_camel_case(body)
    if isinstance(countdown := said.get("autoStopInfo"), dict):
        said["autoStopInfo"] = _in_camel_case(countdown)
    try:
        return msgspec.convert(said, Report)
    except msgspec.ValidationError as error:
        raise ConfigError(f"The report can't be used: {error}.", "See /openapi.json for what is expected.") from error


def report(home: Home, run_id: str, said: Report) -> tuple[RunState, bool]:
    """Record what was reported. The first report of an id that nobody has begins a run; the same one again changes
    nothing.

    Returns the run after it, and whether it has begun with it.

    Raises:
        RunUnknown: that is no run id.
        ConfigError: the report does not fit the run, or lacks what it needs.
        RunError: the run is trained here, or over; or the report is of another epoch than the next.
        JournalDamaged: the run's journal is not what was written.
        StorageError: it could not be written.
    """
    if not is_run_id(run_id):
        raise RunUnknown(f"{run_id[:80]!r} is no run id.", "Write it as run-20251122-143025.")
    if said.done and said.failed:
        raise ConfigError("The report says done and failed.", "Say one of them.")
    said = _by_key(said)
    directory = Results(home.models.resolve()).run(run_id)
    begun = None if directory.journal.exists() else _begin(directory, said)
    if begun is None:
        _require_outside(directory)
    with begun or Recorder.reopen(directory, nobody) as run:
        _record(run, said)
        return run.state, begun is not None


def _begin(directory: RunDirectory, said: Report) -> Recorder | None:
    """A new run; None where another report has begun it meanwhile."""
    state = begin(_accepted(directory.run_id, said))
    if said.epoch > 1:
        raise _out_of_order(state, said.epoch)
    if said.epoch == 1:
        _require_whole(state, said)
    with turn(directory.results):
        sweep_abandoned(directory.results)
        with storage_errors(directory.root):
            try:
                directory.root.mkdir()
            except FileExistsError:
                if directory.journal.exists():
                    return None
                raise RunError(f"{directory.run_id} is taken already.", "Report under another id.") from None
            sync_directory(directory.root.parent)
        return Recorder.begin(directory, state.accepted, nobody)


def _record(run: Recorder, said: Report) -> None:
    """What is new in a report."""
    state = run.state
    if said.total_epochs not in (None, state.total_epochs):
        raise RunError(
            f"{state.run_id} has {state.total_epochs} epochs, not {said.total_epochs}.", "Report under another id."
        )
    if said.epoch == state.epochs_done:
        _require_same(state, said)
    elif state.over:
        raise RunError(f"{state.run_id} is over: epoch {said.epoch} can't follow.", "Report under another id.")
    elif said.epoch == state.next_epoch and said.epoch <= state.total_epochs:
        _commit(run, said)
    else:
        raise _out_of_order(state, said.epoch)
    if said.failed and run.state.failure is None:
        if run.state.over:
            raise RunError(f"{state.run_id} is over: it can't fail any more.", "Report under another id.")
        run.record(RunFailed(problem=said.failed))
    if said.done and not run.state.over:
        run.record(_finished(run.state))


def _commit(run: Recorder, said: Report) -> None:
    """The records of an epoch, as our own runs write them."""
    before = run.state
    _require_whole(before, said)
    if before.failure:
        run.record(RunResumed(epoch=before.epochs_done))
    rates = before.committed[-1].learning_rates if before.committed else {}
    run.record(EpochStarted(epoch=said.epoch, learning_rates=rates))
    for key in before.live:
        if (loss := said.val_losses[key]) is None:
            run.record(ModelFailed(model=key, epoch=said.epoch, kind="diverged", problem="It reported no loss."))
        else:
            run.record(_result(key, loss, said))
    measured = decide.commit(run.state, run.config)
    weights = {key: said.weights.get(key, before.weights[key]) for key in measured.weights}
    commit = msgspec.structs.replace(
        measured,
        weights=weights,
        learning_rates={key: said.lr_multipliers[key] for key in weights if key in said.lr_multipliers},
        total_loss=measured.total_loss if said.total_loss is None else said.total_loss,
        auto_stop=_auto_stop(said.auto_stop_info, measured.auto_stop),
    )
    run.record(WeightsAdjusted(epoch=commit.epoch, weights=commit.weights, learning_rates=commit.learning_rates))
    run.record(commit)


def _finished(state: RunState) -> RunFinished:
    """The champion is the first of the last epoch: which adapter the other program keeps, it does not say."""
    if not state.live or not state.committed:
        raise ConfigError(f"{state.run_id} has no model with a loss.", "Report its losses, or what has failed.")
    return RunFinished(
        champion=ranking({key: state.metric(key, state.epochs_done) for key in state.live})[0],
        final_weights=final_weights({key: state.weights[key] for key in state.live}),
        quarantined=state.quarantined,
        reason="all_epochs" if state.epochs_done == state.total_epochs else "auto_stop",
    )


# -- what it is made of --------------------------------------------------------------------------------------------


def _accepted(run_id: str, said: Report) -> RunAccepted:
    """A run of which nothing is known but its models and how long it is to be."""
    if not said.base_models:
        raise ConfigError("The report names no model.", "Say valLosses or baseModels.")
    if said.total_epochs is None and not (said.done or said.failed):
        raise ConfigError("The first report of a run says how long it is to be.", "Say totalEpochs.")
    ranked = "bits_per_byte" if said.bits_per_byte else "val_loss"
    config = TrainingConfig.model_validate(
        {
            "model": {"base_models": said.base_models},
            "training": {"num_epochs": said.total_epochs or max(1, said.epoch), "rank_by": ranked},
            "adaptive_weights": {"enabled": False},
            "confidence_auto_stop": {"enabled": False},
        }
    )
    return RunAccepted(
        run_id=run_id,
        version="",
        oneseek_version=__version__,
        engine="outside",
        config=config.model_dump(mode="json"),
        models=tuple(map(_model, said.base_models)),
        available=tuple(sorted(map(normalize_model_name, said.base_models))),
        dataset=DatasetUsed(
            path="", sha256="", format="", strategy="standard", training_rows=0, validation_rows=0, rows_sha256=""
        ),
    )


def _model(name: str) -> SelectedModel:
    return SelectedModel(
        key=normalize_model_name(name),
        display_name=name,
        path="",
        target_modules=(),
        memory=MemoryNeed(fixed=0, per_token=0, per_token_checkpointed=0, longest_row=0, longest_step=0),
        weights_sha256="",
        config_sha256="",
        tokenizer_sha256="",
        template_sha256=None,
    )


def _result(key: str, loss: float, said: Report) -> EpochFinished:
    return EpochFinished(
        model=key,
        epoch=said.epoch,
        train_loss=said.train_losses.get(key),
        val_loss=loss,
        bits_per_byte=said.bits_per_byte.get(key),
        learning_rate=said.lr_multipliers.get(key),
        gradient_norm=None,
        tokens_per_second=None,
        memory_bytes=None,
        checkpoint="",
    )


def _auto_stop(told: Countdown | None, measured: AutoStop) -> AutoStop:
    if told is None:
        return msgspec.structs.replace(measured, remaining=None)
    return AutoStop(
        remaining=told.remaining, threshold=told.threshold, current_change=told.current_change, triggered=False
    )


# -- what is refused -----------------------------------------------------------------------------------------------


def _require_outside(directory: RunDirectory) -> None:
    state = replay(record.event for record in read_journal(directory.journal).records)
    if state and state.accepted.engine != "outside":
        raise RunError(
            f"{directory.run_id} is trained by OneSeek, which tells itself how it goes.",
            "Report a run of another program under an id of its own.",
        )


def _require_whole(state: RunState, said: Report) -> None:
    """That an epoch says something of every model that trains, and nothing of strangers."""
    for key in said.val_losses.keys() | said.bits_per_byte.keys() | said.weights.keys():
        if key not in state.keys:
            raise ConfigError(f"{key} is no model of {state.run_id}.", f"Its models are {', '.join(state.keys)}.")
    for key in state.live:
        if key not in said.val_losses:
            raise ConfigError(f"valLosses says nothing of {key}.", "Say its loss; null where it diverged.")
        ranked = said.bits_per_byte if state.rank_by == "bits_per_byte" else said.val_losses
        if said.val_losses[key] is not None and ranked.get(key) is None:
            raise ConfigError(f"bitsPerByte says nothing of {key}.", "Say it of every model, from the first report on.")


def _require_same(state: RunState, said: Report) -> None:
    """An epoch that is known may be told again, not otherwise."""
    if not state.committed:
        return
    known = state.committed[-1]
    losses = {**dict.fromkeys(known.quarantined), **{key: result.val_loss for key, result in known.results.items()}}
    for key, loss in losses.items():
        if said.val_losses.get(key, loss) != loss:
            raise RunError(
                f"Epoch {said.epoch} of {state.run_id} was reported with another loss of {key}.",
                f"Report epoch {state.next_epoch}.",
            )


def _out_of_order(state: RunState, epoch: int) -> RunError:
    return RunError(
        f"Epoch {epoch} of {state.run_id} can't be reported: {state.epochs_done} of {state.total_epochs} are there.",
        f"Report epoch {state.next_epoch}." if state.next_epoch <= state.total_epochs else "Report under another id.",
    )


# -- names ---------------------------------------------------------------------------------------------------------


def _by_key(said: Report) -> Report:
    """The same report with model keys for names; `base_models` are then the names of the models that it is about."""
    _keyed(dict.fromkeys(said.base_models))
    keyed = {name: _keyed(getattr(said, name)) for name in _OF_MODELS}
    return msgspec.structs.replace(said, base_models=said.base_models or tuple(said.val_losses), **keyed)


_OF_MODELS = ("val_losses", "train_losses", "bits_per_byte", "weights", "lr_multipliers")


def _keyed(values: Mapping[str, Value]) -> dict[str, Value]:
    """By model key, in the same order.

    Raises:
        ConfigError: a name is none, or two are the same.
    """
    keyed = {normalize_model_name(name): value for name, value in values.items()}
    if "" in keyed or len(keyed) != len(values):
        raise ConfigError(f"One of {', '.join(values)[:200]} is no model's name, or two are the same.", "Rename them.")
    return keyed


def _in_camel_case(fields: Mapping[str, Any]) -> dict[str, Any]:
    spelt: dict[str, Any] = {}
    for name, value in fields.items():
        camel = re.sub("_([a-z])", lambda letter: letter[1].upper(), name)
        if camel in spelt:
            raise ConfigError(f"The report says {camel} twice.", "Say it once.")
        spelt[camel] = value
    return spelt
