"""What a run shows while it trains: a live leaderboard in a terminal, lines in a pipe, JSON for programs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import click
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from oneseek.cli.output import duration, terminal, transfer, write_line
from oneseek.config.schema import DisplaySection
from oneseek.events import (
    AutoStopTriggered,
    CheckpointDamaged,
    DownloadProgressed,
    EpochCommitted,
    Event,
    ModelFailed,
    RunAccepted,
    RunPlanned,
    RunQueued,
    RunResumed,
    WorkerRestarted,
)
from oneseek.events.state import RunState
from oneseek.events.wire import auto_stop_info, leaderboard, overfits, wire
from oneseek.files.layout import RunDirectory
from oneseek.journal.record import Record
from oneseek.runs import Result
from oneseek.runs.certify import how_to_certify
from oneseek.runs.resume import how_to_go_on

_METRICS = {"bits_per_byte": "bits/byte", "val_loss": "validation loss"}


class Watching(Protocol):
    """Is shown every record with the state after it, and the result at the end; `server`: the address where it is."""

    def __call__(self, record: Record, state: RunState) -> None: ...
    def conclude(self, result: Result, state: RunState, server: str = "") -> None: ...


def waiting(device: str) -> None:
    """Say that another run has the device."""
    click.echo(f"{device} is busy; waiting for its turn. Ctrl-C leaves.", err=True)


@contextmanager
def watching(*, as_json: bool) -> Iterator[Watching]:
    """The watcher that suits where the output goes. What is shown of a run is as its own settings say."""
    if as_json:
        yield JsonLines()
        return
    console = terminal()
    lines = Lines(console)
    if not console.is_terminal:
        yield lines
        return
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        yield Board(live, lines)


class JsonLines:
    """Each event in wire form on a line, the result last."""

    def __call__(self, record: Record, state: RunState) -> None:
        write_line(wire(record.seq, record.at, record.event, state))

    def conclude(self, result: Result, state: RunState, server: str = "") -> None:
        write_line(result.wire())


class Lines:
    """A line for what matters, the leaderboard at the end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told_of_download = -math.inf

    def __call__(self, record: Record, state: RunState) -> None:
        for line in told(record.event, state):
            self._console.print(line, soft_wrap=True)
        if isinstance(record.event, DownloadProgressed) and time.monotonic() - self._told_of_download >= 10:
            self._told_of_download = time.monotonic()
            self._console.print(f"Downloading {_on_its_way(record.event)}", soft_wrap=True)
        if isinstance(record.event, EpochCommitted):
            self._console.print(_epoch_line(state), soft_wrap=True)

    def conclude(self, result: Result, state: RunState, server: str = "") -> None:
        self._console.print(board(state, None))
        for line in concluded(result, state, server):
            self._console.print(line, soft_wrap=True)


class Board:
    """The leaderboard in place, what matters above it; lines alone for a run that shows none."""

    def __init__(self, live: Live, lines: Lines) -> None:
        self._live = live
        self._lines = lines
        self._clock = Clock()

    def __call__(self, record: Record, state: RunState) -> None:
        if not state.config["live_leaderboard"]["enabled"]:
            self._lines(record, state)
            return
        for line in told(record.event, state):
            self._live.console.print(line)
        self._live.update(board(state, self._clock.left(state)))

    def conclude(self, result: Result, state: RunState, server: str = "") -> None:
        self._lines.conclude(result, state, server)


class Clock:
    """Seconds left, from how long the share done since we began to watch has taken."""

    def __init__(self) -> None:
        self._began: tuple[float, float] | None = None

    def left(self, state: RunState) -> float | None:
        done = state.progress_percent
        if self._began is None:
            if state.planned:
                self._began = (time.monotonic(), done)
            return None
        since, at_first = self._began
        return (time.monotonic() - since) / (done - at_first) * (100 - done) if done > at_first else None


