"""`oneseek ledger`."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from oneseek import runs
from oneseek.api import home
from oneseek.certificate.keys import signer_key
from oneseek.certificate.signature import public_pem
from oneseek.cli import options
from oneseek.cli.old_page import named
from oneseek.cli.output import terminal, visible, write_json
from oneseek.errors import Failed, OneSeekError, RunError
from oneseek.files.layout import Home, RunDirectory
from oneseek.ledger import checkpoint, proof
from oneseek.ledger.audit import audit
from oneseek.ledger.entry import Entry, entry_of
from oneseek.ledger.locate import open_ledger, read_ledger
from oneseek.ledger.log import Log
from oneseek.names import is_run_id
from oneseek.runs import Certified
from oneseek.runs.kept import kept as kept_by_runs

SHOWN = 20  # entries, unless asked for more
AT_ONCE = 1000  # entries that are read in one go
SHORT = 16  # hex digits of a hash, for people
OTHERS = 68  # characters that the table of entries needs besides the models, which fold first
LEAST = 8  # characters for the models, however narrow the terminal is

KEYS = """\
# Public keys to pin, each for what it signs. Keep them where nobody can exchange them:
#   oneseek verify RUN --key FILE
#
# The signer of runs:
{signer}
# The ledger {origin}, which enters them:
{verifier}
"""


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
    with _reading(at) as log:
        if which is not None:
            _show_one(log, _index(log, which, at), as_json=as_json)
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
    directories = [runs.find(name, at) for name in which]
    if not which:
        directories = [RunDirectory(run.directory) for run in runs.list_runs(at) if run.status == "completed"]
    submitted = []
    for directory in directories:
        submitted.append(_certify(directory, at))
        if not as_json:
            _show_submitted(submitted[-1], directory, at)
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
    with _reading(at) as log, Console(stderr=True).status("Auditing: every entry is read and hashed …"):
        kept = kept_by_runs(at, log.key)
        found = audit(log, kept.checkpoints)
    if as_json:
        write_json({"ok": True, **msgspec.to_builtins(found)})
        return
    click.echo(
        f"Every entry was read. Checkpoints compared: {found.checkpoints:,} of its own, {found.kept:,} kept by runs."
    )
    if kept.elsewhere:
        click.echo(f"Not compared, being in another ledger: {', '.join(kept.elsewhere)}")
    click.echo(visible(f"✓ {found.origin}: {_entries(found.entries)}, root {_short(found.root)}"))


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
    signer = public_pem(signer_key(at, os.environ).public_key())
    with closing(open_ledger(at, os.environ)) as log:
        verifier = log.key
    if made := [str(path) for path in missing if path.exists()]:
        click.echo(f"There was none, so a new private key was made: {', '.join(made)}", err=True)
    if as_json:
        write_json({"signer": signer, "ledger": str(verifier), "origin": verifier.name})
        return
    click.echo(KEYS.format(signer=signer, verifier=verifier, origin=verifier.name), nl=False)


# -- in words and tables -------------------------------------------------------------------------------------------


def _show_newest(log: Log, limit: int, *, as_json: bool) -> None:
    now = checkpoint.read(log.checkpoint(), log.key)
    start = max(0, now.size - limit)
    found = [(index, entry_of(data)) for index, data in enumerate(log.entries(start, now.size), start)][::-1]
    if as_json:
        entries = [_described(index, entry) for index, entry in found]
        write_json({"origin": now.origin, "size": now.size, "root": now.root.hex(), "entries": entries})
        return
    console = terminal()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("entry", justify="right", overflow="fold")
    for column in ("time", "run"):
        table.add_column(column, overflow="fold")
    table.add_column("models", overflow="fold", max_width=max(LEAST, console.width - OTHERS))
    for index, entry in found:
        time, models = entry.timestamp[:19].replace("T", " "), ", ".join(entry.base_models)
        table.add_row(str(index), Text(visible(time)), named(entry.run_id, entry.dna), Text(visible(models)))
    console.print(Text(visible(f"{now.origin}: {_entries(now.size)}, root {_short(now.root.hex())}")), soft_wrap=True)
    if found:
        console.print(table)


def _show_one(log: Log, index: int, *, as_json: bool) -> None:
    logged = log.prove(index)
    at = proof.check(logged.proof, logged.entry, log.key)
    entry = entry_of(logged.entry)
    if as_json:
        proved = {"leaf": logged.entry.decode(), "proof": logged.proof.text, "verifier_key": str(log.key)}
        write_json({**_described(index, entry), **proved})
        return
    console = terminal()
    console.print(
        Text(visible(f"Entry {index} of {at.origin}, which has {_entries(at.size)}"), style="bold"), soft_wrap=True
    )
    for name, value in _facts(entry):
        console.print(Text(f"  {name:10}", style="dim") + Text(visible(value)), soft_wrap=True)
    console.print("Its proof, which was checked:")
    console.print(Text(visible(logged.proof.text)), soft_wrap=True)


def _facts(entry: Entry) -> Iterator[tuple[str, str]]:
    yield "event", entry.event
    yield "time", entry.timestamp
    yield "run", entry.run_id
    yield "DNA", entry.dna
    yield "models", ", ".join(entry.base_models)
    yield "weights", ", ".join(f"{key} {weight:g}" for key, weight in entry.final_weights.items())
    yield "manifest", entry.manifest_sha256


def _described(index: int, entry: Entry) -> dict[str, Any]:
    """An entry for programs."""
    return {"index": index, **msgspec.to_builtins(entry)}


def _show_submitted(submitted: Certified, directory: RunDirectory, at: Home) -> None:
    if submitted.already:
        where = f"{os.path.relpath(directory.root)} --home {at.root}"
        click.echo(f"✓ {submitted.run_id} is in the ledger already; check it: oneseek verify {visible(where)}")
    elif submitted.problem is None:
        click.echo(f"✓ {submitted.run_id} is certified")
    else:
        click.echo(f"✗ {submitted.run_id} is not certified: {visible(f'{submitted.problem} {submitted.fix}'.rstrip())}")


def _entries(count: int) -> str:
    return "1 entry" if count == 1 else f"{count:,} entries"


def _short(digest: str) -> str:
    return f"{digest[:SHORT]}…"


# -- what it needs -------------------------------------------------------------------------------------------------


@contextmanager
def _reading(at: Home) -> Iterator[Log]:
    """The ledger that is meant.

    Raises:
        RunError: none was begun yet.
    """
    log = read_ledger(at, os.environ)
    if log is None:
        raise RunError(f"There is no ledger in {at.root} yet.", "It begins with the first run: oneseek train")
    with closing(log):
        yield log


def _index(log: Log, which: str, at: Home) -> int:
    """The number of the entry that is meant.

    Raises:
        RunError: no entry, or more than one, is of the run that is named; or there is no such number.
    """
    size = checkpoint.read(log.checkpoint(), log.key).size
    if re.fullmatch(r"[0-9]{1,18}", which):
        if int(which) >= size:
            last = f"the last is {size - 1}" if size else "it begins with the first run"
            raise RunError(
                f"There is no entry {which}: the ledger has {_entries(size)}, {last}.",
                "oneseek ledger show lists them.",
            )
        return int(which)
    run_id = which if is_run_id(which) else _run_at(which, at)
    said = f'"run_id":"{run_id}"'.encode()  # as RFC 8785 spells it: reading each entry whole would take far longer
    found = [
        index
        for start in range(0, size, AT_ONCE)
        for index, data in enumerate(log.entries(start, min(size, start + AT_ONCE)), start)
        if said in data and entry_of(data).run_id == run_id
    ]
    if len(found) == 1:
        return found[0]
    if found:
        numbers = ", ".join(map(str, found))
        raise RunError(
            f"The ledger has more than one {run_id}: entries {numbers}.", f"Name one: oneseek ledger show {found[-1]}"
        )
    raise RunError(f"{run_id} is not in the ledger.", f"Enter it with: oneseek ledger submit {which}")


def _run_at(which: str, at: Home) -> str:
    """The id of the run in a directory, which may be a copy of any name.

    Raises:
        RunError: there is none, or its journal can't be read.
    """
    known = runs.describe(runs.find(which, at))
    if known.state is None:
        raise RunError(
            f"{which} does not say which run it is: {known.problem or 'the run was never accepted.'}",
            "Name the run by its id, or the entry by its number.",
        )
    return known.state.run_id


def _certify(directory: RunDirectory, at: Home) -> Certified:
    """What keeps one run from being certified must not keep the others."""
    try:
        return runs.certify(directory, at)
    except OneSeekError as error:
        return Certified(run_id=directory.run_id, problem=error.problem, fix=error.fix)
