"""What the display settings hide in a terminal and in a pipe."""

from __future__ import annotations

import copy
from io import StringIO
from typing import Any

import msgspec
from rich.console import Console
from rich.live import Live

from oneseek.cli.watching import Board, Lines, board, told
from oneseek.events import RunQueued
from oneseek.events.state import RunState, apply, begin
from oneseek.journal.record import Record
from support.histories import accepted
from support.runs import Town


def watched(town: Town, **settings: Any) -> tuple[str, RunState]:
    """What a pipe shows of a scripted run of one epoch with these settings, and the run's state at its end."""
    out = StringIO()
    lines = Lines(Console(file=out, width=200))
    states: list[RunState] = []

    def watch(record: Record, state: RunState) -> None:
        lines(record, state)
        states.append(state)

    town.train(watch=watch, training__num_epochs=1, **settings)
    return out.getvalue(), states[-1]


def without(state: RunState, switch: str) -> RunState:
    """The same run with one switch of its display off."""
    config = copy.deepcopy(state.config)
    config["live_leaderboard"]["display"][switch] = False
    return msgspec.structs.replace(state, accepted=msgspec.structs.replace(state.accepted, config=config))


def text_of(state: RunState, left: float | None = None) -> str:
    out = StringIO()
    Console(file=out, width=200).print(board(state, left))
    return out.getvalue()


COLUMNS = {
    "show_weights": " weight ",
    "show_lr_multipliers": " lr ",
    "show_loss_per_model": " val loss ",
    "show_progress": " step",
}


def test_each_switch_of_the_display_hides_its_column_and_no_other(town: Town) -> None:
    _, state = watched(town)

    shown = {
        switch: {name for name, column in COLUMNS.items() if column in text_of(without(state, switch))}
        for switch in COLUMNS
    }

    assert all(column in text_of(state) for column in COLUMNS.values())
    assert shown == {switch: COLUMNS.keys() - {switch} for switch in COLUMNS}
    assert "100 % done, about 7 s left" in text_of(state, 7.0)
    hidden = text_of(without(state, "show_progress"), 7.0)
    assert "done" not in hidden
    assert "left" not in hidden


def test_the_lines_of_a_pipe_tell_weights_and_losses_only_where_they_are_shown(town: Town) -> None:
    shown, _ = watched(town, training__rank_by="val_loss")
    hidden, state = watched(
        town,
        training__rank_by="val_loss",
        live_leaderboard__display__show_weights=False,
        live_leaderboard__display__show_loss_per_model=False,
    )

    losses = [f"{result.val_loss:.4f}" for commit in state.committed for result in commit.results.values()]
    assert "(weight " in shown
    assert "(weight " not in hidden
    assert any(loss in shown for loss in losses)
    assert not [loss for loss in losses if loss in hidden]


def test_in_a_terminal_a_run_without_a_leaderboard_is_told_in_lines(town: Town) -> None:
    out = StringIO()
    console = Console(file=out, width=200, force_terminal=True)

    with Live(console=console, transient=True) as live:
        town.train(watch=Board(live, Lines(console)), training__num_epochs=1, live_leaderboard__enabled=False)

    assert "epoch 1/" in out.getvalue()
    assert "bits/byte " not in out.getvalue()


def test_a_run_that_waits_says_what_for() -> None:
    state = apply(begin(accepted()), event := RunQueued(device="cuda:1"))

    assert [str(line) for line in told(event, state)] == ["run-20251122-143025: waiting for its turn on cuda:1"]
