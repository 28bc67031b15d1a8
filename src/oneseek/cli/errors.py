"""How an error looks: what is wrong, and the fix to type; for programs, one JSON object."""

from __future__ import annotations

import sys

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from oneseek.cli.output import visible
from oneseek.errors import OneSeekError
from oneseek.preflight.finding import Finding, PreflightError, body


def show(error: OneSeekError, *, as_json: bool) -> None:
    """On standard error for people, on standard output for programs."""
    if as_json:
        sys.stdout.buffer.write(msgspec.json.encode({"error": body(error)}) + b"\n")
        sys.stdout.flush()
        return
    console = Console(stderr=True, soft_wrap=not isinstance(error, PreflightError))
    if isinstance(error, PreflightError):
        console.print(table(error.findings))
    console.print(Text("Error: ", style="bold red") + Text(visible(error.problem), style="default"))
    if error.fix:
        console.print(Text("Fix: ", style="bold green") + Text(visible(error.fix), style="default"))


def table(findings: tuple[Finding, ...]) -> Table:
    """All findings, errors first."""
    rows = Table(show_lines=True, expand=True)
    rows.add_column("", no_wrap=True)
    rows.add_column("setting", overflow="fold")
    rows.add_column("problem", overflow="fold", ratio=3)
    rows.add_column("fix", overflow="fold", ratio=3)
    for finding in findings:
        style = "red" if finding.severity == "error" else "yellow"
        words = (finding.field, finding.problem, finding.fix)
        mark = "✗ error" if finding.severity == "error" else "! warning"
        rows.add_row(Text(mark, style=style), *(Text(visible(each)) for each in words))
    return rows
