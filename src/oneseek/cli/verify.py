"""`oneseek verify`."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from oneseek import runs
from oneseek.api import home
from oneseek.certificate.report import Outcome
from oneseek.cli import options
from oneseek.cli.output import terminal, write_json
from oneseek.errors import KeyRefused
from oneseek.runs import Verified

_MARKS: dict[Outcome, tuple[str, str]] = {
    "ok": ("✓", "green"),
    "failed": ("✗", "bold red"),
    "not checkable": ("–", "dim"),
}
_SHORT = 160  # characters of a detail behind the verdict; the table has all of it
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)
_PRIVATE = (b"PRIVATE KEY-----", b"PRIVATE+KEY+")  # a signer's, in PEM; a log's
_LARGEST_KEY = 1 << 16  # bytes


def _public(_: click.Context, __: click.Parameter, paths: tuple[Path, ...]) -> tuple[Path, ...]:
    """The files of keys, none of which is a secret that its owner is about to hand around.

    Raises:
        KeyRefused: one can't be read, or is a private key.
    """
    for path in paths:
        try:
            with path.open("rb") as file:
                content = file.read(_LARGEST_KEY)
        except OSError as error:
            raise KeyRefused(
                f"{path} can't be read: {error.strerror or error}.", "Name a file that you may read."
            ) from error
        if any(each in content for each in _PRIVATE):
            raise KeyRefused(
                f"{path} is a private key: who has it can sign in its owner's name. It must not be given away.",
                "Pin the public keys, as their owner prints them: oneseek ledger key > keys.txt",
            )
    return paths


@click.command(
    params=[
        click.Option(
            ["--key", "keys"],
            multiple=True,
            type=_FILE,
            callback=_public,
            help="Public keys to trust: oneseek ledger key.",
        ),
        click.Option(["--dataset"], type=_FILE, help="The file that it should have been trained on."),
        click.Option(["--validation-dataset", "validation"], type=_FILE, help="The same for validation."),
        # Not the option of this name that other commands have: those base models may be of anywhere, and in the
        # variable are those of the home, which a comparison has to be asked for.
        click.Option(
            ["--models-dir", "base_models"], type=_DIRECTORY, help="The base models that it should have begun with."
        ),
        options.places()[0],
        *options.as_json(),
    ]
)
@click.argument("run")
def verify(
    run: str,
    keys: tuple[Path, ...],
    dataset: Path | None,
    validation: Path | None,
    base_models: Path | None,
    root: Path | None,
    as_json: bool,
) -> None:
    """Check that nothing of a run was changed, and who signed it. RUN is its id, or any copy of its directory.

    The keys and the ledger of this home are trusted; others need --key. The dataset and the base models are read where
    --dataset and --models-dir name them. Exit code 0: certified; 1: something is wrong, and the table says what.

    \b
    oneseek verify run-20251122-143025
    oneseek verify /mnt/copy/run-20251122-143025 --key keys.txt --dataset rows.jsonl
    """
    if validation and not dataset:
        raise click.UsageError(
            "--validation-dataset is compared together with the dataset: name that with --dataset FILE."
        )
    at = home(root)
    found = runs.verify(
        run,
        at,
        keys=keys,
        dataset=dataset,
        validation_dataset=validation,
        base_models=base_models,
    )
    if as_json:
        write_json(found.wire())
    else:
        _show(found)
    sys.exit(0 if found.ok else 1)


def verdict(report: Verified) -> str:
    """One sentence: certified as what, or what is wrong first."""
    details = {made.name: made.detail for made in report.checks}
    if report.ok:
        return f"Certified: {details['dna']}, {details['inclusion']}."
    wrong = [made for made in report.checks if made.result == "failed"]
    wrong = wrong or [made for made in report.checks if made.result != "ok"]
    if [made.name for made in wrong] == ["keys"]:
        return f"Not certified: {_short(details['keys'])}"
    worst = next(made for made in wrong if made.name != "keys")  # which says that all others are consistent
    return f"Not certified. Check {worst.number} ({worst.name}): {_short(worst.detail)}"


def _short(detail: str) -> str:
    return f"{detail[:_SHORT]}…" if len(detail) > _SHORT else f"{detail.removesuffix('.')}."


def _show(report: Verified) -> None:
    table = Table()
    table.add_column("#", justify="right")
    table.add_column("check", no_wrap=True)
    table.add_column("")  # the mark
    table.add_column("what was found", overflow="fold")
    for made in report.checks:
        mark, style = _MARKS[made.result]
        table.add_row(str(made.number), made.name, Text(mark, style=style), Text(made.detail))
    console = terminal()
    console.print(table)
    console.print(Text(verdict(report), style="green" if report.ok else "bold red"), soft_wrap=True)