def told(event: Event, state: RunState) -> Iterator[Text]:
    """What a person should know of an event, besides the leaderboard."""
    match event:
        case RunAccepted():
            yield Text(f"{event.run_id}  version {event.version}", style="bold")
            for warning in event.warnings:
                yield Text(f"! {warning}", style="yellow")
            yield Text(f"Training {len(event.models)} selected model(s):")
            for model in event.models:
                yield Text(f"  {model.display_name}  {model.path}")
            yield Text(f"Available: {', '.join(event.available)}")
            data = event.dataset
            yield Text(
                f"Dataset: {data.training_rows} rows to train on, {data.validation_rows} to validate on ({data.format})"
            )
        case DownloadProgressed() if event.done_bytes == event.total_bytes:
            yield Text(f"Downloaded {_on_its_way(event)}")
        case RunPlanned():
            yield from _planned(event)
        case RunQueued():
            yield Text(f"{state.run_id}: waiting for its turn on {event.device}")
        case RunResumed():
            yield Text(f"{state.run_id}: going on after epoch {event.epoch}", style="bold")
        case WorkerRestarted():
            yield Text(f"! {event.model}: its worker was lost and is started again. {event.cause}", style="yellow")
        case CheckpointDamaged():
            yield Text(f"! {event.model}: {event.problem} Epoch {event.epoch} is trained again.", style="yellow")
        case ModelFailed():
            yield Text(f"✗ {event.model} has failed. {event.problem} {event.fix}", style="red")
        case EpochCommitted():
            for key, cause in event.quarantined.items():
                yield Text(f"✗ {key} is quarantined: {cause}", style="red")
            for key in event.results:
                if overfits(state, key):
                    yield Text(f"! {key}: overfitting; validation loss rose while training loss fell", style="yellow")
        case AutoStopTriggered():
            yield Text(f"Nothing more is learned (changes below {event.threshold:g}): stopping.", style="bold")
        case _:
            return


def _on_its_way(event: DownloadProgressed) -> str:
    return f"{event.model}: {transfer(event.done_bytes, event.total_bytes, event.bytes_per_second)}"


def _planned(event: RunPlanned) -> Iterator[Text]:
    for plan in event.models:
        share = 100 * plan.trainable_parameters / plan.parameters
        yield Text(
            f"  {plan.key}: {plan.parameters:,} parameters, {plan.trainable_parameters:,} trained ({share:.1f} %) in "
            f"{', '.join(plan.target_modules)}; {plan.steps_per_epoch} steps an epoch, {plan.dtype} on {plan.device}, "
            f"{plan.threads} thread(s), rows {plan.attention}, at most {plan.token_budget:,} tokens at once"
            + (", gradient checkpointing" if plan.gradient_checkpointing else "")
        )
        if plan.truncated_rows:
            yield Text(
                f"! {plan.key}: {plan.truncated_rows} rows are longer than data.max_length and are cut", "yellow"
            )
        if plan.rows_without_labels:
            yield Text(f"! {plan.key}: {plan.rows_without_labels} rows have nothing left to learn from", "yellow")
    if event.excluded_validation_rows:
        yield Text(
            f"! {len(event.excluded_validation_rows)} validation rows can't be compared between the models and don't "
            "count in bits per byte",
            "yellow",
        )


