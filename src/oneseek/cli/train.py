"""`oneseek train`, `resume` and `stop`."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from oneseek import runs
from oneseek.api import home
from oneseek.cli import options, remote
from oneseek.cli.watching import waiting, watching
from oneseek.files.layout import Home
from oneseek.runs import Recorder, Watch
from oneseek.runs.resume import how_to_go_on


@click.command(
    cls=options.ListsCommand,
    params=[
        *options.settings(),
        *options.places(),
        *options.server(),
        *options.no_watch(),
        *options.as_json(),
    ],
)
def train(
    root: Path | None,
    models_dir: Path | None,
    config_file: Path | None,
    assigned: tuple[str, ...],
    server: str | None,
    no_watch: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Train a LoRA adapter for each selected base model, side by side on the same rows.

    Everything that would make the run fail is told before it starts (exit code 2). Ctrl-C stops it; `oneseek resume`
    goes on from the last whole epoch, to the same bits.

    \b
    oneseek train --dataset rows.jsonl --base-models mistral-7b llama-2-7b --epochs 3
    oneseek train --dataset rows.jsonl --base-models mistral-7b --server https://oneseek.example.org

    With --server the dataset is sent there unless it is there already, and the run goes on without this command.
    """
    resolved = options.resolved(config_file, values, assigned)
    if server:
        remote.train(server, resolved, watched=not no_watch, as_json=as_json)
        return
    _refuse_to_leave(no_watch)
    at = home(root, models_dir)
    _carry_out(
        lambda watch: runs.submit(resolved.config, at, problems=resolved.problems, watch=watch), at, as_json=as_json
    )


@click.command(params=[*options.places(), *options.server(), *options.no_watch(), *options.as_json()])
@click.argument("run")
def resume(
    run: str, root: Path | None, models_dir: Path | None, server: str | None, no_watch: bool, as_json: bool
) -> None:
    """Go on with a run that was stopped or broken off. RUN is its id or its directory.

    \b
    oneseek resume run-20251122-143025
    """
    if server:
        remote.resume(server, run, watched=not no_watch, as_json=as_json)
        return
    _refuse_to_leave(no_watch)
    at = home(root, models_dir)
    directory = runs.find(run, at)
    _carry_out(lambda watch: runs.resume(directory, watch), at, as_json=as_json)


@click.command(params=[*options.places(), *options.server()])
@click.option("--now", is_flag=True, help="Don't wait for the end of the epoch; what it did is lost.")
@click.argument("run")
def stop(run: str, root: Path | None, models_dir: Path | None, server: str | None, now: bool) -> None:
    """Ask a running run to stop after the epoch that it is in. RUN is its id or its directory.

    \b
    oneseek stop run-20251122-143025
    """
    if server:
        remote.stop(server, run, now=now)
        return
    directory = runs.find(run, home(root, models_dir))
    runs.stop(directory, now=now)
    when = "at once" if now else "after this epoch"
    click.echo(f"{directory.run_id} will stop {when}. {how_to_go_on(directory)}")


def _carry_out(take_up: Callable[[Watch], Recorder], at: Home, *, as_json: bool) -> None:
    """Complete a run while it is watched, then say what became of it; one that was broken off, how to go on."""
    signal.signal(signal.SIGTERM, _interrupt)  # a polite kill is a Ctrl-C
    run: Recorder | None = None
    try:
        with watching(as_json=as_json) as watch:
            run = take_up(watch)
            result = runs.complete(run, at, waiting=waiting)
    except KeyboardInterrupt:
        if run:
            hint = how_to_go_on(run.directory)
            click.echo(f"{run.state.run_id} was stopped after epoch {run.state.epochs_done}. {hint}", err=True)
        raise
    watch.conclude(result, run.state)


def _refuse_to_leave(no_watch: bool) -> None:
    if no_watch:
        raise click.UsageError("--no-watch leaves a run to a server: name that with --server URL.")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
