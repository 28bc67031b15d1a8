"""`oneseek verify`."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from click.core import ParameterSource
from rich.table import Table
from rich.text import Text

from oneseek import runs
from oneseek.api import home
from oneseek.certificate.report import Outcome
from oneseek.cli import options
from oneseek.cli.output import terminal, write_json
from oneseek.runs import Verified

_MARKS: dict[Outcome, tuple[str, str]] = {
    "ok": ("✓", "green"),
    "failed": ("✗", "bold red"),
    "not checkable": ("–", "dim"),
}
_MEANINGS = {
    "format": "these are not exactly the files of a certified run",
    "signature": "the list of files is not what the signer signed",
    "digests": "a file is not what was sealed",
    "encoding": "a document is not what OneSeek wrote",
    "journal": "the record of the training can't be trusted",
    "documents": "a document says what the training's journal does not",
    "adapters": "the weights are not those that were trained and verified",
    "dna": "the DNA is not that of these data, this recipe and these weights",
    "leaf": "the ledger's entry is about something else",
    "inclusion": "the entry is not in the ledger that it names",
    "consistency": "the ledger was rewritten or shortened after it took the run",
    "keys": "the run agrees with itself, but anybody could have made it",
    "dataset": "the run was trained on other data",
    "base models": "the run began with other base models",
}


@click.command(params=[*options.places(), *options.as_json()])
@click.argument("run")
@click.option(
    "--key", "keys", multiple=True, type=click.Path(path_type=Path), help="Public keys to trust: oneseek ledger key."
)
@click.option("--dataset", type=click.Path(path_type=Path), help="The file that it should have been trained on.")
@click.option("--validation-dataset", "validation", type=click.Path(path_type=Path), help="The same for validation.")
@click.pass_context
def verify(
    ctx: click.Context,
    run: str,
    keys: tuple[Path, ...],
    dataset: Path | None,
    validation: Path | None,
    root: Path | None,
    models_dir: Path | None,
    as_json: bool,
) -> None:
    """Check that nothing of a run was changed, and who signed it. RUN is its id, or any copy of its directory.

    The keys and the ledger of this home are trusted; others need --key. The base models are read where --models-dir is
    given. Exit code 0: certified; 1: something is wrong, and the table says what.

    \b
    oneseek verify run-20251122-143025
    oneseek verify /mnt/copy/run-20251122-143025 --key keys.txt --dataset rows.jsonl
    """
    at = home(root, models_dir)
    asked_for_models = ctx.get_parameter_source("models_dir") is ParameterSource.COMMANDLINE
    found = runs.verify(
        run,
        at,
        keys=keys,
        dataset=dataset,
        validation_dataset=validation,
        base_models=at.models if asked_for_models else None,
    )
    if as_json:
        write_json(found.wire())
    else:
        _show(found)
    sys.exit(0 if found.ok else 1)


def verdict(report: Verified) -> str:
    """One sentence: certified as what, or what is wrong first and what that means."""
    if report.ok:
        by_name = {made.name: made.detail for made in report.checks}
        return f"Certified: {by_name['dna']}, {by_name['inclusion']}."
    worst = next((made for made in report.checks if made.result == "failed"), None)
    worst = worst or next(made for made in report.checks if made.result != "ok")
    return f"Not certified. Check {worst.number} ({worst.name}): {_MEANINGS[worst.name]}."


def _show(report: Verified) -> None:
    table = Table()
    table.add_column("", justify="right")
    table.add_column("check", no_wrap=True)
    table.add_column("")
    table.add_column("", overflow="fold")
    for made in report.checks:
        mark, style = _MARKS[made.result]
        table.add_row(str(made.number), made.name, Text(mark, style=style), Text(made.detail))
    console = terminal()
    console.print(table)
    console.print(Text(verdict(report), style="green" if report.ok else "bold red"), soft_wrap=True)