def board(state: RunState, left: float | None) -> RenderableType:
    """The leaderboard with the columns that the run shows, progress and the auto-stop countdown below it."""
    display = _display(state)
    preferences = state.config["training"]["method"] == "dpo"
    columns = {"#": True, "model": True, "val loss": display.show_loss_per_model}
    columns |= {"accuracy": True} if preferences else {"bits/byte": True}
    columns |= {"weight": display.show_weights, "lr": display.show_lr_multipliers, "tok/s": True}
    columns |= {"step": display.show_progress}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, shown in columns.items():
        if shown:
            table.add_column(name, justify="left" if name == "model" else "right", overflow="fold")
    for row in leaderboard(state):
        cells = {
            "#": str(row["rank"]),
            "model": row["display_name"],
            "val loss": _number(row["val_loss"], "{:.4f}"),
            "bits/byte": _number(row["bits_per_byte"], "{:.4f}"),
            "accuracy": _number(row["reward_accuracy"], "{:.0%}"),
            "weight": _number(row["weight"], "{:.4f}"),
            "lr": _number(row["lr_multiplier"], "{:.3g}"),
            "tok/s": _number(row["tokens_per_second"], "{:,.0f}"),
            "step": "quarantined" if row["status"] == "quarantined" else _step(state, row["model"]),
        }
        style = "dim" if row["status"] == "quarantined" else ""
        table.add_row(*(Text(cells[name]) for name, shown in columns.items() if shown), style=style)
    coming = [Text(f"Downloading {_on_its_way(event)}") for event in state.downloads.values()]
    return Group(*coming, table, Text(_below(state, left), style="dim"))


def _display(state: RunState) -> DisplaySection:
    return DisplaySection.model_validate(state.config["live_leaderboard"]["display"])


def _below(state: RunState, left: float | None) -> str:
    parts = []
    if _display(state).show_progress:
        epoch = min(max(state.epoch, state.epochs_done), state.total_epochs)
        parts.append(f"epoch {epoch} of {state.total_epochs}, {state.progress_percent:.0f} % done")
        if left is not None:
            parts.append(f"about {duration(left)} left")
    if state.auto_stop and state.config["confidence_auto_stop"]["enabled"]:
        parts.append(f"auto-stop after {state.auto_stop.remaining} more epochs without change")
    return ", ".join(parts)


def _step(state: RunState, key: str) -> str:
    if key in state.verified:
        return f"epoch {state.verified[key].epoch} ✓"
    if key in state.finished:
        return "✓"
    step = state.progress.get(key)
    return f"{step.step}/{step.steps}" if step else ""


def _epoch_line(state: RunState) -> Text:
    commit, metric, display = state.committed[-1], state.rank_by, _display(state)
    ranked = [
        f"{row['rank']} {row['model']}"
        + (f" {_number(row[metric], '{:.4f}')}" if metric != "val_loss" or display.show_loss_per_model else "")
        + (f" (weight {_number(row['weight'], '{:.2f}')})" if display.show_weights else "")
        for row in leaderboard(state)
        if row["model"] in commit.results
    ]
    countdown = auto_stop_info(state, commit.auto_stop)
    stops = f"; auto-stop in {countdown['remaining']}" if countdown and countdown["remaining"] is not None else ""
    return Text(f"epoch {commit.epoch}/{state.total_epochs}  {_METRICS[metric]}: {', '.join(ranked)}{stops}")


def concluded(result: Result, state: RunState, server: str = "") -> Iterator[Text]:
    """The result, in words. server: the address where the run is; "" where it is here."""
    if result.champion:
        names = {model.key: model.display_name for model in state.accepted.models}
        yield Text(f"Champion: {names[result.champion]}", style="bold green")
        if result.dna:
            yield Text(f"DNA: {result.dna}")
    for key, cause in result.failed_models.items():
        yield Text(f"✗ {key} was quarantined: {cause}", style="red")
    yield Text(f"{result.run_id} is {result.status}: {result.certified_dir}")
    if state.accepted.engine == "outside":
        yield Text("Another program trains it; such a run is never certified.")
        return
    if result.status == "completed":
        yield Text(f"Not certified yet. {result.not_certified or ''}".rstrip(), style="yellow")
        here = how_to_certify(RunDirectory(Path(result.certified_dir)))
        yield Text(f"Try again with: POST {server}/api/runs/{result.run_id}/certify" if server else here)
    if result.status in ("stopped", "interrupted", "failed"):
        here = how_to_go_on(RunDirectory(Path(result.certified_dir)))
        yield Text(f"Go on with: oneseek resume {result.run_id} --server {server}" if server else here)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
