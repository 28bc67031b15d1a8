"""Everything that can happen in a run: past tense, frozen, one struct each.

`state.py` folds them into what a run is now; `wire.py` says how they look to a program that listens.
An event is only ever added to, never changed: journals of every release must still replay.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A value inside an event."""


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag=True):
    """Something that happened in a run."""


# -- what a run was asked for --------------------------------------------------------------------------------------


class MemoryNeed(Part, frozen=True, kw_only=True):
    """Estimated bytes that training a model takes: `fixed`, and for each token computed at once `per_token`, or
    `per_token_checkpointed` where activations are computed twice. No row has more than `longest_row` tokens, no
    optimiser step more than `longest_step`."""

    fixed: int
    per_token: int
    per_token_checkpointed: int
    longest_row: int
    longest_step: int


class SelectedModel(Part, frozen=True, kw_only=True):
    """A base model of the selection. Digests are SHA-256 in hex of what the recipe names.

    `hub_id` and `revision` (the commit) are those of a model from the hub; it may not have been at `path` yet.
    """

    key: str
    display_name: str
    path: str
    target_modules: tuple[str, ...]
    memory: MemoryNeed
    weights_sha256: str
    config_sha256: str
    tokenizer_sha256: str
    template_sha256: str | None
    hub_id: str | None = None
    revision: str | None = None


class DatasetUsed(Part, frozen=True, kw_only=True):
    """The training data: `sha256` of the file's bytes, `rows_sha256` of the rows used with their split, `format` that
    in which they are used. `quarantined_rows` could not be used and were left out. Where validation rows have a file of
    their own, `validation_path` and `validation_sha256` name it."""

    path: str
    sha256: str
    format: str
    strategy: Literal["chat", "standard"]
    training_rows: int
    validation_rows: int
    rows_sha256: str
    quarantined_rows: int = 0
    validation_path: str | None = None
    validation_sha256: str | None = None


class RunAccepted(Event, frozen=True, kw_only=True):
    """The run exists: id and version are reserved, every finding that refuses a run is absent.

    A run of the engine `outside` is trained by another program that only reports how it goes: what we do not know of it
    is empty.
    """

    run_id: str
    version: str
    oneseek_version: str
    engine: Literal["torch", "scripted", "outside"]
    config: dict[str, Any]
    models: tuple[SelectedModel, ...]
    available: tuple[str, ...]
    dataset: DatasetUsed
    warnings: tuple[str, ...] = ()


class DownloadProgressed(Event, frozen=True, kw_only=True):
    """Display only: how far a base model is downloaded, in bytes of all its files."""

    model: str
    done_bytes: int
    total_bytes: int
    bytes_per_second: float


# -- what could change the arithmetic, frozen ----------------------------------------------------------------------


class ModelPlan(Part, frozen=True, kw_only=True):
    """What one model's worker found, and must find again when the run is resumed.

    `attention` is packed, padded or single, `head` chunked or the model's own. At most `token_budget` tokens are
    computed at once (one row alone may be longer).
    """

    key: str
    dtype: str
    device: str
    attention: str
    head: str
    token_budget: int
    gradient_checkpointing: bool
    threads: int
    target_modules: tuple[str, ...]
    parameters: int
    trainable_parameters: int
    steps_per_epoch: int
    training_tokens: int
    supervised_tokens: int
    truncated_rows: int
    rows_without_labels: int
    fingerprint: dict[str, str]


class RunPlanned(Event, frozen=True, kw_only=True):
    """Everything that could change a weight is decided: resume obeys it.

    `excluded_validation_rows` are those that can't be compared (indices into the validation rows), because some model
    had to truncate them or its template rewrites their answers: bits per byte leaves them out for all. `unprepared`
    are the models that could not be loaded, with the cause.
    """

    models: tuple[ModelPlan, ...]
    unprepared: dict[str, str]
    at_once: int
    rank_by: Literal["bits_per_byte", "val_loss"]
    excluded_validation_rows: tuple[int, ...]


# -- while it trains -----------------------------------------------------------------------------------------------


class EpochStarted(Event, frozen=True, kw_only=True):
    """Every live model begins an epoch. `learning_rates` are those after its weight."""

    epoch: int
    learning_rates: dict[str, float]


class ProgressReported(Event, frozen=True, kw_only=True):
    """Display only. `loss` is nats per supervised token of the last step."""

    model: str
    epoch: int
    step: int
    steps: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens_per_second: float


class Preference(Part, frozen=True, kw_only=True):
    """How far preferences were learned, over the validation pairs (Rafailov et al. 2023, arXiv:2305.18290).

    A reward is beta times how much more likely, in nats, an answer became than the base model finds it. `margin` is the
    mean of the chosen answer's reward minus the rejected one's, `accuracy` the share of pairs where that is above zero.
    """

    reward_chosen: float
    reward_rejected: float
    margin: float
    accuracy: float


