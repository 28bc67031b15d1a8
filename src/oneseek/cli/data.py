"""`oneseek data`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from oneseek.cli.output import terminal, visible, write_json
from oneseek.config.schema import DataSection, split_list
from oneseek.datasets import store
from oneseek.datasets.containers import Progress
from oneseek.datasets.convert import targets_of
from oneseek.datasets.formats import METHOD_OF, STRATEGY_OF, USED_AS, Format, check_row
from oneseek.datasets.read import scan
from oneseek.datasets.scan import SHOWN_ROWS, Container, ProblemGroup, Scan
from oneseek.errors import Refused
from oneseek.names import size
from oneseek.preflight.gather import dataset_path
from oneseek.registry.discover import selected

if TYPE_CHECKING:
    from oneseek.datasets.statistics import Lengths, Statistics, TokenStatistics

LABELS = 15  # characters of the first column of figures and histograms, with its padding and rules
SHORTEST_BAR = 16  # characters that a histogram has at least for the longest bar and its number
LONGEST_BAR = 32


@click.group()
def data() -> None:
    """Inspect, convert, count and keep datasets."""


@data.command(params=[*options.places(), *options.as_json()], no_args_is_help=True)
@click.argument("file")
def inspect(file: str, root: Path | None, models_dir: Path | None, as_json: bool) -> None:
    """What a file holds, and what is wrong with it.

    Its format, how it can be trained on, bad and repeated rows, the first rows. All rows are read. FILE is a path, or
    the name of a stored dataset, or the first eight or more digits of its hash.

    Exit code 0 with bad rows too, 2 where no row can be used.

    \b
    oneseek data inspect rows.jsonl
    """
    with progress_bars() as bar:
        found = scan(dataset_path(file, home(root, models_dir)), longest=0, drawn=0, progress=bar("Checking rows"))
    if as_json:
        write_json(found.wire())
        return
    console = terminal()
    console.print(Text(visible(found.path), style="bold"), soft_wrap=True)
    for label, value in _facts(found):
        console.print(Text(f"  {label:12}", style="dim") + Text(value), soft_wrap=True)
    if found.problems:
        console.print(_bad_rows(found))
    console.print(Text("First rows:", style="bold"))
    for row in found.first[:SHOWN_ROWS]:
        mark = Text("✗ cannot be used: ", style="yellow") if check_row(row, found.format) else Text()
        console.print(Text("  ") + mark + Text(_shortened(row)), soft_wrap=True)


@data.command(params=[*options.places(), *options.as_json()], no_args_is_help=True)
@click.argument("file")
@click.option("--to", "target", required=True, type=click.Choice(get_args(Format)), help="The format to write.")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), metavar="OUT", help="The file to write."
)
@click.option(
    "--container", type=click.Choice(get_args(Container)), help="How it is written; told by OUT's ending unless given."
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

    Nothing is lost by it: what was written is read back and compared. Rows that the other format cannot hold are named
    with their lines, and nothing is written then.

    \b
    oneseek data convert sharegpt.json --to messages -o rows.jsonl
    oneseek data convert rows.jsonl --to messages -o rows.parquet
    """
    from oneseek.datasets.write import convert_file

    source = dataset_path(file, home(root, models_dir))
    with progress_bars() as bar:
        written = convert_file(source, target, output, container, replace=force, progress=bar("Converting"))
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
@click.option("--base-models", multiple=True, metavar="NAME...", help="Count tokens as these base models have them.")
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
    base_models: tuple[str, ...],
    max_length: int,
    root: Path | None,
    models_dir: Path | None,
    as_json: bool,
) -> None:
    """How long the rows are, in characters and tokens.

    Every row is counted, in the tokens of each base model. That takes a while for large files; the counts are kept, so
    that asking again is quick. `truncated` rows are longer than --max-length or the model's context; `supervised`
    tokens are learned; `unlearnable` rows have none left to learn.

    Exit code 2 where a base model cannot be used; the others are counted.

    \b
    oneseek data stats rows.jsonl --base-models mistral-7b llama-2-7b --max-length 1024
    """
    from oneseek.datasets.statistics import file_statistics  # tokenizers are imported where tokens are asked for

    at = home(root, models_dir)
    chosen = selected([name for text in base_models for name in split_list(text)], at.models, at.cache)
    with progress_bars() as bar:
        found = file_statistics(dataset_path(file, at), chosen, max_length, at.statistics, bar)
    if as_json:
        write_json(found)
    else:
        _show_statistics(found, file)
    if found.unusable:
        sys.exit(Refused.exit_code)


