"""`oneseek models`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from msgspec import to_builtins
from rich.table import Table
from rich.text import Text

from oneseek.api import home
from oneseek.cli import options
from oneseek.cli.output import size, terminal, write_json
from oneseek.engine.interface import Computed
from oneseek.errors import SelectionError
from oneseek.executors.trying import try_model
from oneseek.names import match_selection
from oneseek.registry.capabilities import ModelInfo, lora_targets
from oneseek.registry.discover import discover


@click.group()
def models() -> None:
    """List base models and show what they can do."""


@models.command("list", params=[*options.places(), *options.as_json()])
def list_models(root: Path | None, models_dir: Path | None, as_json: bool) -> None:
    """Every base model in the models directory; those that can't be used say why.

    \b
    oneseek models list --models-dir /srv/models
    """
    at = home(root, models_dir)
    found = discover(at.models).models
    if as_json:
        write_json([described(model) for model in found])
        return
    if not found:
        click.echo(
            f"No base models in {at.models}. Put one there: a directory with config.json, tokenizer and weights."
        )
        return
    table = Table()
    for column in ("key", "family", "parameters", "size", "context", "chat", "usable"):
        table.add_column(column, justify="right" if column in ("parameters", "size", "context") else "left")
    for model in found:
        reason = "yes" if model.usable else f"no: {model.problems[0].problem}"
        table.add_row(
            Text(model.key),
            Text(model.model_type or ""),
            f"{model.parameters:,}",
            size(model.size_bytes),
            str(model.context_length or ""),
            "yes" if model.chat_template else "no",
            Text(reason, style="" if model.usable else "yellow"),
        )
    terminal().print(table)


@models.command(params=[*options.places(), *options.as_json()])
@click.argument("name")
@click.option("--load", is_flag=True, help="Load it too, and find out how it would be computed.")
def show(name: str, load: bool, root: Path | None, models_dir: Path | None, as_json: bool) -> None:
    """What one base model can do, read from its own files. NAME is matched as in a selection.

    \b
    oneseek models show kb-llama
    oneseek models show kb-llama --load     also: can its rows be packed without padding?
    """
    found = {model.key: model for model in discover(home(root, models_dir).models).models}
    if not found:
        raise SelectionError(f"No base model matches {name!r}.", "The models directory holds none (--models-dir).")
    model = found[match_selection(name, found)]
    computed = try_model(Path(model.path)) if load else None
    if as_json:
        write_json(described(model) | ({"computed": to_builtins(computed)} if computed else {}))
        return
    console = terminal()
    console.print(Text(model.display_name, style="bold"))
    for label, value in (
        ("key", model.key),
        ("path", model.path),
        ("architecture", model.architecture),
        ("parameters", f"{model.parameters:,} ({', '.join(model.dtypes)})"),
        ("size", size(model.size_bytes)),
        ("context", f"{model.context_length} tokens" if model.context_length else "not stated"),
        ("chat template", "yes" if model.chat_template else "no"),
        ("LoRA targets", ", ".join(lora_targets(model, "auto")) or "none"),
        ("computed", _in_words(computed) if computed else "found out when it is loaded (--load)"),
    ):
        console.print(Text(f"  {label:14}", style="dim") + Text(str(value)))
    for problem in model.problems:
        console.print(Text(f"  ✗ {problem.problem} {problem.fix}", style="yellow"))
    if model.linear_modules:
        table = Table()
        for column in ("module", "in", "out", "places", "by default"):
            table.add_column(column, justify="left" if column in ("module", "by default") else "right")
        targets = lora_targets(model, "auto")
        for module in model.linear_modules:
            table.add_row(
                Text(module.name),
                str(module.in_features),
                str(module.out_features),
                str(module.count),
                "trained" if module.name in targets else Text(model.left_out.get(module.name, "")),
            )
        console.print(table)


def _in_words(computed: Computed) -> str:
    rows = {
        "packed": "rows packed side by side, attention per example",
        "padded": "rows padded to the longest, as the model does not allow packing",
        "single": "each row by itself, as the model lets rows change each other",
    }
    head = {"chunked": "head in chunks, at learned tokens only", "own": "the model's own head"}
    return f"{rows[computed.attention]}; {head[computed.head]}"


def described(model: ModelInfo) -> dict[str, Any]:
    """A base model for programs."""
    return {
        "key": model.key,
        "display_name": model.display_name,
        "path": model.path,
        "model_type": model.model_type,
        "architecture": model.architecture,
        "parameters": model.parameters,
        "size_bytes": model.size_bytes,
        "context_length": model.context_length,
        "has_chat_template": model.chat_template is not None,
        "lora_targets": list(lora_targets(model, "auto")),
        "linear_modules": [
            {"name": part.name, "in": part.in_features, "out": part.out_features, "places": part.count}
            for part in model.linear_modules
        ],
        "left_out": model.left_out,
        "usable": model.usable,
        "problems": [{"kind": part.kind, "problem": part.problem, "fix": part.fix} for part in model.problems],
    }
