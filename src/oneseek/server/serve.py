"""`oneseek serve`: everything that the server needs, opened, served and closed again."""

from __future__ import annotations

import gc
import os
import shlex
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from oneseek.errors import ConfigError
from oneseek.files.layout import Home
from oneseek.runs.devices import devices as devices_there
from oneseek.runs.queue import Supervisor
from oneseek.server import log, training
from oneseek.server.app import LARGEST_UPLOAD, create_app, end
from oneseek.server.guard import Names
from oneseek.server.listening import address, configured, listening, only_service, run, tls_of
from oneseek.server.live import Live
from oneseek.server.tasks import Tasks
from oneseek.server.uploads import sweep
from oneseek.server.work import Work
from oneseek.state.access import Access
from oneseek.state.database import Database
from oneseek.state.queue import Queue

CONNECTIONS = 4000
"""At once: a thousand who watch must fit beside everything else that is asked."""

_ANYWHERE = ("0.0.0.0", "::")
_FIRST = """

It has no administrator yet. Open this link, which is good once, for a day, and choose a passphrase:

  {url}/setup#link={link}

or choose one without a browser:

  curl -X POST {url}/api/setup -H 'Content-Type: application/json' \\
       -d '{{"link": "{link}", "passphrase": "..."}}'
"""


def serve(
    home: Home,
    host: str = "127.0.0.1",
    port: int = 3001,
    *,
    certfile: Path | None = None,
    keyfile: Path | None = None,
    behind_proxy: bool = False,
    public_url: str = "",
    allowed_hosts: Sequence[str] = (),
    devices: Sequence[str] = (),
    largest_upload: int = LARGEST_UPLOAD,
    log_level: str = "info",
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Serve a home until SIGINT or SIGTERM; runs go on without it. From the main thread only.

    port: 0 takes a free one. behind_proxy: a proxy in front of it speaks TLS, at `public_url`. allowed_hosts: other
    names that it is asked for by. devices: those that runs may train on, as cpu or cuda:0; all unless given.
    largest_upload: in bytes. environment: what the server and its runs read of it.

    Raises:
        ConfigError: there is no such home; other machines could reach it without TLS, or by no name that it knows; the
            certificate can't be used; the address can't be listened at; the home is served already; there is no such
            device.
        StorageError: the database can't be used.
    """
    # Absolute: what is said of a place is compared with it, to tell none of this machine.
    home = Home(home.root.absolute(), home.models.absolute(), home.cache and home.cache.absolute())
    tls = tls_of(certfile, keyfile)
    named = _named(host, allowed_hosts, public_url, behind_proxy=behind_proxy)
    with ExitStack() as opened:
        listener = opened.enter_context(listening(host, port, protected=tls is not None or behind_proxy))
        names = Names.of(listener.getsockname()[1], tls=tls is not None, public_url=public_url, allowed=named)
        if not home.root.is_dir():
            raise ConfigError(
                f"There is no directory {home.root} to serve.",
                f"Name one with --home; for a new home make it first: mkdir -p {shlex.quote(str(home.root))}",
            )
        opened.enter_context(only_service(home.database))
        sweep(home)
        database = opened.enter_context(closing(Database.open(home.database)))
        work = Work()
        opened.callback(work.shutdown, cancel_futures=True)
        held = dict(environment)
        runs = Supervisor(home, Queue(database), environment=held, devices=_devices(devices, held), work=work)
        live, access, doing = Live(runs.find), Access(database), Tasks()
        app = create_app(
            runs,
            access,
            live,
            home=home,
            environment=held,
            work=work,
            names=names,
            doing=doing,
            largest_upload=largest_upload,
        )
        work.submit(training.warmed, held, home, runs.devices)
        config = configured(app, tls, connections=CONNECTIONS, with_sockets=True)
        log.begin(log_level, held)
        said = _greeting(address(listener, tls=tls is not None), public_url.rstrip("/"), access)
        _spare_collections()
        run(config, listener, said, lambda: end(live, doing))


def _spare_collections() -> None:
    """What stands by now stays, so the garbage collector need not look at it again: with a thousand who watch, one look
    at everything stopped the event loop for half a second (docs/decisions/2026-11-21-server.md)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 100)


def _named(host: str, allowed: Sequence[str], public_url: str, *, behind_proxy: bool) -> list[str]:
    """By which names others ask for a server, besides the public one."""
    if behind_proxy and not public_url:
        raise ConfigError(
            "Behind a proxy, browsers ask for OneSeek by another address than its own.",
            "Give that address too: --behind-proxy --public-url https://NAME",
        )
    if host not in _ANYWHERE:
        return [*allowed, f"[{host}]" if ":" in host else host]
    if not allowed and not public_url:
        raise ConfigError(
            f"At {host} OneSeek can be asked for by many names, and answers to none that it wasn't told.",
            "Say by which: --allowed-host NAME, as often as there are names.",
        )
    return [*allowed]


def _devices(asked: Sequence[str], environment: Mapping[str, str]) -> tuple[str, ...]:
    there = devices_there(environment)
    for device in asked:
        if device not in ("cpu", *there):
            raise ConfigError(f"There is no device {device!r} here.", f"There is: {', '.join(there)}.")
    return tuple(dict.fromkeys(asked)) or there


def _greeting(own_url: str, public_url: str, access: Access) -> str:
    """Where the server is; and as long as it has no administrator, how to become it."""
    url = public_url or own_url
    served = f"OneSeek is served at {url}" + (f", by a proxy in front of {own_url}" if public_url else "")
    return served if access.set_up else served + _FIRST.format(url=url, link=access.new_link())
