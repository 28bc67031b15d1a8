"""`oneseek reproduce`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click
from rich.text import Text

from oneseek import runs
from oneseek.api import home
from oneseek.cli import options
from oneseek.cli.output import terminal, write_line
from oneseek.cli.watching import waiting, watching
from oneseek.runs.reproduce import AdapterReproduced, Reproduction
from oneseek.runs.reproduce import reproduce as train_again

_FILE = click.Path(path_type=Path)


@click.command(
    params=[
        click.Option(["--dataset"], type=_FILE, help="Where the dataset is now, if not where it was."),
        click.Option(["--validation-dataset"], type=_FILE, help="The same of the validation dataset."),
        click.Option(
            ["--keep"],
            type=click.Path(file_okay=False, path_type=Path),
            metavar="DIR",
            help="Leave the new run's directory there.",
        ),
        *options.places(),
        *options.as_json(),
    ]
)
@click.argument("run")
def reproduce(
    run: str,
    dataset: Path | None,
    validation_dataset: Path | None,
    keep: Path | None,
    root: Path | None,
    models_dir: Path | None,
    as_json: bool,
) -> None:
    """Train a complete run again from its own recipe, and compare the weights. RUN is its id or its directory.

    The home stays as it is: what is trained is thrown away, unless it is to be kept. Exit code 0 for the same DNA, 1
    where anything differs.

    \b
    oneseek reproduce run-20251122-143025
    oneseek reproduce run-20251122-143025 --dataset rows.jsonl --models-dir models
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill is a Ctrl-C
    at = home(root, models_dir)
    with _nothing_empty_left(keep), watching(as_json=as_json) as watch:
        found = train_again(
            runs.find(run, at),
            at,
            dataset=dataset,
            validation_dataset=validation_dataset,
            keep=keep,
            watch=watch,
            warn=lambda differences: click.echo(f"! Not as it was then: {'; '.join(differences)}", err=True),
            waiting=waiting,
        )
    if as_json:
        write_line(found.wire())
    else:
        console = terminal()
        for line in concluded(found):
            console.print(line, soft_wrap=True)
    if found.verdict != "same DNA":
        sys.exit(1)


@contextmanager
def _nothing_empty_left(keep: Path | None) -> Iterator[None]:
    """Remove the directories that were made for a run to be kept in, where none came to be."""
    made = [path for path in (keep, *keep.parents) if not os.path.exists(path)] if keep else []  # noqa: PTH110  raises nothing
    try:
        yield
    finally:
        with suppress(OSError):  # one that holds something stays, and so do those above it
            for path in made:
                path.rmdir()


def concluded(found: Reproduction) -> Iterator[Text]:
    """The reproduction, in words."""
    if found.verdict == "same DNA":
        yield Text(f"same DNA: {found.new.name(found.version)}", style="bold green")
    else:
        yield Text(f"{found.verdict}; {_weights(found)} ({_machine(found)})", style="bold yellow")
        yield Text(f"  DNA then: {found.old.name(found.version)}")
        yield Text(f"  DNA now:  {found.new.name(found.version)}")
        for part in found.recipe:
            yield Text(f"  recipe: {part}")
        for key, model in found.models.items():
            yield Text(f"  {key}: {_adapter(model)}")
    for key in found.old_quarantined.keys() - found.new_quarantined.keys():
        yield Text(f"  {key} was quarantined then, and not now: {found.old_quarantined[key]}")
    if found.kept:
        yield Text(f"Kept: {found.kept}")


def _weights(found: Reproduction) -> str:
    if all(model.same for model in found.models.values()):
        return "the weights are the same"
    known = [model.max_difference for model in found.models.values() if model.max_difference is not None]
    return "weights differ" + (f" by up to {max(known):.3g}" if known else "")


def _machine(found: Reproduction) -> str:
    return f"other machine fingerprint: {'; '.join(found.fingerprint)}" if found.fingerprint else "same fingerprint"


def _adapter(model: AdapterReproduced) -> str:
    if model.problem:
        return f"✗ {model.problem}"
    if model.same:
        return "the same bits"
    epochs = "" if model.old_epoch == model.new_epoch else f"; epoch {model.old_epoch} then, {model.new_epoch} now"
    return f"differs by up to {model.max_difference:.3g}, {model.relative_difference:.3g} of its norm in all{epochs}"
