"""`oneseek serve`: how it begins, who may reach it, what it says and logs, how it ends."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from email.message import Message
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import click
import pytest
import websocket
from click.testing import CliRunner

from oneseek.cli import oneseek
from oneseek.cli.serve import in_bytes
from oneseek.errors import ConfigError, StorageError
from oneseek.files.layout import Home
from oneseek.server import app
from oneseek.server import serve as served
from oneseek.server.serve import serve
from support.ledger_service import allow_loopback, self_signed
from support.runs import Town

JSON = {"Content-Type": "application/json"}
PASSPHRASE = "planted passphrase"
PLANTED = "planted-token-0123456789"


class Answer(NamedTuple):
    status: int
    headers: Message
    body: bytes


class Server:
    """A process of `oneseek serve`, and what it has said."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.process = process
        self.greeting = process.stdout.readline().strip()
        self.logged: list[dict[str, Any]] = []
        self.written = ""

    @property
    def address(self) -> str:
        return self.greeting.split()[-1]

    @property
    def link(self) -> str:
        """The secret of the one-time link, which is read from what was printed."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.fullmatch(r"  https?://\S+/setup#link=(\S+)\n", line):
                return found[1]
        raise AssertionError("no link was printed")

    def ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] = {}) -> Answer:
        with closing(HTTPConnection(urlsplit(self.address).netloc, timeout=20)) as connection:
            connection.request(method, path, json.dumps(body) if body is not None else None, {**JSON, **headers})
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        out, err = self.process.communicate(timeout=30)
        self.written = out + err
        self.logged = [json.loads(line) for line in err.splitlines()]
        return self.process.returncode


@contextmanager
def server(home: Path, *options: str) -> Iterator[Server]:
    allow_loopback()
    home.mkdir(exist_ok=True)
    with subprocess.Popen(
        [sys.executable, "-m", "oneseek", "serve", "--port", "0", "--home", str(home), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "LEDGER_TOKEN": PLANTED},
    ) as process:
        try:
            yield Server(process)
        finally:
            process.kill()


# -- beginning and ending ----------------------------------------------------------------------------------------------


def test_whoever_has_the_printed_link_becomes_the_administrator_and_no_secret_is_logged(tmp_path: Path) -> None:
    with server(tmp_path / "home", "--log-level", "debug") as first:
        link = first.link
        wrong = first.ask("POST", "/api/setup", {"link": link[:-1], "passphrase": PASSPHRASE})
        setup = first.ask("POST", "/api/setup", {"link": link, "passphrase": PASSPHRASE})
        cookie = setup.headers["Set-Cookie"].partition(";")[0]
        asked = {"Cookie": cookie, "Origin": first.address}
        made = first.ask("POST", "/api/tokens", {"name": "a program", "scope": "read"}, asked)
        token = json.loads(made.body)["secret"]
        bearer = {"Authorization": f"Bearer {token}"}
        runs = first.ask("GET", f"/api/runs?token={token}", headers=bearer)
        nobody = first.ask("GET", f"/api/runs?token={token}")
        code = first.end()
    with server(tmp_path / "home") as second:
        session = json.loads(second.ask("GET", "/api/session").body)
        second.end(signal.SIGINT)

    assert (wrong.status, setup.status, made.status, runs.status, nobody.status) == (403, 204, 201, 200, 401)
    assert (code, second.process.returncode) == (0, 0)
    assert session["set_up"]
    assert "link" not in second.written
    requests = [each for each in first.logged if each["logger"] == "oneseek.access"]
    assert [each["status"] for each in requests] == [403, 204, 201, 200, 401]
    secrets = (link, PASSPHRASE, token, PLANTED, cookie.partition("=")[2])
    assert [each for each in secrets if each in json.dumps(first.logged)] == []


def test_a_home_is_served_once_at_a_time_and_free_when_the_server_was_killed(tmp_path: Path) -> None:
    with server(tmp_path / "home") as first:
        with server(tmp_path / "home") as second:
            _, refused = second.process.communicate(timeout=20)
        first.process.kill()
        first.process.wait()
    with server(tmp_path / "home") as third:
        health = third.ask("GET", "/healthz").status

    assert second.process.returncode == 2
    assert "oneseek.db is being served by another process" in " ".join(refused.split())
    assert health == 200


def test_when_it_ends_who_watches_is_told_and_the_run_is_left_as_it_is(town: Town) -> None:
    with town.submit() as run:
        run_id, journal = run.directory.run_id, run.directory.journal
    before = journal.read_bytes()
    with server(town.root) as watched:
        setup = watched.ask("POST", "/api/setup", {"link": watched.link, "passphrase": PASSPHRASE})
        cookie = setup.headers["Set-Cookie"].partition(";")[0]
        netloc = urlsplit(watched.address).netloc
        viewer = websocket.create_connection(
            f"ws://{netloc}/ws/training?runId={run_id}", timeout=20, cookie=cookie, origin=watched.address
        )
        first = json.loads(viewer.recv())
        listener = HTTPConnection(netloc, timeout=20)
        listener.request("GET", f"/api/training/{run_id}/events?after=0", headers={"Cookie": cookie})
        stream = listener.getresponse()
        begun = stream.readline()
        viewers = watched.ask("GET", "/metrics", headers={"Cookie": cookie}).body.decode()
        code = watched.end()
        while (frame := viewer.recv_data())[0] != websocket.ABNF.OPCODE_CLOSE:
            continue
        rest = stream.read()
        listener.close()
        viewer.shutdown()  # type: ignore[no-untyped-call]

    assert (first["type"], first["run_id"], begun) == ("initial_state", run_id, b"retry: 2000\n")
    assert "oneseek_viewers 2.0" in viewers
    assert int.from_bytes(frame[1][:2]) == 1012
    assert rest.endswith(b"\n\n")
    assert code == 0
    assert [each for each in watched.logged if each["level"] not in ("info", "debug")] == []
    assert journal.read_bytes() == before


def test_with_a_certificate_it_speaks_tls_alone(tmp_path: Path) -> None:
    allow_loopback()
    certificate, key = self_signed(tmp_path)
    with server(tmp_path / "home", "--certfile", str(certificate), "--keyfile", str(key)) as safe:
        trusting = ssl.create_default_context(cafile=str(certificate))
        connection = HTTPSConnection(urlsplit(safe.address).netloc, timeout=20, context=trusting)
        body = json.dumps({"link": safe.link, "passphrase": PASSPHRASE})
        connection.request("POST", "/api/setup", body, JSON)
        answer = connection.getresponse()
        connection.close()

    assert safe.address.startswith("https://127.0.0.1:")
    assert answer.status == 204
    assert answer.headers["Set-Cookie"].startswith("__Host-oneseek=")
    assert answer.headers["Strict-Transport-Security"]


def test_behind_a_proxy_it_is_asked_for_by_its_public_name(tmp_path: Path) -> None:
    names = ("oneseek.example.org", "evil.example")
    with server(tmp_path / "home", "--behind-proxy", "--public-url", "https://oneseek.example.org/") as proxied:
        statuses = [proxied.ask("GET", "/healthz", headers={"Host": name}).status for name in names]
        assert proxied.process.stdout is not None
        assert any("https://oneseek.example.org/setup#link=" in line for line in proxied.process.stdout)

    said = f"OneSeek is served at https://oneseek.example.org, by a proxy in front of {proxied.address}"
    assert proxied.greeting == said
    assert statuses == [200, 421]


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7"])
def test_an_address_that_others_reach_needs_tls_or_a_proxy(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError) as refused:
        serve(Home(tmp_path / "home", tmp_path / "models"), host, 0, allowed_hosts=["oneseek.example.org"])

    assert host in refused.value.problem
    assert "--certfile" in refused.value.fix
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        ({"behind_proxy": True}, "--public-url"),
        ({"host": "0.0.0.0"}, "--allowed-host"),
        ({"behind_proxy": True, "public_url": "http://oneseek.example.org"}, "https://NAME"),
        ({"allowed_hosts": ["https://oneseek.example.org"]}, "NAME:PORT"),
        ({"certfile": Path("certificate.pem")}, "--keyfile"),
    ],
    ids=["proxy without address", "no name", "proxy without TLS", "no host", "half a certificate"],
)
def test_a_server_that_nobody_could_ask_is_refused(tmp_path: Path, options: dict[str, Any], fix: str) -> None:
    allow_loopback()

    with pytest.raises(ConfigError) as refused:
        serve(Home(tmp_path / "home", tmp_path / "models"), port=0, **options)

    assert fix in refused.value.fix
    assert not (tmp_path / "home").exists()


def test_a_home_that_is_not_there_is_refused_rather_than_made(tmp_path: Path) -> None:
    allow_loopback()

    with pytest.raises(ConfigError, match="no directory") as refused:
        serve(Home(tmp_path / "hmoe", tmp_path / "models"), port=0, environment={})

    assert "mkdir -p" in refused.value.fix
    assert not (tmp_path / "hmoe").exists()


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    allow_loopback()

    (tmp_path / "home").mkdir()
    with pytest.raises(ConfigError, match="cuda:77"):
        serve(Home(tmp_path / "home", tmp_path / "models"), port=0, devices=["cpu", "cuda:77"], environment={})


def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    allow_loopback()
    home = Home(tmp_path / "home", tmp_path / "models")
    home.root.mkdir()
    home.database.write_bytes(b"no database at all" * 100)
    home.database.chmod(0o600)

    with pytest.raises(StorageError, match=re.escape(str(home.database))):
        serve(home, port=0)


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [("20GB", 20 * 10**9), ("1.5 tb", 1_500_000_000_000), ("500000", 500_000), ("2kB", 2000), ("7 B", 7), ("0", 0)],
)
def test_sizes_are_written_as_people_do(text: str, size: int) -> None:
    assert in_bytes(click.Context(oneseek), click.Option(["--upload-limit"]), text) == size


@pytest.mark.parametrize("text", ["", "much", "-1GB", "20 GiB", "1,5GB", "1e9", "٣GB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    result = CliRunner().invoke(oneseek, ["serve", "--upload-limit", text])

    assert result.exit_code == 2
    assert "20GB" in result.output


def test_every_option_reaches_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(served, "serve", lambda *arguments, **options: given.update(options, arguments=arguments))
    line = f"serve --home {tmp_path} --host ::1 --port 0 --behind-proxy --public-url https://a.example --allowed-host b"
    more = "--allowed-host c --devices cuda:0,cpu --upload-limit 1MB --log-level error"

    CliRunner().invoke(oneseek, f"{line} {more}".split(), catch_exceptions=False)

    home, *place = given.pop("arguments")
    assert (home.root, place) == (tmp_path, ["::1", 0])
    assert given == {
        "certfile": None,
        "keyfile": None,
        "behind_proxy": True,
        "public_url": "https://a.example",
        "allowed_hosts": ("b", "c"),
        "devices": ("cuda:0", "cpu"),
        "largest_upload": 10**6,
        "log_level": "error",
    }


def test_help_does_not_wait_for_the_server_to_be_imported() -> None:
    code = "import sys, oneseek.cli.serve; print([each for each in ('fastapi', 'sqlalchemy') if each in sys.modules])"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# -- the queue ---------------------------------------------------------------------------------------------------------


class Stuck:
    """Runs whose queue can't be read for the first turns."""

    def __init__(self) -> None:
        self.turns = 0

    def turn(self) -> None:
        self.turns += 1
        if self.turns < 4:
            raise StorageError("The disk reported an error.", "Check it.")


def test_what_keeps_the_queue_from_moving_is_logged_once_and_it_moves_on_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(app, "_TURN", 0.01)
    runs = Stuck()

    async def turns() -> None:
        ending = asyncio.Event()
        turning = asyncio.create_task(app._take_turns(runs, ending))  # type: ignore[arg-type]
        while runs.turns < 6:
            await asyncio.sleep(0.01)
        ending.set()
        await turning

    with caplog.at_level(logging.ERROR, "oneseek.server"):
        asyncio.run(turns())

    assert [(record.getMessage(), str(record.exc_info and record.exc_info[1])) for record in caplog.records] == [
        ("the queue stands still", "The disk reported an error. Check it.")
    ]
