"""How runs of the old system look, and what an import has to say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
from rich.text import Text

from oneseek.cli.output import visible
from oneseek.files.layout import Home, Results
from oneseek.names import FAMILY
from oneseek.runs.importing import Imported
from oneseek.runs.old import OldRun

WIDEST = 300  # characters of a value on the page


def named(*lines: str) -> Text:
    """A run's cell: its name, and below it what else there is to know of it; a DNA without the family's name."""
    name, *more = [visible(line.removeprefix(f"{FAMILY}.")) for line in lines if line]
    return Text(name).append("".join(f"\n{line}" for line in more), style="dim")


def row(old: OldRun) -> list[Text]:
    """Its line in the listing of runs."""
    was = f"was {old.old_name}" if old.old_name else ""
    models = visible(", ".join(old.base_models) or old.problem or "")
    return [named(old.name, was, old.version), Text(old.status), Text(), Text(models), Text()]


def page(old: OldRun) -> Iterator[Text]:
    """One old run: what each of its files says, and why none of it can be verified."""
    yield Text(visible(f"{old.name} is {old.status}: {old.path}"), style="bold")
    yield Text(visible(old.reason))
    if old.old_name:
        yield Text(visible(f"Before it was imported its name was {old.old_name}."))
    for file, document in old.documents.items():
        yield Text(file, style="bold")
        for field, value in document.items():
            text = json.dumps(value, ensure_ascii=False)
            yield Text(visible(f"  {field}: {text if len(text) <= WIDEST else f'{text[:WIDEST]} …'}"))
    if old.problem:
        yield Text(visible(f"✗ {old.problem}"), style="red")
    for path in old.other_files:
        yield Text(visible(f"  {path}"), style="dim")


def outcome(done: Imported, home: Home) -> Iterator[Text]:
    """What became of everything that was found."""
    for run in done.runs:
        was = f" (was {run.source.name})" if run.name != run.source.name else ""
        style = "red" if run.outcome == "refused" else "green"
        why = f": {run.problem}" if run.problem else ""
        yield Text(visible(f"{'✗' if why else '✓'} {run.name}{was} {_WORDS[run.outcome]}{why}"), style=style)
    if done.left:
        yield Text("Not copied; these stay where they are:")
        yield from (Text(visible(f"  {path}"), style="dim") for path in done.left)
    ours = [run.name for run in done.runs if run.verifiable and run.outcome != "refused"]
    for name in ours:
        place = Results(home.models).run(name).root
        yield Text(visible(f"Check whose it is: oneseek verify {place} --home {home.root} --key KEYS"))
    if ours:
        yield Text("KEYS are the public keys of whoever trained it, as `oneseek ledger key` prints them there.")


def wire(done: Imported) -> dict[str, Any]:
    """The same for programs."""
    body: dict[str, Any] = msgspec.to_builtins(done, enc_hook=str)
    return body


_WORDS = {"imported": "is imported", "here already": "is here already", "refused": "is refused"}