class EpochFinished(Event, frozen=True, kw_only=True):
    """One model ended an epoch. Losses are nats per token, `bits_per_byte` bits per UTF-8 byte of the answers.

    Where preferences are learned, losses are those of DPO, per pair, and `preference` says how far they were learned.
    `samples` are the answers to `training.sample_prompts`. `checkpoint` is the SHA-256 of the checkpoint's manifest.
    Nothing of it counts before EpochCommitted. None is what another program did not report of a run of its own.
    """

    model: str
    epoch: int
    train_loss: float | None
    val_loss: float
    bits_per_byte: float | None
    learning_rate: float | None
    gradient_norm: float | None
    tokens_per_second: float | None
    memory_bytes: int | None
    checkpoint: str
    preference: Preference | None = None
    samples: tuple[str, ...] = ()


class CheckpointDamaged(Event, frozen=True, kw_only=True):
    """A checkpoint is not what was written; its epoch is trained again from the one before."""

    model: str
    epoch: int
    problem: str


class WorkerRestarted(Event, frozen=True, kw_only=True):
    """A worker was lost in an epoch; it goes on from the last committed one."""

    model: str
    epoch: int
    attempt: int
    cause: str


class ModelFailed(Event, frozen=True, kw_only=True):
    """A model can't go on. It leaves the live set when its epoch is committed."""

    model: str
    epoch: int
    kind: str
    problem: str
    fix: str = ""


class WeightsAdjusted(Event, frozen=True, kw_only=True):
    """Display only: EpochCommitted carries the same weights."""

    epoch: int
    weights: dict[str, float]
    learning_rates: dict[str, float]


class AutoStop(Part, frozen=True, kw_only=True):
    """`current_change`: how much the ranked metric moved, `None` where there is nothing to compare with. `remaining` is
    None where another program trains the run, and did not say."""

    remaining: int | None
    threshold: float
    current_change: float | None
    triggered: bool


class EpochCommitted(Event, frozen=True, kw_only=True):
    """The epoch holds: losses and the decisions made from them, in one record.

    `weights` and `learning_rates` (of the next epoch) name the live models; `quarantined` names who left, and why.
    """

    epoch: int
    results: dict[str, EpochFinished]
    weights: dict[str, float]
    learning_rates: dict[str, float]
    total_loss: float | None
    auto_stop: AutoStop
    quarantined: dict[str, str]


class AutoStopTriggered(Event, frozen=True, kw_only=True):
    """Nothing more is learned: no epoch follows. `current_change` is that of the ranked metric."""

    epoch: int
    current_change: float | None
    threshold: float


# -- how it goes on, and ends --------------------------------------------------------------------------------------


class StopRequested(Event, frozen=True, kw_only=True):
    """Somebody asked the run to stop after the epoch that it is in."""


class RunQueued(Event, frozen=True, kw_only=True):
    """The run waits for its turn on a device, as `cpu` or `cuda:0`; RunResumed begins it."""

    device: str


class RunStopped(Event, frozen=True, kw_only=True):
    """The run stopped as asked; it can be resumed."""


class RunInterrupted(Event, frozen=True, kw_only=True):
    """The run was broken off; it can be resumed from the last committed epoch."""

    cause: str


class RunResumed(Event, frozen=True, kw_only=True):
    """Everything after the last EpochCommitted is void; `epoch` is that one's, 0 before the first."""

    epoch: int


class RunFailed(Event, frozen=True, kw_only=True):
    """No model is left to train, none could be verified, or the disk failed."""

    problem: str
    fix: str = ""


class ModelVerified(Event, frozen=True, kw_only=True):
    """The adapter was read back from disk, its LoRA B is not zero, and it changes the base model's output.

    `tensors_sha256` is the digest over (name, dtype, shape, bytes) of its tensors; `output_difference` the largest
    difference to the base model in the loss of a validation token, in nats.
    """

    model: str
    epoch: int
    tensors_sha256: str
    lora_b_norm: float
    output_difference: float


class RunFinished(Event, frozen=True, kw_only=True):
    """The last record of a journal."""

    champion: str
    final_weights: dict[str, float]
    quarantined: dict[str, str]
    reason: Literal["all_epochs", "auto_stop"]


AnyEvent = (
    RunAccepted
    | DownloadProgressed
    | RunPlanned
    | EpochStarted
    | ProgressReported
    | EpochFinished
    | CheckpointDamaged
    | WorkerRestarted
    | ModelFailed
    | WeightsAdjusted
    | EpochCommitted
    | AutoStopTriggered
    | StopRequested
    | RunQueued
    | RunStopped
    | RunInterrupted
    | RunResumed
    | RunFailed
    | ModelVerified
    | RunFinished
)

# What only tells a watcher something: no fsync for these, and an interruption voids them.
DISPLAY_ONLY: tuple[type[Event], ...] = (
    DownloadProgressed,
    EpochStarted,
    ProgressReported,
    EpochFinished,
    CheckpointDamaged,
    WorkerRestarted,
    ModelFailed,
    WeightsAdjusted,
    AutoStopTriggered,
    ModelVerified,
)
