"""`oneseek models`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from msgspec import to_builtins
from rich.table import Table
from rich.text import Text

from oneseek.api import home
from oneseek.cli import model_page, options
from oneseek.cli.model_page import parameters, whereabouts
from oneseek.cli.output import terminal, transfer, write_json, write_line
from oneseek.config.schema import split_list
from oneseek.datasets.limited import template_traits
from oneseek.errors import ModelError, SelectionError
from oneseek.executors.converting import convert_model
from oneseek.executors.trying import try_model
from oneseek.files.layout import Home
from oneseek.names import match_selection, matching_keys, size
from oneseek.registry.cache import cache_directory
from oneseek.registry.coverage import asked_for, coverage
from oneseek.registry.discover import discover
from oneseek.registry.hub import is_hub_id, locate, pickled
from oneseek.registry.pull import Pull, PullProgress, look_up
from oneseek.registry.pull import pull as download


@click.group()
def models() -> None:
    """List base models, show what they can do, and download them."""


@models.command("list", params=[*options.places(), *options.as_json()])
def list_models(root: Path | None, models_dir: Path | None, as_json: bool) -> None:
    """Every base model in the models directory and in the Hugging Face cache; those that can't be used say why.

    \b
    oneseek models list --models-dir /srv/models
    """
    at = home(root, models_dir)
    cache = _cache(at)
    discovery = discover(at.models, cache)
    found, shadowed = discovery.models, discovery.shadowed
    if as_json:
        write_json({"models": discovery.wire()})
        return
    if not found:
        click.echo(
            f"No base models in {at.models} and in {cache}. Put one there: a directory with config.json, tokenizer and "
            "weights; or download one: oneseek models pull ORG/NAME"
        )
        return
    table = Table()
    for column in ("key", "here", "family", "parameters", "size", "context", "chat", "usable"):
        right = column in ("parameters", "size", "context")
        # The key is what other commands take, and half of one is none.
        table.add_column(column, justify="right" if right else "left", no_wrap=column == "key", overflow="fold")
    for model in found:
        table.add_row(
            Text(model.key),
            Text(whereabouts(model)),
            Text(model.model_type or ""),
            parameters(model),
            size(model.size_bytes),
            str(model.context_length or ""),
            "yes" if model.chat_template else "no",
            Text("yes") if model.usable else Text("no", style="yellow"),
        )
    console = terminal()
    console.print(table)
    notes = [f"✗ {model.key}: {trouble.problem} {trouble.fix}" for model in found for trouble in model.problems]
    notes += [f"! {key} is the one in {at.models}; passed over: {', '.join(paths)}" for key, paths in shadowed.items()]
    for note in notes:
        console.print(Text(note, style="yellow"), soft_wrap=True)


@models.command(params=[*options.places(), *options.as_json()])
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
def pull(names: tuple[str, ...], root: Path | None, models_dir: Path | None, as_json: bool) -> None:
    """Download base models into the Hugging Face cache, or check those that are there. NAME is org/name, with @REVISION
    if need be, or the key of one that is in the cache.

    Only what training needs is fetched, and every file is compared with the hub's digest of it. What is broken off goes
    on where it was. HF_TOKEN opens gated models, HF_HUB_CACHE says where the cache is, HF_ENDPOINT where the hub is.
    With --json each line is a document of its own: download_progress now and then, then pulled, for each model.

    \b
    oneseek models pull HuggingFaceTB/SmolLM2-135M-Instruct
    """
    at = home(root, models_dir)
    wanted: list[Pull] = []
    for name in dict.fromkeys(names):
        hub_id = name if is_hub_id(name) else _hub_id_of(name, at)
        wanted.append(look_up(hub_id, _cache(at), reserved_bytes=sum(item.missing_bytes for item in wanted)))
    for item in wanted:
        if item.warning:
            click.echo(f"! {item.warning}", err=True)
    for item in wanted:
        try:
            with _telling(item, as_json=as_json) as tell:
                path = download(item, tell)
        except KeyboardInterrupt:
            click.echo("Stopped. The same command goes on from here.", err=True)
            raise
        if as_json:
            write_line({"type": "pulled", "model": item.model.hub_id, "revision": item.model.commit, "path": str(path)})
        else:
            click.echo(f"✓ {item.model.hub_id}: {path}")


def _cache(at: Home) -> Path:
    return at.cache or cache_directory(os.environ)


def _hub_id_of(name: str, at: Home) -> str:
    """Where the model of the cache came from that this key means."""
    known = {info.key: info for info in discover(at.models, _cache(at)).models if info.hub_id}
    if not matching_keys(name, known):
        raise SelectionError(
            f"No base model in {_cache(at)} matches {name!r}.",
            "Models on the hub are called ORG/NAME, as in HuggingFaceTB/SmolLM2-135M-Instruct.",
        )
    return str(known[match_selection(name, known)].hub_id)


@contextmanager
def _telling(item: Pull, *, as_json: bool) -> Iterator[Callable[[PullProgress], None]]:
    """How a download is shown: a line that changes in a terminal; in a pipe, one now and then."""
    console, name = terminal(), item.model.hub_id
    if not as_json and console.is_terminal:
        with console.status("") as line:
            yield lambda progress: line.update(Text(f"{name}: {_so_far(progress)}"))
        return
    last = -60.0
    seconds = 1.0 if as_json else 10.0

    def tell(progress: PullProgress) -> None:
        nonlocal last
        if progress.done < progress.total and time.monotonic() - last < seconds:
            return
        last = time.monotonic()
        if as_json:
            left = progress.seconds_left
            write_line({"type": "download_progress", "model": name, **to_builtins(progress), "seconds_left": left})
        else:
            click.echo(f"{name}: {_so_far(progress)}")

    yield tell


def _so_far(progress: PullProgress) -> str:
    return transfer(progress.done, progress.total, progress.bytes_per_second)


@models.command(cls=options.ListsCommand, params=[*options.places(), *options.as_json()])
@click.argument("name")
@click.option(
    "--target-modules", metavar="NAME...", multiple=True, help="What these would train, as in lora.target_modules."
)
@click.option("--load", is_flag=True, help="Load it too, and find out how it would be computed.")
def show(
    name: str, target_modules: tuple[str, ...], load: bool, root: Path | None, models_dir: Path | None, as_json: bool
) -> None:
    """What one base model can do, read from its own files. NAME is matched as in a selection.

    \b
    oneseek models show kb-llama
    oneseek models show kb-llama --target-modules q_proj v_proj     which layers would be trained?
    oneseek models show kb-llama --load     also: can its rows be packed without padding?
    """
    at = home(root, models_dir)
    model = locate(name, discover(at.models, _cache(at)), _cache(at))
    cover = coverage(model, asked_for([part for text in target_modules for part in split_list(text)]))
    traits = template_traits(model)
    if load and model.source == "hub":
        raise ModelError(f"{model.display_name} is not here.", f"Download it first: oneseek models pull {model.hub_id}")
    computed = try_model(Path(model.path)) if load else None
    if as_json:
        more = {"computed": to_builtins(computed)} if computed else {}
        write_json(model.wire() | {"template": to_builtins(traits), "coverage": cover.wire()} | more)
    else:
        model_page.show(terminal(), model, cover, traits, computed)


@models.command(params=[*options.places(), *options.as_json()])
@click.argument("name")
def convert(name: str, root: Path | None, models_dir: Path | None, as_json: bool) -> None:
    """Write safetensors files beside pickled weights (pytorch_model.bin), which stay. Nothing in the pickle is run: it
    is read as tensors alone, in a process of its own, and what was written is compared with it. NAME is matched as in a
    selection.

    \b
    oneseek models convert gpt-sw3-126m
    """
    at = home(root, models_dir)
    model = locate(name, discover(at.models, _cache(at)), _cache(at))
    written = convert_model(pickled(model))
    if as_json:
        write_json({"key": model.key, "path": model.path, "written": list(written)})
    else:
        click.echo(f"✓ {model.key}: {', '.join(written)} in {model.path}")
