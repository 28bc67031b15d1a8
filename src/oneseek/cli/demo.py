"""`oneseek demo`."""

from __future__ import annotations

import time
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from oneseek import runs
from oneseek.cli.output import terminal, visible
from oneseek.cli.watching import watching
from oneseek.config.sources import resolve
from oneseek.demo import make
from oneseek.demo.families import MODELS
from oneseek.files.layout import Home, RunDirectory


@click.command()
@click.option(
    "--home",
    "root",
    type=click.Path(path_type=Path),
    default=Path("oneseek-demo"),
    show_default=True,
    help="Directory for the demo's models, dataset and runs.",
)
def demo(root: Path) -> None:
    """Make three small base models and train them, in a minute.

    The base models are trained from scratch on a bundled text about a town; then a LoRA adapter is trained for each on
    240 bundled chats, side by side. All of it is real, and small.
    """
    began = time.monotonic()
    at = Home(root, root / "models")
    console = terminal()
    console.print("Making three base models of half a million parameters each (kept for the next demo) …")
    make.make_base_models(at, lambda name: console.print(f"  {name}"))
    made = time.monotonic()
    flags = {
        **make.SETTINGS,
        "data.dataset": str(make.write_dataset(at)),
        "model.base_models": [model.directory for model in MODELS],
    }
    resolved = resolve(file=None, environment={}, flags=flags)
    with watching(as_json=False) as watch:
        run = runs.submit(resolved.config, at, problems=resolved.problems, watch=watch)
        result = runs.complete(run, at, environment={})  # the demo's own keys and ledger, whatever else is set up here
    watch.conclude(result, run.state)
    trained = time.monotonic()
    _show_files(console, run.directory.root)
    if result.champion:
        _show_answers(console, run.directory, result.champion)
    console.print(
        f"The demo took {time.monotonic() - began:.0f} s: {made - began:.0f} s to make the base models, "
        f"{trained - made:.0f} s to train the adapters.",
    )
    console.print(f"Check it: oneseek verify {result.run_id} --home {root}", soft_wrap=True)
    console.print(f"Look around: oneseek runs list --home {root}", soft_wrap=True)


def _show_files(console: Console, directory: Path) -> None:
    console.print("Files of the run:")
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            console.print(Text(f"  {path.relative_to(directory)}", style="dim"), soft_wrap=True)


def _show_answers(console: Console, directory: RunDirectory, champion: str) -> None:
    told = runs.generate(directory, [make.HELD_OUT], models=[champion], max_new_tokens=make.MAX_NEW_TOKENS)
    said = {event.variant: visible(event.text) for event in told if isinstance(event, runs.AnswerFinished)}
    console.print(f"A question that is in no row: {make.HELD_OUT}")
    console.print(Text(f"  before (base model):  {_shortened(said['base'])}"), soft_wrap=True)
    console.print(Text(f"  after (with adapter): {_shortened(said['adapter'])}"), soft_wrap=True)


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 160 else f"{line[:159]}…"
