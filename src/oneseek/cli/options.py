"""Options that several commands share, and settings as flags."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from oneseek.config.schema import TrainingConfig, split_list
from oneseek.config.sources import Resolved, assignments, resolve

# Flags that are settings: the flag, the setting, and what stands in help for the value.
SETTINGS: tuple[tuple[str, str, str], ...] = (
    ("--dataset", "data.dataset", "FILE"),
    ("--base-models", "model.base_models", "NAME..."),
    ("--method", "training.method", "sft|dpo"),
    ("--strategy", "data.strategy", "chat|standard"),
    ("--epochs", "training.num_epochs", "N"),
    ("--batch-size", "training.batch_size", "N"),
    ("--learning-rate", "training.learning_rate", "RATE"),
    ("--lora-r", "lora.r", "N"),
    ("--lora-alpha", "lora.alpha", "X"),
    ("--target-modules", "lora.target_modules", "NAME..."),
    ("--max-length", "data.max_length", "TOKENS"),
    ("--sample-prompt", "training.sample_prompts", "TEXT"),
    ("--seed", "training.seed", "N"),
    ("--executor", "execution.executor", "local|inline"),
    ("--version", "output.version", "1.0"),
)
_LISTS = ("--base-models", "--models", "--target-modules")
_REPEATED = (*_LISTS, "--sample-prompt")  # a prompt may hold commas: for another one, the flag is given again


class ListsCommand(click.Command):
    """`--base-models A B`, `--base-models A,B` and `--base-models A --base-models B` all mean the same.

    A space inside one argument, as in `--base-models "my model"`, is part of the name.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        spread: list[str] = []
        current = ""
        for arg in args:
            if arg.startswith("-"):
                current = arg if arg in _LISTS else ""
                spread.append(arg)
            elif current and spread[-1] != current:
                spread += [current, arg]
            else:
                spread.append(arg)
        return super().parse_args(ctx, spread)


def places() -> list[click.Parameter]:
    """`--home` and `--models-dir`, which commands get as `root` and `models_dir`."""
    return [
        click.Option(
            ["--home", "root"],
            type=click.Path(path_type=Path),
            envvar="ONESEEK_HOME",
            help="Directory of models/ and datasets/; the current one unless given.",
        ),
        click.Option(
            ["--models-dir"], type=click.Path(path_type=Path), envvar="MODELS_DIR", help="Default: models/ in the home."
        ),
    ]


def settings() -> list[click.Parameter]:
    """A flag for each of SETTINGS, `--config` and `--set`; `given` makes one mapping of them."""
    helps = _helps()
    flags: list[click.Parameter] = [
        click.Option([flag, _parameter(flag)], metavar=metavar, multiple=flag in _REPEATED, help=helps[field])
        for flag, field, metavar in SETTINGS
    ]
    return [
        *flags,
        click.Option(
            ["--config", "config_file"], type=click.Path(path_type=Path), help="Settings as YAML, TOML or JSON."
        ),
        click.Option(
            ["--set", "assigned"], multiple=True, metavar="SECTION.FIELD=VALUE", help="Any other setting, repeatable."
        ),
    ]


def resolved(config_file: Path | None, values: Mapping[str, Any], assigned: Iterable[str]) -> Resolved:
    """The configuration that a command was asked for; what its person should know of it goes to standard error.

    Raises:
        ConfigError: the file cannot be read as settings at all.
    """
    asked = resolve(file=config_file, environment=os.environ, flags=given(values, assigned))
    for note in asked.notes:
        click.echo(f"Note: {note.note}", err=True)
    return asked


def given(values: Mapping[str, Any], assigned: Iterable[str]) -> dict[str, Any]:
    """The settings among a command's values, for `resolve`."""
    flags = assignments(assigned)
    for flag, field, _ in SETTINGS:
        value = values[_parameter(flag)]
        if value not in (None, ()):
            flags[field] = [name for text in value for name in split_list(text)] if flag in _LISTS else value
    return flags


def server() -> list[click.Parameter]:
    """`--server`: the address of a OneSeek server, or None. Its token is an environment variable alone."""
    return [
        click.Option(
            ["--server"],
            metavar="URL",
            envvar="ONESEEK_SERVER",
            help="Do it at a OneSeek server, with the token in ONESEEK_TOKEN.",
        )
    ]


def no_watch() -> list[click.Parameter]:
    return [click.Option(["--no-watch"], is_flag=True, help="With --server: don't stay until the run ends.")]


def as_json() -> list[click.Parameter]:
    return [click.Option(["--json", "as_json"], is_flag=True, help="For programs.")]


def _helps() -> dict[str, str]:
    """The first sentence of each setting's docstring: the schema is where a setting is explained."""
    helps = {}
    for section, field in TrainingConfig.model_fields.items():
        for name, setting in getattr(field.annotation, "model_fields", {}).items():
            helps[f"{section}.{name}"] = (setting.description or "").split(". ")[0].rstrip(".") + "."
    return helps


def _parameter(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")
