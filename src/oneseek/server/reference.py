"""The server as data: docs/api.md is made of it."""

from __future__ import annotations

import asyncio
import inspect
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from oneseek import errors as tree
from oneseek.config.reference import filled
from oneseek.errors import OneSeekError
from oneseek.events import wire
from oneseek.files.layout import Home
from oneseek.names import size
from oneseek.preflight.finding import PreflightError
from oneseek.runs.queue import Supervisor
from oneseek.server import bodies, live, socket
from oneseek.server.access import SOCKET, scope_of
from oneseek.server.app import LARGEST_UPLOAD, create_app
from oneseek.server.errors import STATUSES
from oneseek.server.guard import Names
from oneseek.server.live import Live
from oneseek.server.serve import CONNECTIONS
from oneseek.server.tasks import Tasks
from oneseek.state import access as state
from oneseek.state.access import Access
from oneseek.state.database import Database
from oneseek.state.queue import Queue

_PORT = 3001


def page(written: str) -> str:
    """`written` with what is generated in it as the code has it now.

    Raises:
        ValueError: a marker is missing.
    """
    openapi = document()
    parts = {"routes": routes(openapi), "events": events(), "errors": errors(openapi), "limits": limits()}
    for name, text in parts.items():
        written = filled(written, name, text)
    return written


def document() -> dict[str, Any]:
    """The OpenAPI document, as a server of an empty home answers it."""
    with (
        TemporaryDirectory() as root,
        closing(Database.open(Path(root) / "oneseek.db")) as database,
        ThreadPoolExecutor(1) as work,
        closing(Tasks()) as tasks,
    ):
        home = Home(Path(root), Path(root) / "models")
        runs = Supervisor(home, Queue(database), environment={}, devices=("cpu",), work=work)
        access = Access(database)
        app = create_app(
            runs,
            access,
            Live(runs.find),
            home=home,
            environment={},
            work=work,
            names=Names.of(_PORT),
            doing=tasks,
        )
        _, token = access.create_token("reference", "read")
        return asyncio.run(_asked(app, token))


async def _asked(app: Any, token: str) -> dict[str, Any]:
    from httpx2 import ASGITransport, AsyncClient

    headers = {"Authorization": f"Bearer {token}"}
    where = f"http://127.0.0.1:{_PORT}"
    async with AsyncClient(transport=ASGITransport(app), base_url=where, headers=headers) as client:
        answer = await client.get("/openapi.json")
        described: dict[str, Any] = answer.raise_for_status().json()
        return described


def routes(openapi: dict[str, Any]) -> str:
    """Every route with who may ask it, what it does and what it answers; errors that all have are left out."""
    rows = ["| route | scope | what it does | answers |", "|---|---|---|---|"]
    for path, methods in openapi["paths"].items():
        for method, described in methods.items():
            asked = [each["name"] for each in described.get("parameters", ()) if each["in"] == "query"]
            query = f"?{'&'.join(f'{name}=' for name in asked)}" if asked else ""
            answered = [code for code in described["responses"] if int(code) not in bodies.EVERYWHERE]
            scope = scope_of(method.upper(), path) or "none"
            words = _words(described.get("description", ""))
            rows.append(f"| `{method.upper()} {path}{query}` | {scope} | {words} | {', '.join(sorted(answered))} |")
    query = "&".join(f"{field.alias or name}=" for name, field in socket.AskedOverSocket.model_fields.items())
    scope = scope_of(SOCKET, "/ws/training") or "none"
    words = "Everything that happens in a run, each event a message."
    return "\n".join([*rows, f"| `WS /ws/training?{query}` | {scope} | {words} | 101, 404 |"])


def events() -> str:
    """Every event on the wire, with the record of the journal that it tells of and what that means."""
    rows = ["| `type` | record | meaning |", "|---|---|---|"]
    rows += [
        f"| `{kind}` | `{event.__name__}` | {_words(inspect.getdoc(event) or '')} |" for kind, event in wire.kinds()
    ]
    return "\n".join(rows)


def errors(openapi: dict[str, Any]) -> str:
    """Every status of an error with what it means, and the codes of our own errors that are answered with it."""
    meanings = {
        int(code): answer["description"]
        for methods in openapi["paths"].values()
        for described in methods.values()
        for code, answer in described["responses"].items()
        if int(code) >= 400
    }
    codes: dict[int, list[str]] = defaultdict(list)
    for kind in (*vars(tree).values(), PreflightError):
        if isinstance(kind, type) and issubclass(kind, OneSeekError):
            status = next(STATUSES[each] for each in kind.__mro__ if each in STATUSES)
            codes[status].append(f"`{kind.__name__}`")
    meanings |= {405: "Not by this method", 500: "The server failed; its log says why"}
    rows = ["| status | meaning | `code` |", "|---|---|---|"]
    for code, meaning in sorted(meanings.items()):
        rows.append(f"| {code} | {meaning} | {', '.join([*codes[code], f'`{_phrase(code)}`'])} |")
    return "\n".join(rows)


def limits() -> str:
    """What is too much, too long or too often."""
    pace = live.AS_USUAL
    rows = {
        "a JSON body": f"{size(bodies.LARGEST_BODY)}, within {bodies.PATIENCE:.0f} s",
        "a dataset": f"{size(LARGEST_UPLOAD)}; `--upload-limit` says otherwise",
        "connections at once": f"{CONNECTIONS:,}",
        "a viewer that takes nothing": f"{pace.patience:.0f} s, then closed with 1013",
        "what a viewer says": f"{socket.LONGEST_SAID:,} characters, {socket.MOST_SAID} messages a minute",
        "between two heartbeats": f"{pace.heartbeat:.0f} s without an event",
        "a passphrase": f"at least {state.SHORTEST_PASSPHRASE} characters",
        "wrong passphrases": f"{state.FREE_TRIES}, then a wait that doubles up to {state.LONGEST_WAIT:.0f} s",
        "a session": f"{state.SESSION_LASTS.days} days, "
        f"or {state.SESSION_IDLES.total_seconds() / 3600:.0f} hours without a request",
        "a one-time link": f"once, within {state.LINK_LASTS.total_seconds() / 3600:.0f} hours",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {what} | {most} |" for what, most in rows.items())])


def _words(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _phrase(code: int) -> str:
    return HTTPStatus(code).phrase.replace(" ", "")
