"""What commands do where `--server` names a OneSeek server: the same words and exit codes, the work is done there."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from oneseek.cli.output import write_json
from oneseek.cli.watching import watching
from oneseek.client import Client
from oneseek.config.sources import Resolved
from oneseek.errors import TrainingFailed
from oneseek.events.state import RunState, apply, begin
from oneseek.journal.record import Record
from oneseek.runs import Result

ENDED = ("stopped", "interrupted", "failed", "certified")
"""Statuses behind which nothing comes by itself. One that is complete is certified in a moment, or its server says that
nothing more can come."""


def client(server: str) -> Client:
    """The server at an address, with the token of the environment: on a command line everybody could read it."""
    return Client(server, os.environ.get("ONESEEK_TOKEN"))


def train(server: str, resolved: Resolved, *, watched: bool, as_json: bool) -> None:
    """Start a training there and, where it is to be watched, see it through."""
    from oneseek.cli.data import progress_bars

    with client(server) as at:
        with progress_bars() as bar:
            accepted = at.train(resolved, bar)
        _follow(at, accepted, watched=watched, as_json=as_json)


def resume(server: str, run_id: str, *, watched: bool, as_json: bool) -> None:
    """Let a run go on there and, where it is to be watched, see it through."""
    with client(server) as at:
        _follow(at, at.resume(run_id), watched=watched, as_json=as_json)


def stop(server: str, run_id: str, *, now: bool) -> None:
    """Ask a run there to stop."""
    with client(server) as at:
        at.stop(run_id, now=now)
        when = "at once" if now else "after this epoch"
        click.echo(f"{run_id} will stop {when}. Go on with: oneseek resume {run_id} --server {at.url}")


def watch(server: str, run_id: str, *, as_json: bool) -> RunState | None:
    """Show a run there until it ends, and what became of it."""
    with client(server) as at:
        return _watch(at, run_id, as_json=as_json)


def _follow(at: Client, accepted: dict[str, Any], *, watched: bool, as_json: bool) -> None:
    run_id = accepted["run_id"]
    if not watched:
        if as_json:
            write_json(accepted)
        else:
            click.echo(f"{run_id} is {accepted['status']}. {_how_to_watch(at, run_id)}")
        return
    state = _watch(at, run_id, as_json=as_json)
    if state and state.failure and state.status == "failed":
        raise TrainingFailed(state.failure.problem, state.failure.fix)
    if state and not state.over and state.status != "stopped":
        sys.exit(130)


def _watch(at: Client, run_id: str, *, as_json: bool) -> RunState | None:
    state: RunState | None = None
    try:
        with watching(as_json=as_json) as show:
            for told in at.watch(run_id, lambda why: click.echo(f"{why} Trying again; the run goes on.", err=True)):
                if isinstance(told, Record):
                    state = apply(state, told.event) if state else begin(told.event)
                    show(told, state)
                elif told in ENDED:
                    break
    except KeyboardInterrupt:
        click.echo(f"{run_id} goes on at {at.url}. {_how_to_watch(at, run_id)}", err=True)
        raise
    if state:
        show.conclude(_result(at, state), state, at.url)
    return state


def _result(at: Client, state: RunState) -> Result:
    """What became of a run, as the server lists it."""
    listed = at.run(state.run_id)
    return Result(
        run_id=state.run_id,
        status=listed["status"],
        dna=listed["dna"],
        certified_dir=listed["certified_dir"],
        champion=listed["champion"],
        base_models=tuple(state.verified),
        failed_models=listed["failed_models"],
    )


def _how_to_watch(at: Client, run_id: str) -> str:
    return f"Watch it: oneseek runs watch {run_id} --server {at.url}"
