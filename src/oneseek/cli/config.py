"""`oneseek config`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from oneseek.cli import options
from oneseek.cli.output import terminal, write_json
from oneseek.config.json_schema import json_schema
from oneseek.config.sources import rows_of
from oneseek.preflight.finding import Finding, PreflightError
from oneseek.preflight.rules.numbers import settings_findings


@click.group()
def config() -> None:
    """Show every setting, where its value comes from, and what it may be."""


@config.command(cls=options.ListsCommand, params=[*options.settings(), *options.places(), *options.as_json()])
def show(
    root: Path | None,
    models_dir: Path | None,
    config_file: Path | None,
    assigned: tuple[str, ...],
    as_json: bool,
    **values: Any,
) -> None:
    """Every setting as a run would get it, and where it comes from: flag, environment, file, or default.

    Takes what `train` takes; --home and --models-dir are no settings and change nothing here.

    \b
    BASE_MODELS=mistral-7b oneseek config show --config train.yaml --epochs 5
    """
    resolved = options.resolved(config_file, values, assigned)
    if resolved.problems:
        raise _refusal(settings_findings(resolved.problems))
    rows = rows_of(resolved)
    if as_json:
        write_json({field: {"value": value, "origin": origin} for field, value, origin in rows})
        return
    table = Table(expand=True)
    for column, share in (("setting", 10), ("value", 3), ("from", 6)):
        table.add_column(column, overflow="fold", ratio=share)
    for field, value, origin in rows:
        table.add_row(field, Text(_text(value)), Text(origin, style="dim" if origin == "default" else "bold"))
    terminal().print(table)


@config.command
def schema() -> None:
    """JSON Schema (2020-12) of a configuration file, for editors and forms.

    \b
    oneseek config schema > oneseek.schema.json
    """
    write_json(json_schema())


def _refusal(findings: tuple[Finding, ...]) -> PreflightError:
    """In other words than where something was to be started."""
    refusal = PreflightError(findings)
    refusal.problem = f"{len(findings)} {'error' if len(findings) == 1 else 'errors'} in the settings."
    return refusal


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
