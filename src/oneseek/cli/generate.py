"""`oneseek generate`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from oneseek import runs
from oneseek.api import home
from oneseek.cli import options
from oneseek.cli.output import terminal, visible, write_line
from oneseek.config.schema import split_list
from oneseek.errors import ConfigError
from oneseek.runs import AnswerFinished, Generated

_HEADINGS = {"base": "base model", "adapter": "with adapter"}


@click.command(cls=options.ListsCommand, params=[*options.places(), *options.as_json()], no_args_is_help=True)
@click.argument("run")
@click.option("--prompt", "prompts", multiple=True, metavar="TEXT", help="What to ask; repeatable.")
@click.option(
    "--prompts", "file", type=click.File("rb"), metavar="FILE", help="Prompts, one on each line; - is standard input."
)
@click.option("--models", multiple=True, metavar="NAME...", help="Which of the run's models; all unless given.")
@click.option("--no-base", is_flag=True, help="Ask the adapters only.")
@click.option("--max-new-tokens", default=256, show_default=True, metavar="N", help="Longest answer.")
@click.option(
    "--temperature", default=0.0, show_default=True, metavar="X", help="0: always the likeliest token. 1: as it comes."
)
@click.option("--top-p", default=1.0, show_default=True, metavar="X", help="Draw from this share of probability.")
@click.option("--seed", default=0, show_default=True, metavar="N", help="Of what is drawn.")
@click.option("--system", metavar="TEXT", help="A system message before each prompt.")
def generate(
    run: str,
    prompts: tuple[str, ...],
    file: IO[bytes] | None,
    models: tuple[str, ...],
    no_base: bool,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    system: str | None,
    root: Path | None,
    models_dir: Path | None,
    as_json: bool,
) -> None:
    """Ask the adapters of a finished run, and the base models beside them. RUN is its id or its directory.

    A prompt reaches a model as the run's rows did: through the model's own chat template, or as plain text to go on
    from. One model answers after the other; an answer ends where the model ends it, or after --max-new-tokens.

    \b
    oneseek generate run-20251122-143025 --prompt "When is the library open?"
    oneseek generate run-20251122-143025 --prompts questions.txt --models mistral --temperature 0.7 --seed 1
    """
    told = runs.generate(
        runs.find(run, home(root, models_dir)),
        asked := [*prompts, *(_lines(file) if file else ())],
        models=[name for text in models for name in split_list(text)] or None,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        system=system,
        base=not no_base,
    )
    with _showing(asked, as_json=as_json, base=not no_base) as show:
        for event in told:
            show(event)


def _lines(file: IO[bytes]) -> list[str]:
    try:
        lines = file.read().decode("utf-8-sig").split("\n")  # a prompt may hold what else ends a line in Unicode
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file.name} is not UTF-8 at byte {error.start}.", "Save it as UTF-8 text.") from error
    return [line.rstrip("\r") for line in lines if line.strip()]


@contextmanager
def _showing(prompts: list[str], *, as_json: bool, base: bool) -> Iterator[Callable[[Generated], None]]:
    """What suits where the output goes: columns that grow, plain blocks, or lines for programs."""
    console = terminal()
    if as_json:
        yield write_line
    elif not console.is_terminal:
        yield _Blocks(console, prompts)
    else:
        with Live(Text("Loading the first model …"), console=console, refresh_per_second=8, transient=True) as live:
            try:
                yield _Columns(live, prompts, ("base", "adapter") if base else ("adapter",))
            finally:
                live.update(Text())  # its end shows all, and can't take back what is taller than the screen


class _Blocks:
    """Each answer when it is whole."""

    def __init__(self, console: Console, prompts: list[str]) -> None:
        self._console = console
        self._prompts = prompts
        self._asked: tuple[str, int] | None = None

    def __call__(self, event: Generated) -> None:
        if not isinstance(event, AnswerFinished):
            return
        if self._asked != (event.model, event.prompt):
            self._asked = (event.model, event.prompt)
            self._print(f"{event.model} > {self._prompts[event.prompt]}")
        self._print(f"[{_HEADINGS[event.variant]}, {_length(event)}]")
        self._print(f"{event.text}\n")

    def _print(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)


class _Columns:
    """The answers to one prompt side by side, in place while they grow, then for good."""

    def __init__(self, live: Live, prompts: list[str], variants: tuple[str, ...]) -> None:
        self._live = live
        self._prompts = prompts
        self._variants = variants
        self._begin()

    def __call__(self, event: Generated) -> None:
        if isinstance(event, AnswerFinished):
            self._ended[event.variant] = _length(event)
        else:
            self._texts[event.variant] += event.text
        table = self._table(event)
        if len(self._ended) < len(self._variants):
            self._live.update(table)
            return
        self._live.update(Text("…"), refresh=True)  # what has grown goes before the whole is printed
        self._live.console.print(table)
        self._begin()

    def _begin(self) -> None:
        self._texts = dict.fromkeys(self._variants, "")
        self._ended: dict[str, str] = {}

    def _table(self, event: Generated) -> Table:
        title = Text(f"{event.model} > {visible(self._prompts[event.prompt])}", style="bold")
        table = Table(title=title, title_justify="left", expand=True)
        for variant in self._variants:
            table.add_column(_HEADINGS[variant], footer=self._ended.get(variant, ""), ratio=1, overflow="fold")
        table.add_row(*(Text(visible(text)) for text in self._texts.values()))
        table.show_footer = bool(self._ended)
        return table


def _length(event: AnswerFinished) -> str:
    cut = ", cut off" if event.finish_reason == "length" else ""
    return f"{event.tokens} tokens, {event.tokens_per_second:.0f}/s{cut}"
