"""`oneseek admin`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click
import msgspec
from rich import box
from rich.table import Table
from rich.text import Text

from oneseek.api import home
from oneseek.cli import options
from oneseek.cli.output import terminal, visible, write_json
from oneseek.errors import AccessRefused

if TYPE_CHECKING:  # SQLAlchemy is imported where the database is opened
    from oneseek.state.access import Access, Scope

LINK = """\
{path}

Open it at your server's address, as http://127.0.0.1:3001{path}
or set the passphrase without a browser:

  curl -X POST http://127.0.0.1:3001/api/setup -H 'Content-Type: application/json' \\
       -d '{{"link": "{link}", "passphrase": "..."}}'

It is good once, for a day. Links made before are void.
"""


@click.group()
def admin() -> None:
    """Say who may use the server of this home.

    It need not run meanwhile; where it does, everything is heeded at once.

    \b
    oneseek admin link                                  a one-time link: set the passphrase, or a lost one anew
    oneseek admin token create nightly --scope run      let a program in
    oneseek admin sessions list                         who has logged in
    """


@admin.command(params=[*options.places(), *options.as_json()])
def link(root: Path | None, models_dir: Path | None, as_json: bool) -> None:
    """Make a one-time link that sets the administrator's passphrase.

    Whoever has it can become the administrator. Where a passphrase was set and lost, the new one ends every session;
    tokens remain.

    \b
    oneseek admin link
    """
    with _access(root, models_dir, made=True) as access:
        secret = access.new_link()
    path = f"/setup#link={secret}"  # what stands behind the # is sent to no server, so to no log
    if as_json:
        write_json({"path": path, "link": secret})
        return
    click.echo(LINK.format(path=path, link=secret), nl=False)


# -- tokens --------------------------------------------------------------------------------------------------------


@admin.group()
def token() -> None:
    """Tokens, by which programs use the server."""


@token.command(params=[*options.places(), *options.as_json()])
@click.argument("name")
@click.option("--scope", type=click.Choice(["read", "run", "admin"]), required=True, help="What it may do.")
@click.option("--days", type=int, metavar="N", help="How long it is good; for ever unless given.")
def create(name: str, scope: str, days: int | None, root: Path | None, models_dir: Path | None, as_json: bool) -> None:
    """Make a token and print it, this once: only its hash is kept.

    `read` sees everything but who has access, `run` also starts, stops and deletes, `admin` also gives access.

    \b
    export ONESEEK_TOKEN=$(oneseek admin token create nightly --scope run --days 90)
    curl -H "Authorization: Bearer $ONESEEK_TOKEN" http://127.0.0.1:3001/api/runs
    """
    with _access(root, models_dir, made=True) as access:
        made, secret = access.create_token(name, cast("Scope", scope), days)
    if as_json:
        write_json({**msgspec.to_builtins(made), "secret": secret})
        return
    click.echo(f"Token {made.id}. Keep it now: it is not shown again.", err=True)
    click.echo(secret)


@token.command("list", params=[*options.places(), *options.as_json()])
def list_tokens(root: Path | None, models_dir: Path | None, as_json: bool) -> None:
    """Every token that was not revoked, the newest first."""
    with _access(root, models_dir) as access:
        tokens = access.tokens()
    if as_json:
        write_json({"tokens": tokens})
        return
    if not tokens:
        click.echo("No tokens. Make one: oneseek admin token create NAME --scope read|run|admin")
        return
    _show(
        ("id", "name", "scope", "created", "expires", "last used"),
        (
            (each.id, each.name, each.scope, _time(each.created_at), _time(each.expires_at), _time(each.last_used_at))
            for each in tokens
        ),
    )


@token.command(params=[*options.places(), *options.as_json()])
@click.argument("token_id", metavar="ID")
def revoke(token_id: str, root: Path | None, models_dir: Path | None, as_json: bool) -> None:
    """Let a token be good for nothing any more.

    ID is what `oneseek admin token list` shows.
    """
    with _access(root, models_dir) as access:
        access.revoke_token(token_id)
    if as_json:
        write_json({"revoked": token_id})
        return
    click.echo(f"Token {token_id} is revoked.")


# -- sessions ------------------------------------------------------------------------------------------------------


@admin.group()
def sessions() -> None:
    """Sessions of those who gave the passphrase."""


@sessions.command("list", params=[*options.places(), *options.as_json()])
def list_sessions(root: Path | None, models_dir: Path | None, as_json: bool) -> None:
    """Every session that goes on, the newest first."""
    with _access(root, models_dir) as access:
        found = access.sessions()
    if as_json:
        write_json({"sessions": found})
        return
    if not found:
        click.echo("Nobody is logged in.")
        return
    _show(
        ("id", "program", "began", "last used", "ends"),
        (
            (each.id, each.agent, _time(each.created_at), _time(each.last_used_at), _time(each.expires_at))
            for each in found
        ),
    )


@sessions.command(params=[*options.places(), *options.as_json()])
@click.argument("session_id", metavar="ID")
def end(session_id: str, root: Path | None, models_dir: Path | None, as_json: bool) -> None:
    """End a session: who has it must log in again.

    ID is what `oneseek admin sessions list` shows.
    """
    with _access(root, models_dir) as access:
        access.end_session(session_id)
    if as_json:
        write_json({"ended": session_id})
        return
    click.echo(f"Session {session_id} is ended.")


@contextmanager
def _access(root: Path | None, models_dir: Path | None, *, made: bool = False) -> Iterator[Access]:
    """What the home's database says of access; `made`: it is made where there is none."""
    from oneseek.state.access import Access
    from oneseek.state.database import Database

    path = home(root, models_dir).database
    if not made and not path.exists():
        raise AccessRefused(
            f"{path} is not there: no server has run in this home.", "Name the home of the server with --home DIR."
        )
    with closing(Database.open(path)) as database:
        yield Access(database)


def _show(columns: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in row))
    terminal().print(table)


def _time(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%MZ}" if moment else ""
