"""`oneseek data`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
import msgspec
from rich import progress as bars
from rich.console import Console
from rich.table import Table
from rich.text import Text

from oneseek.api import home
from oneseek.cli import options
from oneseek.cli.output import size, terminal, visible, write_json
from oneseek.config.schema import DataSection, split_list
from oneseek.datasets import store
from oneseek.datasets.containers import Progress
from oneseek.datasets.convert import targets_of
from oneseek.datasets.formats import METHOD_OF, STRATEGY_OF, USED_AS, Format
from oneseek.datasets.read import scan
from oneseek.datasets.scan import Container, Scan
from oneseek.files.layout import Home
from oneseek.names import match_selection
from oneseek.preflight.gather import dataset_path
from oneseek.registry.capabilities import ModelInfo
from oneseek.registry.discover import discover

if TYPE_CHECKING:
    from oneseek.datasets.statistics import Lengths, Statistics, TokenStatistics

SHOWN_ROWS = 3
BAR = 24  # characters of the longest bar in a histogram


@click.group()
def data() -> None:
    """Inspect, convert, count and keep datasets."""


@data.command(params=[*options.places(), *options.as_json()], no_args_is_help=True)
@click.argument("file")
def inspect(file: str, root: Path | None, models_dir: Path | None, as_json: bool) -> None:
    """What a file holds, and what is wrong with it.

    Its format, how it can be trained on, bad and repeated rows, the first rows. All rows are read. FILE is a path, or
    the name or hash of a stored dataset.

    \b
    oneseek data inspect rows.jsonl
    """
    with progress_bars() as bar:
        found = scan(dataset_path(file, home(root, models_dir)), longest=0, drawn=0, progress=bar("rows"))
    if as_json:
        write_json(described(found))
        return
    console = terminal()
    console.print(Text(visible(found.path), style="bold"), soft_wrap=True)
    for label, value in _facts(found):
        console.print(Text(f"  {label:12}", style="dim") + Text(value), soft_wrap=True)
    if found.problems:
        console.print(_bad_rows(found))
    console.print(Text("First rows:", style="bold"))
    for row in found.first[:SHOWN_ROWS]:
        console.print(Text(f"  {_shortened(row)}"), soft_wrap=True)


@data.command(params=[*options.places(), *options.as_json()], no_args_is_help=True)
@click.argument("file")
@click.option("--to", "target", required=True, type=click.Choice(get_args(Format)), help="The format to write.")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), metavar="OUT", help="The file to write."
)
@click.option(
    "--container", type=click.Choice(get_args(Container)), help="How it is written; told by OUT unless given."
)
@click.option("--force", is_flag=True, help="Replace OUT if it is there.")
def convert(
    file: str,
    target: Format,
    output: Path,
    container: Container | None,
    force: bool,
    root: Path | None,
    models_dir: Path | None,
    as_json: bool,
) -> None:
    """Write a dataset in another format or container.

    Nothing is lost by it: what was written is read back and compared. A row that the other format cannot hold is named
    with its line, and nothing is written then.

    \b
    oneseek data convert sharegpt.json --to messages -o rows.jsonl
    oneseek data convert rows.jsonl --to messages -o rows.parquet
    """
    from oneseek.datasets.write import convert_file

    source = dataset_path(file, home(root, models_dir))
    with progress_bars() as bar:
        written = convert_file(source, target, output, container, replace=force, progress=bar("rows"))
    if as_json:
        write_json(written)
        return
    click.echo(
        f"{visible(str(output))}: {written.rows:,} rows, {written.source_format} to {written.format}, "
        f"{written.container}, {size(written.size_bytes)}"
    )
    if written.left_out:
        click.echo(f"Left out, as {written.source_format} does not use them: {visible(', '.join(written.left_out))}")


@data.command(cls=options.ListsCommand, params=[*options.places(), *options.as_json()], no_args_is_help=True)
@click.argument("file")
@click.option("--models", multiple=True, metavar="KEY...", help="Count tokens as these base models have them.")
@click.option(
    "--max-length",
    type=click.IntRange(min=8),
    default=DataSection.model_fields["max_length"].default,
    show_default=True,
    metavar="N",
    help="Count what is cut at this many tokens.",
)
def stats(
    file: str,
    models: tuple[str, ...],
    max_length: int,
    root: Path | None,
    models_dir: Path | None,
    as_json: bool,
) -> None:
    """How long the rows are, in characters and tokens.

    Every row is counted, in the tokens of each base model. That takes a while for large files; the counts are kept, so
    that asking again is quick.

    \b
    oneseek data stats rows.jsonl --models mistral-7b llama-2-7b --max-length 1024
    """
    from oneseek.datasets.statistics import file_statistics  # tokenizers are imported where tokens are asked for

    at = home(root, models_dir)
    chosen = _chosen([name for text in models for name in split_list(text)], at)
    with progress_bars() as bar:
        found = file_statistics(dataset_path(file, at), chosen, max_length, at.statistics, bar)
    if as_json:
        write_json(found)
        return
    console = terminal()
    console.print(Text(visible(found.path), style="bold"), soft_wrap=True)
    console.print(_characters(found.characters), soft_wrap=True)
    if not found.models:
        console.print("Name base models for their tokens: --models KEY...", soft_wrap=True)
        return
    console.print(_tokens(found))
    console.print(_histogram(found))
    for key, counted in found.models.items():
        for line in _warnings(key, counted):
            console.print(Text(f"! {line}", style="yellow"), soft_wrap=True)


@data.command(params=[*options.places(), *options.as_json()], no_args_is_help=True)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", metavar="NAME", help="What it is called; the file's name unless given.")
def add(file: Path, name: str | None, root: Path | None, models_dir: Path | None, as_json: bool) -> None:
    """Keep a copy of a dataset in the home.

    It is kept under the hash of its content, once, and can be named wherever a file can.

    \b
    oneseek data add rows.jsonl --name town
    oneseek train --dataset town --base-models mistral-7b
    """
    with progress_bars() as bar:
        stored = store.add(home(root, models_dir), file, name, progress=bar("rows"))
    if as_json:
        write_json(stored)
        return
    bad = sum(stored.bad_rows.values())
    click.echo(
        f"{stored.name}: {stored.rows:,} rows of {stored.format}, {size(stored.size_bytes)}, {stored.sha256[:12]}"
        + (f"; {bad:,} more cannot be used (oneseek data inspect {stored.sha256[:12]})" if bad else "")
    )


@data.command("list", params=[*options.places(), *options.as_json()])
def list_datasets(root: Path | None, models_dir: Path | None, as_json: bool) -> None:
    """Every stored dataset, by name.

    \b
    oneseek data list
    """
    found = store.listing(home(root, models_dir))
    if as_json:
        write_json(found)
        return
    if not found.datasets and not found.damaged:
        click.echo("No dataset is stored. Add one: oneseek data add FILE")
        return
    table = Table()
    for column in ("name", "hash", "format", "rows", "bad rows", "size", "added"):
        table.add_column(column, justify="right" if column in ("rows", "bad rows", "size") else "left")
    for stored in found.datasets:
        table.add_row(
            Text(stored.name),
            stored.sha256[:12],
            stored.format,
            f"{stored.rows:,}",
            f"{sum(stored.bad_rows.values()):,}",
            size(stored.size_bytes),
            stored.added_at,
        )
    console = terminal()
    console.print(table)
    for damaged in found.damaged:
        console.print(Text(f"✗ {damaged.problem} {damaged.fix}", style="yellow"), soft_wrap=True)


@data.command(params=[*options.places(), *options.as_json()], no_args_is_help=True)
@click.argument("name")
def remove(name: str, root: Path | None, models_dir: Path | None, as_json: bool) -> None:
    """Remove a stored dataset. NAME is its name, or the first digits of its hash.

    \b
    oneseek data remove town
    """
    removed = store.remove(home(root, models_dir), name)
    if as_json:
        write_json({"removed": removed})
        return
    click.echo(f"Removed {removed}")


# -- in words and tables -------------------------------------------------------------------------------------------


def described(found: Scan) -> dict[str, Any]:
    """A dataset for programs."""
    return {
        "path": found.path,
        "sha256": found.sha256,
        "size_bytes": found.size_bytes,
        "container": found.container,
        "format": found.format,
        "used_as": USED_AS[found.format],
        "strategy": STRATEGY_OF[found.format],
        "method": METHOD_OF[found.format],
        "converts_to": targets_of(found.format),
        "rows": found.rows,
        "bad_rows": found.problems,
        "duplicates": found.duplicates,
        "first": found.first[:SHOWN_ROWS],
    }


def _facts(found: Scan) -> Iterator[tuple[str, str]]:
    used = USED_AS[found.format]
    yield "file", f"{found.container}, {size(found.size_bytes)}, SHA-256 {found.sha256}"
    yield "format", found.format if used == found.format else f"{found.format}, used as {used}"
    yield "trains", f"strategy {STRATEGY_OF[found.format]}, method {METHOD_OF[found.format]}"
    yield "rows", f"{found.rows:,} usable, {found.bad_rows:,} not"
    duplicates = found.duplicates
    if duplicates.count:
        pairs = ", ".join(f"line {line} repeats line {first}" for line, first in duplicates.examples)
        yield (
            "duplicates",
            f"{duplicates.count:,}: {pairs}{', …' if duplicates.count > len(duplicates.examples) else ''}",
        )
    yield "converts to", ", ".join(targets_of(found.format)) or "no other format"


def _bad_rows(found: Scan) -> Table:
    table = Table(title="Bad rows", title_justify="left")
    table.add_column("kind", no_wrap=True)
    table.add_column("rows", justify="right")
    table.add_column("line", justify="right")
    table.add_column("what is wrong", overflow="fold")
    for group in found.problems:
        for number, problem in enumerate(group.examples):
            about = ("", "") if number else (group.kind, f"{group.count:,}")
            table.add_row(*about, str(problem.line), Text(visible(problem.reason)))
    return table


def _shortened(row: dict[str, Any]) -> str:
    text = visible(msgspec.json.encode(row).decode())
    return text if len(text) <= 400 else f"{text[:399]}…"


def _characters(found: Lengths) -> str:
    return (
        f"  {found.rows:,} rows, {found.total:,} characters; a row has {found.mean:,.0f} on average, median "
        f"{found.median:,.0f}, 95 % up to {found.p95:,}, the longest {found.max:,}"
    )


def _tokens(found: Statistics) -> Table:
    table = Table(title="Tokens a row", title_justify="left")
    columns = ("model", "mean", "median", "95 %", "max", "cut", "learned tokens", "rows without")
    for column in columns:
        table.add_column(column, justify="left" if column == "model" else "right")
    for key, counted in found.models.items():
        tokens = counted.tokens
        table.add_row(
            key,
            f"{tokens.mean:,.0f}",
            f"{tokens.median:,.0f}",
            f"{tokens.p95:,}",
            f"{tokens.max:,}",
            f"{counted.truncated_share:.1%}",
            f"{counted.supervised:,}",
            f"{counted.unlearnable:,}",
        )
    return table


def _histogram(found: Statistics) -> Table:
    """Rows by their number of tokens, from the first bin that has some to the last, side by side for all models."""
    table = Table(title="Rows by tokens", title_justify="left")
    table.add_column("tokens from", justify="right")
    for key in found.models:
        table.add_column(key, min_width=BAR)
    most = [max(1, *(one.rows for one in counted.histogram)) for counted in found.models.values()]
    lines = list(zip(*(counted.histogram for counted in found.models.values()), strict=True))
    filled = [number for number, bins in enumerate(lines) if any(one.rows for one in bins)]
    for bins in lines[filled[0] : filled[-1] + 1] if filled else ():
        cells = (f"{'█' * round(BAR * one.rows / top)} {one.rows:,}" for one, top in zip(bins, most, strict=True))
        table.add_row(f"{bins[0].at_least:,}", *cells)
    return table


def _warnings(key: str, counted: TokenStatistics) -> Iterator[str]:
    if counted.refused:
        yield f"{key} refuses {counted.refused:,} rows:"
        yield from (f"line {refusal.line}: {visible(refusal.reason)}" for refusal in counted.refusals)
    if counted.unmeasured:
        yield f"{key}: {counted.unmeasured:,} rows stand after that and were not counted"


# -- what it needs -------------------------------------------------------------------------------------------------


def _chosen(names: list[str], at: Home) -> list[ModelInfo]:
    """The base models that were named, each once.

    Raises:
        SelectionError: a name means none, or several.
    """
    if not names:
        return []
    by_key = {model.key: model for model in discover(at.models, at.cache).models}
    return [by_key[key] for key in dict.fromkeys(match_selection(name, by_key) for name in names)]


@contextmanager
def progress_bars() -> Iterator[Callable[[str], Progress | None]]:
    """Bars on standard error, one for each thing that is asked for; none where nobody would see them."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.DownloadColumn(),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=console, transient=True) as shown:

        def bar(description: str) -> Progress:
            task = shown.add_task(description, total=None, start=False)

            def told(done: int, total: int) -> None:
                shown.start_task(task)
                shown.update(task, completed=done, total=total)

            return told

        yield bar
