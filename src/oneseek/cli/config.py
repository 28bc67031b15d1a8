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
from oneseek.preflight.finding import PreflightError
from oneseek.preflight.rules.numbers import settings_findings


@click.group()
def config() -> None:
    """Show every setting, where its value comes from, and what it may be."""


@config.command(cls=options.ListsCommand, params=[*options.settings(), *options.as_json()])
def show(config_file: Path | None, assigned: tuple[str, ...], as_json: bool, **values: Any) -> None:
    """Every setting as a run would get it, and where it comes from: flag, environment, file, or default.

    \b
    BASE_MODELS=mistral-7b oneseek config show --config train.yaml --epochs 5
    """
    resolved = options.resolved(config_file, values, assigned)
    if resolved.problems:
        raise PreflightError(settings_findings(resolved.problems))
    rows = rows_of(resolved)
    if as_json:
        write_json({field: {"value": value, "origin": origin} for field, value, origin in rows})
        return
    table = Table()
    table.add_column("setting", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("from")
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


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
