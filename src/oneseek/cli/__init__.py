"""The command line: parse, one call on runs, render. Each command imports what it needs when it is called."""

from __future__ import annotations

import importlib
import io
import sys
from typing import ClassVar

import click

from oneseek import __version__


class LazyGroup(click.Group):
    """Commands by name: the module that defines them, and the line that help shows without importing it."""

    commands_by_name: ClassVar[dict[str, tuple[str, str]]] = {
        "demo": ("oneseek.cli.demo:demo", "Make three small base models and train them, in a minute."),
        "train": ("oneseek.cli.train:train", "Train a LoRA adapter for each selected base model, side by side."),
        "validate": ("oneseek.cli.validate:validate", "Say everything that would make a training fail; start nothing."),
        "resume": ("oneseek.cli.train:resume", "Go on with a run that was stopped or broken off."),
        "stop": ("oneseek.cli.train:stop", "Ask a running run to stop; it can be resumed."),
        "models": ("oneseek.cli.models:models", "List base models, show what they can do, download them."),
        "data": ("oneseek.cli.data:data", "Inspect, convert, count and keep datasets."),
        "runs": ("oneseek.cli.runs:runs", "List, show, watch and import runs."),
        "verify": ("oneseek.cli.verify:verify", "Check that nothing of a run was changed, and who signed it."),
        "reproduce": (
            "oneseek.cli.reproduce:reproduce",
            "Train a complete run again from its own recipe, and compare the weights.",
        ),
        "generate": ("oneseek.cli.generate:generate", "Ask the adapters of a run, and the base models beside them."),
        "ledger": ("oneseek.cli.ledger:ledger", "The log of completed runs: append-only, signed, provable."),
        "config": ("oneseek.cli.config:config", "Show every setting and where its value comes from."),
        "serve": ("oneseek.cli.serve:serve", "Serve this home: start and watch runs over HTTP."),
        "admin": ("oneseek.cli.admin:admin", "Say who may use the server of this home."),
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands_by_name)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.commands_by_name:
            return None
        module, attribute = self.commands_by_name[cmd_name][0].split(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self.commands_by_name.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="oneseek")
def oneseek() -> None:
    """Train one LoRA adapter per base model, side by side on the same rows, and see who wins.

    \b
    oneseek demo                                    see it work
    oneseek models list                             what can be trained
    oneseek train --dataset rows.jsonl --base-models mistral-7b llama-2-7b
    """


def main() -> None:
    """The `oneseek` command. The one place where an error becomes a message and an exit code."""
    from oneseek.errors import OneSeekError

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # "✓" is not in cp1252, which is no reason to fail
    try:
        oneseek.main(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except KeyboardInterrupt:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except OneSeekError as error:
        from oneseek.cli.errors import show

        show(error, as_json="--json" in sys.argv)
        sys.exit(error.exit_code)
