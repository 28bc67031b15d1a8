"""`oneseek runs`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
from rich import box
from rich.table import Table
from rich.text import Text

from oneseek import runs as door
from oneseek.api import home
from oneseek.cli import old_page, options, remote
from oneseek.cli.old_page import named
from oneseek.cli.output import terminal, visible, write_json
from oneseek.cli.watching import watching
from oneseek.errors import Failed, RunError
from oneseek.events.state import RunState, apply, begin
from oneseek.events.wire import sample_prompts, samples
from oneseek.journal.file import Reader
from oneseek.runs import OldRun

POLL_SECONDS = 0.5


@click.group()
def runs() -> None:
    """List, show, watch and import runs."""


@runs.command("list", params=[*options.places(), *options.as_json()])
def list_runs(root: Path | None, models_dir: Path | None, as_json: bool) -> None:
    """Every run, the newest first; below them, what the old system left."""
    at = home(root, models_dir)
    found, old = door.list_runs(at), door.old_runs(at)
    if as_json:
        write_json({"runs": [*(each.wire() for each in found), *(each.wire() for each in old)]})
        return
    if not found and not old:
        click.echo(f"No runs in {at.models}. Start one: oneseek train --dataset FILE --base-models NAME...")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("run", "status", "epochs", "models", "champion"):
        table.add_column(column, overflow="fold", no_wrap=column in ("run", "status"))
    for run in found:
        state = run.state
        table.add_row(
            named(run.run_id, run.dna or (f"v{state.accepted.version}" if state and state.accepted.version else "")),
            run.status,
            f"{state.epochs_done}/{state.total_epochs}" if state else "",
            Text(run.problem or ", ".join(state.keys if state else ())),
            Text(state.result.champion if state and state.result else ""),
        )
    for each in old:
        table.add_row(*old_page.row(each))
    terminal().print(table)


@runs.command(params=[*options.places(), *options.as_json()])
@click.argument("run")
def show(run: str, root: Path | None, models_dir: Path | None, as_json: bool) -> None:
    """One run: its leaderboard, its files, and what became of it.

    RUN is its id or its directory, or the name or path of what the old system left.
    """
    from oneseek.cli.watching import board, concluded

    at = home(root, models_dir)
    try:
        directory = door.find(run, at)
    except RunError:
        old = door.find_old(run, at)
        if old is None:
            raise
        _show_old(old, as_json=as_json)
        return
    known = door.describe(directory)
    if as_json:
        write_json({**known.wire(), **known.detail()})
        return
    console = terminal()
    if known.state is None:
        console.print(known.problem or "The run was never accepted.")
        return
    console.print(board(known.state, None))
    for prompt, table in _answers(known.state):
        console.print(Text(visible(prompt), style="bold"), soft_wrap=True)
        console.print(table)
    for line in concluded(door.result(directory, known.state), known.state):
        console.print(line, soft_wrap=True)
    if known.state.failure and known.status == "failed":
        console.print(Text(f"{known.state.failure.problem} {known.state.failure.fix}", style="red"), soft_wrap=True)
    for file in sorted(path for path in directory.root.rglob("*") if path.is_file()):
        console.print(Text(f"  {file.relative_to(directory.root)}", style="dim"), soft_wrap=True)


@runs.command(params=[*options.places(), *options.server(), *options.as_json()])
@click.argument("run")
def watch(run: str, root: Path | None, models_dir: Path | None, server: str | None, as_json: bool) -> None:
    """Follow a run that another process trains, until it ends. Leaving (Ctrl-C) does not touch it."""
    if server:
        remote.watch(server, run, as_json=as_json)
        return
    directory = door.find(run, home(root, models_dir))
    reader = Reader(directory.journal)
    state: RunState | None = None
    with watching(as_json=as_json) as show_it:
        while True:
            running = door.is_running(directory)
            for record in reader.new():
                state = apply(state, record.event) if state else begin(record.event)
                show_it(record, state)
            if not running and not (state and door.needs_no_process(state)):
                break
            time.sleep(POLL_SECONDS)
    if state:
        show_it.conclude(door.result(directory, state), state)


@runs.command("import", params=[*options.places(), *options.as_json()])
@click.argument("path", type=click.Path(path_type=Path, exists=True))
def import_(path: Path, root: Path | None, models_dir: Path | None, as_json: bool) -> None:
    """Bring in runs of another installation: documents that the old system left, and certified runs.

    PATH is a metadata file, a run's directory, a models directory, or the directory that has it. Nothing that is here
    is overwritten; adapters and weights of the old system stay where they are.

    \b
    oneseek runs import ../CivicAI
    """
    at = home(root, models_dir)
    done = door.import_runs(path, at)
    if as_json:
        write_json(old_page.wire(done))
    else:
        for line in old_page.outcome(done, at):
            terminal().print(line, soft_wrap=True)
    if any(run.outcome == "refused" for run in done.runs):
        sys.exit(Failed.exit_code)


def _show_old(old: OldRun, *, as_json: bool) -> None:
    if as_json:
        write_json({**old.wire(), **old.detail()})
        return
    for line in old_page.page(old):
        terminal().print(line, soft_wrap=True)


def _answers(state: RunState) -> Iterator[tuple[str, Table]]:
    """Each sample prompt, and how its answers changed, epoch by epoch."""
    for number, prompt in enumerate(sample_prompts(state).get("sample_prompts", [])):
        table = Table()
        table.add_column("epoch", justify="right")
        table.add_column("model", no_wrap=True)
        table.add_column("answer", overflow="fold")
        for commit in state.committed:
            for key, answers in samples(commit).get("samples", {}).items():
                table.add_row(str(commit.epoch), key, Text(visible(answers[number]).strip()))
        yield prompt, table