@data.command(params=[*options.places(), *options.as_json()], no_args_is_help=True)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", metavar="NAME", help="What it is called; the file's name unless given.")
def add(file: Path, name: str | None, root: Path | None, models_dir: Path | None, as_json: bool) -> None:
    """Keep a copy of a dataset in the home.

    It is kept under the hash of its content, once, and can be named wherever a file can. Adding it again under another
    name renames it.

    \b
    oneseek data add rows.jsonl --name town
    oneseek train --dataset town --base-models mistral-7b
    """
    with progress_bars() as bar:
        stored, renamed_from = store.add(home(root, models_dir), file, name, progress=bar("Checking rows"))
    if as_json:
        write_json(msgspec.to_builtins(stored) | {"renamed_from": renamed_from})
        return
    click.echo(
        f"{stored.name}: {stored.rows:,} rows of {stored.format}{_unusable_rows(stored.bad_rows, stored.sha256[:12])}, "
        f"{size(stored.size_bytes)}, {stored.sha256[:12]}" + (f" (was {renamed_from})" if renamed_from else "")
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
        right, whole = column in ("rows", "bad rows", "size"), column in ("hash", "added")
        table.add_column(column, justify="right" if right else "left", no_wrap=whole, overflow="fold")
    for stored in found.datasets:
        table.add_row(
            Text(stored.name),
            stored.sha256[:12],
            stored.format,
            f"{stored.rows:,}",
            f"{_count(stored.bad_rows):,}",
            size(stored.size_bytes),
            stored.added_at.partition("T")[0],
        )
    console = terminal()
    console.print(table)
    for damaged in found.damaged:
        console.print(Text(f"✗ {damaged.problem} {damaged.fix}", style="yellow"), soft_wrap=True)


@data.command(params=[*options.places(), *options.as_json()], no_args_is_help=True)
@click.argument("name")
def remove(name: str, root: Path | None, models_dir: Path | None, as_json: bool) -> None:
    """Remove a stored dataset. NAME is its name, or the first eight or more digits of its hash.

    \b
    oneseek data remove town
    """
    removed = store.remove(home(root, models_dir), name)
    called = removed.name if isinstance(removed, store.Stored) else None
    if as_json:
        write_json({"removed": removed.sha256, "name": called})
        return
    click.echo(f"Removed {called or 'the damaged dataset'} ({removed.sha256[:12]})")


# -- in words and tables -------------------------------------------------------------------------------------------


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
    others = ", ".join(targets_of(found.format))
    yield "converts to", f"{others} where nothing is lost" if others else "no other format"


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


def _count(bad: Sequence[ProblemGroup]) -> int:
    return sum(group.count for group in bad)


def _unusable_rows(bad: Sequence[ProblemGroup], file: str) -> str:
    return f", {_count(bad):,} more cannot be used (oneseek data inspect {shlex.quote(file)})" if bad else ""


def _show_statistics(found: Statistics, file: str) -> None:
    console = terminal()
    console.print(Text(visible(found.path), style="bold"), soft_wrap=True)
    console.print(f"  {found.characters.rows:,} rows{_unusable_rows(found.bad_rows, file)}", soft_wrap=True)
    console.print(_characters(found.characters), soft_wrap=True)
    if not found.models and not found.unusable:
        console.print("Name base models for their tokens: --base-models NAME...", soft_wrap=True)
    for models in _side_by_side(found.models, console.width):
        console.print(_tokens(models))
        if taken := {key: counted for key, counted in models.items() if counted.tokens.rows}:
            console.print(_histogram(taken, console.width))
    for key, counted in found.models.items():
        for line in _warnings(key, counted):
            console.print(Text(f"! {line}", style="yellow"), soft_wrap=True)
    for key, why in found.unusable.items():
        console.print(Text(f"✗ {key}: {visible(f'{why.problem} {why.fix}')}", style="red"), soft_wrap=True)


def _characters(found: Lengths) -> str:
    return (
        f"  {found.total:,} characters; a row has {found.mean:,.0f} on average, median "
        f"{found.median:,.0f}, 95 % up to {found.p95:,}, the longest {found.max:,}"
    )


def _side_by_side(models: Mapping[str, TokenStatistics], width: int) -> Iterator[dict[str, TokenStatistics]]:
    """As many models at a time as tables of this width have room for."""
    keys = list(models)
    abreast = max(1, (width - LABELS) // max(map(_cell_width, keys), default=1))
    for start in range(0, len(keys), abreast):
        yield {key: models[key] for key in keys[start : start + abreast]}


def _cell_width(key: str) -> int:
    return max(len(key), SHORTEST_BAR) + 3  # its padding and a rule


def _tokens(models: Mapping[str, TokenStatistics]) -> Table:
    table = Table(title="Tokens a row", title_justify="left")
    table.add_column("", min_width=LABELS - 4)
    for key in models:
        table.add_column(key, justify="right", no_wrap=True)
    figures = [_figures(counted) for counted in models.values()]
    for name in figures[0]:
        table.add_row(name, *(each[name] for each in figures))
    return table


def _figures(counted: TokenStatistics) -> dict[str, str]:
    """By the names that they have for programs; dashes where the model's template took no row."""
    tokens = counted.tokens
    shown = {
        "mean": f"{tokens.mean:,.0f}",
        "median": f"{tokens.median:,.0f}",
        "p95": f"{tokens.p95:,}",
        "max": f"{tokens.max:,}",
        "truncated": f"{counted.truncated:,} ({counted.truncated_share:.1%})",
        "supervised": f"{counted.supervised:,}",
        "unlearnable": f"{counted.unlearnable:,}",
    }
    return shown if tokens.rows else dict.fromkeys(shown, "–")


def _histogram(models: Mapping[str, TokenStatistics], width: int) -> Table:
    """Rows by their number of tokens, from the first bin that has some to the last."""
    bar = min(LONGEST_BAR, (width - LABELS) // len(models) - 3)
    table = Table(title="Rows by tokens", title_justify="left")
    table.add_column("tokens from", justify="right")
    for key in models:
        table.add_column(key, no_wrap=True)
    most = [max(one.rows for one in counted.histogram) for counted in models.values()]
    lines = list(zip(*(counted.histogram for counted in models.values()), strict=True))
    filled = [number for number, bins in enumerate(lines) if any(one.rows for one in bins)]
    for bins in lines[filled[0] : filled[-1] + 1]:
        cells = (_bar(one.rows, top, bar) for one, top in zip(bins, most, strict=True))
        table.add_row(f"{bins[0].at_least:,}", *cells)
    return table


def _bar(rows: int, most: int, width: int) -> str:
    return f"{'█' * round((width - len(f'{most:,} ')) * rows / most)} {rows:,}".lstrip()


def _warnings(key: str, counted: TokenStatistics) -> Iterator[str]:
    if counted.refused:
        yield f"{key} refuses {counted.refused:,} rows:"
        yield from (f"line {refusal.line}: {visible(refusal.reason)}" for refusal in counted.refusals)
    if counted.unmeasured:
        yield f"{key}: {counted.unmeasured:,} rows stand after that and were not counted"


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
        bars.TextColumn("read"),
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
