"""`oneseek ledger`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from oneseek import runs
from oneseek.api import home
from oneseek.cli import options
from oneseek.cli.old_page import named
from oneseek.cli.output import terminal, visible, write_json
from oneseek.errors import Failed
from oneseek.files.layout import Home, RunDirectory
from oneseek.ledger.entry import Entry
from oneseek.ledger.log import Log
from oneseek.runs import Certified
from oneseek.runs import ledger as ledgers

SHOWN = 20  # entries, unless asked for more
SHORT = 16  # hex digits of a hash, for people
OTHERS = 68  # characters that the table of entries needs besides the models, which fold first
LEAST = 8  # characters for the models, however narrow the terminal is


@click.group()
def ledger() -> None:
    """The log of completed runs: append-only, signed, provable.

    Each home keeps its own in ledger.db. Where LEDGER_URL names a service, all of these ask that instead.

    \b
    oneseek ledger show                 the newest entries
    oneseek ledger audit                nothing was changed, removed or put in between
    oneseek ledger submit               enter runs that could not be entered when they were complete
    oneseek ledger key > keys.txt       what others pin: oneseek verify RUN --key keys.txt
    """


@ledger.command(params=options.places())
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free one.")
@click.option(
    "--origin", metavar="NAME", help="The log's name for ever, as ledger.example.org; one is made up unless given."
)
@click.option("--certfile", type=click.Path(path_type=Path), help="TLS certificate, with its chain, in PEM.")
@click.option("--keyfile", type=click.Path(path_type=Path), help="TLS private key, in PEM.")
@click.option("--behind-proxy", is_flag=True, help="A proxy in front of it speaks TLS.")
def serve(
    root: Path | None,
    models_dir: Path | None,
    host: str,
    port: int,
    origin: str | None,
    certfile: Path | None,
    keyfile: Path | None,
    behind_proxy: bool,
) -> None:
    """Serve the ledger of this home to other machines.

    Anybody who reaches it may read; who appends must know LEDGER_TOKEN, which is taken from the environment only. An
    address that other machines can reach needs TLS, by --certfile and --keyfile or by a proxy.

    \b
    export LEDGER_TOKEN=$(openssl rand -hex 32)
    oneseek ledger serve --home /srv/ledger --origin ledger.example.org

    On the machines that train:

    \b
    export LEDGER_URL=https://ledger.example.org LEDGER_TOKEN=...
    oneseek train ...
    """
    from oneseek.ledger.keys import log_key
    from oneseek.ledger.store import Store
    from oneseek.server.ledger import serve as answer  # FastAPI is imported where something is served

    at = home(root, models_dir)
    answer(
        lambda: Store.open(at.ledger, log_key(at, origin), at.last_checkpoint),
        os.environ.get("LEDGER_TOKEN", ""),
        host,
        port,
        certfile,
        keyfile,
        behind_proxy,
        at.ledger,
    )


@ledger.command(params=[*options.places(), *options.as_json()])
@click.argument("which", required=False, metavar="[RUN|INDEX]")
@click.option("--limit", type=click.IntRange(min=1), default=SHOWN, show_default=True, help="Entries, newest first.")
def show(which: str | None, limit: int, root: Path | None, models_dir: Path | None, as_json: bool) -> None:
    """Show the newest entries, or one with its proof.

    RUN is a run's id or directory, INDEX the number of an entry, from 0.

    \b
    oneseek ledger show
    oneseek ledger show run-20251122-143025
    oneseek ledger show 0 --json
    """
    at = home(root, models_dir)
    with ledgers.reading(at) as log:
        if which is not None:
            _show_one(ledgers.prove(log, ledgers.index_of(log, which, at)), as_json=as_json)
        else:
            _show_newest(log, limit, as_json=as_json)


@ledger.command(params=[*options.places(), *options.as_json()])
@click.argument("which", nargs=-1, metavar="[RUN...]")
def submit(which: tuple[str, ...], root: Path | None, models_dir: Path | None, as_json: bool) -> None:
    """Enter completed runs that are not certified yet.

    Every completed run of the home that is not certified, or those that are named by id or directory. Doing it again
    does no harm: what is in the ledger is not entered twice. Exit code 1 where one of them is still not certified.

    \b
    oneseek ledger submit
    oneseek ledger submit run-20251122-143025
    """
    at = home(root, models_dir)
    submitted = []
    for directory, certified in ledgers.submit(at, which):
        submitted.append(certified)
        if not as_json:
            _show_submitted(certified, directory, at)
    if as_json:
        write_json({"runs": [{**msgspec.to_builtins(each), "certified": each.problem is None} for each in submitted]})
    elif not submitted and not runs.list_runs(at):
        click.echo(f"No runs in {at.models}.")
    elif not submitted:
        click.echo("There is nothing to submit: every completed run is certified.")
    if any(each.problem for each in submitted):
        sys.exit(Failed.exit_code)


@ledger.command("audit", params=[*options.places(), *options.as_json()])
def audit_log(root: Path | None, models_dir: Path | None, as_json: bool) -> None:
    """Check that nothing in the ledger was changed.

    Every entry is read and hashed, the tree is built from nothing and compared with what the ledger signed, and with
    the checkpoints that the certified runs of this home keep. Exit code 1 and the first lie where there is one.

    \b
    oneseek ledger audit
    LEDGER_URL=https://ledger.example.org oneseek ledger audit
    """
    at = home(root, models_dir)
    with Console(stderr=True).status("Auditing: every entry is read and hashed …"):
        audited = ledgers.audited(at)
    found = audited.audit
    if as_json:
        write_json({"ok": True, **msgspec.to_builtins(found)})
        return
    click.echo(
        f"Every entry was read. Checkpoints compared: {found.checkpoints:,} of its own, {found.kept:,} kept by runs."
    )
    if audited.elsewhere:
        click.echo(f"Not compared, being in another ledger: {', '.join(audited.elsewhere)}")
    click.echo(visible(f"✓ {found.origin}: {ledgers.counted(found.entries)}, root {_short(found.root)}"))


@ledger.command(params=[*options.places(), *options.as_json()])
def key(root: Path | None, models_dir: Path | None, as_json: bool) -> None:
    """Print the public keys that others pin.

    That of the signer of this home's runs, and that of its ledger; they are made when there are none yet. Give the text
    to those who check your runs, by a way on which nobody can exchange it. A home trusts its own keys without.

    \b
    oneseek ledger key > keys.txt
    oneseek verify run-20251122-143025 --key keys.txt
    """
    at = home(root, models_dir)
    missing = [path for path in (at.signer_key, at.log_key) if not os.path.exists(path)]  # noqa: PTH110  raises nothing
    keys = ledgers.public_keys(at)
    if made := [str(path) for path in missing if path.exists()]:
        click.echo(f"There was none, so a new private key was made: {', '.join(made)}", err=True)
    if as_json:
        write_json(msgspec.to_builtins(keys))
        return
    click.echo(keys.text, nl=False)


# -- in words and tables -------------------------------------------------------------------------------------------


def _show_newest(log: Log, limit: int, *, as_json: bool) -> None:
    now, found = ledgers.newest(log, limit)
    if as_json:
        entries = [each.wire() for each in found]
        write_json({"origin": now.origin, "size": now.size, "root": now.root.hex(), "entries": entries})
        return
    console = terminal()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("entry", justify="right", overflow="fold")
    for column in ("time", "run"):
        table.add_column(column, overflow="fold")
    table.add_column("models", overflow="fold", max_width=max(LEAST, console.width - OTHERS))
    for each in found:
        entry = each.entry
        time, models = entry.timestamp[:19].replace("T", " "), ", ".join(entry.base_models)
        table.add_row(str(each.index), Text(visible(time)), named(entry.run_id, entry.dna), Text(visible(models)))
    said = f"{now.origin}: {ledgers.counted(now.size)}, root {_short(now.root.hex())}"
    console.print(Text(visible(said)), soft_wrap=True)
    if found:
        console.print(table)


def _show_one(proved: ledgers.Proved, *, as_json: bool) -> None:
    if as_json:
        write_json(proved.wire())
        return
    console, at = terminal(), proved.at
    said = f"Entry {proved.numbered.index} of {at.origin}, which has {ledgers.counted(at.size)}"
    console.print(Text(visible(said), style="bold"), soft_wrap=True)
    for name, value in _facts(proved.numbered.entry):
        console.print(Text(f"  {name:10}", style="dim") + Text(visible(value)), soft_wrap=True)
    console.print("Its proof, which was checked:")
    console.print(Text(visible(proved.logged.proof.text)), soft_wrap=True)


def _facts(entry: Entry) -> Iterator[tuple[str, str]]:
    yield "event", entry.event
    yield "time", entry.timestamp
    yield "run", entry.run_id
    yield "DNA", entry.dna
    yield "models", ", ".join(entry.base_models)
    yield "weights", ", ".join(f"{key} {weight:g}" for key, weight in entry.final_weights.items())
    yield "manifest", entry.manifest_sha256


def _show_submitted(submitted: Certified, directory: RunDirectory, at: Home) -> None:
    if submitted.already:
        where = f"{os.path.relpath(directory.root)} --home {at.root}"
        click.echo(f"✓ {submitted.run_id} is in the ledger already; check it: oneseek verify {visible(where)}")
    elif submitted.problem is None:
        click.echo(f"✓ {submitted.run_id} is certified")
    else:
        click.echo(f"✗ {submitted.run_id} is not certified: {visible(f'{submitted.problem} {submitted.fix}'.rstrip())}")


def _short(digest: str) -> str:
    return f"{digest[:SHORT]}…"
