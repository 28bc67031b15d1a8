"""`oneseek validate`."""

from __future__ import annotations

import codecs
import itertools
import stat
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from oneseek import runs
from oneseek.api import home
from oneseek.cli import options
from oneseek.cli.errors import table
from oneseek.cli.output import duration, terminal, write_json
from oneseek.config.sources import text_of
from oneseek.errors import ConfigError, Refused
from oneseek.estimate import RunEstimate
from oneseek.files.durable import create_exclusively, write_bytes
from oneseek.names import size
from oneseek.preflight.finding import Change, Finding
from oneseek.preflight.fixes import difference, fixed
from oneseek.runs import Rehearsal, Verdict


@click.command(
    cls=options.ListsCommand,
    params=[
        *options.settings(),
        *options.places(),
        click.Option(["--rehearse"], is_flag=True, help="Also take each model through one step, then discard it."),
        click.Option(
            ["--fix"], is_flag=True, help="Show the fixes as a diff of --config, and write them if you agree."
        ),
        click.Option(["--yes"], is_flag=True, help="With --fix: agree beforehand."),
        *options.as_json(),
    ],
)
def validate(
    root: Path | None,
    models_dir: Path | None,
    config_file: Path | None,
    assigned: tuple[str, ...],
    rehearse: bool,
    fix: bool,
    yes: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Say everything that would make a training fail, before any compute: takes what `train` takes, starts nothing.

    Exit code 0 where it would start, 2 where it would be refused. Warnings never refuse.

    \b
    oneseek validate --config train.yaml
    oneseek validate --dataset rows.jsonl --base-models mistral-7b --rehearse
    """
    resolved = options.resolved(config_file, values, assigned)
    if fix and config_file is None:
        raise ConfigError("--fix corrects a configuration file, and none is given.", "Name it with --config.")
    at = home(root, models_dir)
    console = Console(stderr=True)
    with console.status("Reading rows and models …", spinner="dots") as status:
        verdict = runs.validate(
            resolved.config,
            at,
            problems=resolved.problems,
            rehearsed=rehearse,
            watch=lambda key, stage: status.update(f"{key}: {stage} …"),
        )
    if as_json:
        write_json(verdict.wire())
    else:
        _show(verdict)
    if fix and config_file is not None:
        _fix(config_file, verdict.findings, resolved.given, agreed=yes)
    if not verdict.ok:
        sys.exit(Refused.exit_code)


def _show(verdict: Verdict) -> None:
    console = terminal()
    if verdict.findings:
        console.print(table(verdict.findings))
    if verdict.estimate is not None:
        console.print(_estimates(verdict.estimate, verdict))
    errors = sum(finding.severity == "error" for finding in verdict.findings)
    warnings = len(verdict.findings) - errors
    words = f"{_count(errors, 'error')}, {_count(warnings, 'warning')}"
    if 0 < verdict.rows_looked_at < verdict.rows:
        console.print(
            Text(
                f"Templates and tokens: {verdict.rows_looked_at:,} of {verdict.rows:,} rows (sampled); `oneseek data "
                "stats` counts all.",
                style="dim",
            )
        )
    if verdict.not_rehearsed:
        console.print(Text(f"Not rehearsed: {verdict.not_rehearsed}", style="yellow"))
    if verdict.ok:
        console.print(Text(f"✓ The training would start ({words}).", style="green"))
    else:
        console.print(Text(f"✗ The training would be refused ({words}).", style="red"))


def _estimates(estimate: RunEstimate, verdict: Verdict) -> Table:
    """What each model takes, estimated and, after a rehearsal, measured."""
    measured = {each.key: each for each in verdict.rehearsal.models} if verdict.rehearsal is not None else {}
    rows = Table(title=_together(estimate, verdict.rehearsal), title_justify="left")
    rows.add_column("model", overflow="fold")
    for column in ("memory", "most of it", "disk", "estimated, by itself" if measured else "by itself"):
        rows.add_column(column, overflow="fold")
    if measured:
        rows.add_column("rehearsed", overflow="fold")
    for needed in estimate.models:
        parts = sorted(msgspec.structs.asdict(needed.memory).items(), key=lambda part: -part[1])[:3]
        cells = [
            size(needed.memory.total),
            ", ".join(f"{name} {size(count)}" for name, count in parts),
            size(needed.disk.total),
            "" if needed.seconds is None else f"about {duration(needed.seconds)}",
        ]
        found = measured.get(needed.key)
        if found is not None and found.peak_bytes is not None and found.projected_seconds is not None:
            cells.append(f"{size(found.peak_bytes)}, {duration(found.projected_seconds)}")
        rows.add_row(Text(needed.key), *cells)
    return rows


def _together(estimate: RunEstimate, rehearsal: Rehearsal | None) -> str:
    """What the whole run would take: `2 models at once, a thread each: about 3 min 20 s`."""
    seconds = estimate.seconds if rehearsal is None else rehearsal.projected_seconds
    threads = "a thread" if estimate.threads == 1 else f"{estimate.threads} threads"
    side_by_side = "1 model" if len(estimate.models) == 1 else f"{estimate.at_once} of {len(estimate.models)} models"
    how = "estimated" if rehearsal is None else "as rehearsed"
    time = "" if seconds is None else f": about {duration(seconds)}, {how}"
    return f"{side_by_side} at once, {threads} each{time}"


def _fix(given: Path, findings: Sequence[Finding], origins: Mapping[str, str], *, agreed: bool) -> None:
    """The changes as a diff; written when confirmed, with the file as it was kept beside it. What may be meant stays.

    origins: where each of the settings that were given comes from.
    """
    path = given.resolve()  # a link stays one
    before = path.read_bytes()
    old = text_of(path)
    wrong = [finding for finding in findings if not finding.meant]
    above = {change.field for finding in wrong for change in finding.changes if _is_above(origins, change)}
    here = [finding for finding in wrong if above.isdisjoint(change.field for change in finding.changes)]
    new = fixed(old, path.suffix, here)
    for field in sorted(above):
        click.echo(f"{field} comes from {origins[field]}: correct it there.", err=True)
    if new == old:
        click.echo(f"{given}: nothing here can be fixed by a setting alone; the fixes above say what to do.", err=True)
        return
    click.echo(difference(old, new, given.name), err=True)
    if not agreed and not _agrees(f"Write these changes to {given}?"):
        click.echo(f"{given} is as it was. With --yes it is written without a question.", err=True)
        return
    if path.read_bytes() != before:
        raise ConfigError(f"{given} changed while you were asked.", "Validate it again.")
    kept = _keep(path, before)
    mark = codecs.BOM_UTF8 if before.startswith(codecs.BOM_UTF8) else b""
    write_bytes(path, mark + new.encode())
    click.echo(f"{given} is written; as it was: {kept}. Validate again.", err=True)


def _is_above(origins: Mapping[str, str], change: Change) -> bool:
    """Whether a flag or a variable wins over what the file says, so that a change of the file would mend nothing."""
    return origins.get(change.field, "").startswith(("flag", "environment"))


def _agrees(question: str) -> bool:
    try:
        return click.confirm(question, default=False, err=True)
    except click.Abort:  # nobody is there to answer
        click.echo(err=True)
        return False


def _keep(path: Path, content: bytes) -> Path:
    """A copy that overwrites nothing: beside an earlier one, the next number."""
    mode = stat.S_IMODE(path.stat().st_mode)
    for number in itertools.count():
        kept = path.with_name(f"{path.name}.orig{number or ''}")
        if create_exclusively(kept, content, mode):
            break
    return kept


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
