"""`oneseek admin` as a person or a program meets it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import click
import pytest

from oneseek.cli import LazyGroup, main
from oneseek.state.access import Access
from oneseek.state.database import Database
from support.state import database

PASSPHRASE = "eight horses in the rain"


class Said:
    """What a command printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err
        self.text = " ".join((out + err).split())

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Say = Callable[..., Said]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def say(home: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Say:
    """Run `oneseek admin …` in the home."""
    monkeypatch.setenv("ONESEEK_HOME", str(home))

    def run(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["oneseek", "admin", *arguments])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capfdbinary.readouterr()
        return Said(code, out.decode(), err.decode())

    return run


@contextmanager
def serving(home: Path) -> Iterator[Access]:
    """What the server of the home asks."""
    with closing(database(home / "oneseek.db")) as opened:
        yield Access(opened)


def test_the_link_that_is_printed_sets_the_passphrase(say: Say, home: Path) -> None:
    said = say("link")

    path = said.out.splitlines()[0]
    assert (said.code, path.partition("=")[0]) == (0, "/setup#link")
    assert f"http://127.0.0.1:3001{path}" in said.out
    with serving(home) as access:
        access.administer(path.partition("=")[2], PASSPHRASE, "test")
        assert access.set_up


def test_the_curl_line_sends_what_the_server_takes(say: Say) -> None:
    said = say("link")

    words = shlex.split(said.out[said.out.index("curl") : said.out.index("It is good once")])
    assert words[:4] == ["curl", "-X", "POST", "http://127.0.0.1:3001/api/setup"]
    body = json.loads(words[words.index("-d") + 1])
    assert f"/setup#link={body['link']}" == said.out.splitlines()[0]
    assert set(body) == {"link", "passphrase"}


def test_a_program_gets_the_link_as_json(say: Say) -> None:
    told = say("link", "--json").json

    assert told["path"] == f"/setup#link={told['link']}"


def test_a_link_made_beside_the_server_voids_the_one_before(say: Say, home: Path) -> None:
    with serving(home) as access:
        access.administer(access.new_link(), "the lost passphrase", "test")

        link = say("link", "--json").json["link"]
        access.administer(link, PASSPHRASE, "test")

        assert access.log_in(PASSPHRASE, "test")


def test_a_token_is_printed_alone_so_that_a_shell_can_keep_it(say: Say, home: Path) -> None:
    said = say("token", "create", "nightly", "--scope", "run", "--days", "90")

    assert said.code == 0
    assert "Keep it now" in said.err
    (secret,) = said.out.splitlines()
    with serving(home) as access:
        identity = access.of_token(secret)
    assert identity is not None
    assert (identity.name, identity.scope) == ("nightly", "run")


def test_the_secret_of_a_token_is_shown_once(say: Say) -> None:
    made = say("token", "create", "nightly", "--scope", "run", "--json").json

    listed = say("token", "list", "--json")

    secret = made.pop("secret")
    assert listed.json == {"tokens": [made]}
    assert secret not in listed.out + say("token", "list").text


def test_tokens_are_listed_with_what_they_may(say: Say) -> None:
    say("token", "create", "nightly", "--scope", "run")
    say("token", "create", "[red]dashboard", "--scope", "read", "--days", "1")

    said = say("token", "list")

    assert said.code == 0
    assert [line.split()[1:3] for line in said.out.splitlines() if ":" in line] == [
        ["[red]dashboard", "read"],
        ["nightly", "run"],
    ]


def test_a_revoked_token_opens_nothing(say: Say, home: Path) -> None:
    with serving(home) as access:
        token, secret = access.create_token("nightly", "run")
        assert access.of_token(secret) is not None

        said = say("token", "revoke", token.id)

        assert (said.code, said.out) == (0, f"Token {token.id} is revoked.\n")
        assert access.of_token(secret) is None


def test_sessions_are_listed_and_ended(say: Say, home: Path) -> None:
    with serving(home) as access:
        secret = access.administer(access.new_link(), PASSPHRASE, "Firefox 145\x1b[2J")

        listed, told = say("sessions", "list"), say("sessions", "list", "--json").json
        (session,) = told["sessions"]
        ended = say("sessions", "end", session["id"], "--json")

        assert session["id"] in listed.text
        assert "Firefox 145\ufffd[2J" in listed.text
        assert ended.json == {"ended": session["id"]}
        assert access.of_session(secret) is None


def test_where_there_is_nothing_to_list_it_says_so(say: Say, home: Path) -> None:
    with serving(home):
        assert "oneseek admin token create NAME" in say("token", "list").out
        assert say("sessions", "list").out == "Nobody is logged in.\n"
        assert say("sessions", "list", "--json").json == {"sessions": []}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("token", "revoke", "nonsense"), "no token 'nonsense'"),
        (("sessions", "end", "nonsense"), "no session 'nonsense'"),
        (("token", "create", " ", "--scope", "run"), "' ' is no name for a token"),
        (("token", "create", "nightly", "--scope", "run", "--days", "0"), "good for 0 days"),
        (("token", "create", "nightly"), "Missing option '--scope'"),
        (("token", "create", "nightly", "--scope", "root"), "'root' is not one of"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_can_not_be_done_is_refused_in_words(say: Say, home: Path, arguments: tuple[str, ...], words: str) -> None:
    with serving(home) as access:
        said = say(*arguments)

        assert (said.code, said.out) == (2, "")
        assert words in said.text
        assert "Traceback" not in said.text
        assert access.tokens() == ()


@pytest.mark.parametrize("arguments", [("token", "list"), ("token", "revoke", "1"), ("sessions", "list")], ids=" ".join)
def test_where_no_server_has_run_looking_makes_no_database(say: Say, home: Path, arguments: tuple[str, ...]) -> None:
    said = say(*arguments)

    assert said.code == 2
    assert f"{home / 'oneseek.db'} is not there" in said.text
    assert not home.exists()


def test_a_file_that_is_no_database_is_a_failure_in_words(say: Say, home: Path) -> None:
    home.mkdir()
    (home / "oneseek.db").write_bytes(b"something else" * 1000)
    (home / "oneseek.db").chmod(0o600)

    said = say("token", "list", "--json")

    assert said.code == 1
    assert said.json["error"]["code"] == "StorageError"


def test_the_help_of_oneseek_says_what_the_command_says_of_itself() -> None:
    group = LazyGroup()

    command = group.get_command(click.Context(group), "admin")

    assert command is not None
    assert (command.help or "").startswith(LazyGroup.commands_by_name["admin"][1])


def test_help_does_not_import_the_database() -> None:
    code = "import sys, runpy\ntry:\n runpy.run_module('oneseek', run_name='__main__', alter_sys=True)\nfinally:\n"
    code += " print({'sqlalchemy', 'alembic', 'argon2', 'fastapi', 'torch'} & set(sys.modules))"

    done = subprocess.run(
        [sys.executable, "-c", code, "admin", "token", "create", "--help"],
        capture_output=True,
        text=True,
        env=dict(os.environ),
        check=False,
    )

    assert done.stdout.splitlines()[-1] == "set()", done.stderr


def test_the_database_that_it_makes_is_one_that_the_server_opens(say: Say, home: Path) -> None:
    say("token", "create", "nightly", "--scope", "run")

    with closing(Database.open(home / "oneseek.db")) as opened:
        assert [token.name for token in Access(opened).tokens()] == ["nightly"]
