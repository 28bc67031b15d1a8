"""`oneseek ledger` as a person or a program meets it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from click.testing import CliRunner
from rich.console import Console

from oneseek.certificate import ledger_proof
from oneseek.certificate.keys import Pins, pins_in, pins_of
from oneseek.certificate.seal import is_certified
from oneseek.cli import LazyGroup, main, oneseek
from oneseek.cli.output import PIPE_WIDTH
from oneseek.files.layout import Home, Results, RunDirectory
from oneseek.ledger.entry import encode, entry_of, statement_of
from oneseek.ledger.keys import log_key
from oneseek.ledger.proof import check, parse
from oneseek.ledger.store import Store
from support.certified import CertifiedTown, certified
from support.ledger_service import TOKEN, allow_loopback, statement

__all__ = ["certified"]


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
def say(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Say:
    """Run `oneseek ledger …` with tmp_path/home as home."""
    for name in ("LEDGER_URL", "LEDGER_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ONESEEK_HOME", str(tmp_path / "home"))

    def run(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["oneseek", "ledger", *arguments])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capfdbinary.readouterr()
        return Said(code, out.decode(), err.decode())

    return run


@pytest.fixture
def home(certified: CertifiedTown, tmp_path: Path) -> Home:
    """A home with two certified runs in its ledger."""
    root = Path(shutil.copytree(certified.home.root, tmp_path / "home", symlinks=True))
    return Home(root, root / "models")


def directories(home: Home) -> list[RunDirectory]:
    """Its runs, in the order in which they came into the ledger."""
    found = map(RunDirectory, Results(home.models).runs.glob("run-*"))
    return sorted(found, key=lambda run: ledger_proof.parse(run.ledger_proof.read_bytes()).logged.proof.index)


def not_certified(run: RunDirectory) -> RunDirectory:
    """The run as it was before the ledger took it."""
    run.ledger_proof.unlink()
    return run


# -- show ----------------------------------------------------------------------------------------------------------


def test_show_lists_the_newest_entries_first(say: Say, home: Home, certified: CertifiedTown) -> None:
    first, second = directories(home)

    said = say("show")
    limited = say("show", "--limit", "1")

    assert said.code == 0
    assert f"{certified.log_key.name}: 2 entries, root " in said.text
    assert said.text.index(f"{second.run_id} ") < said.text.index(f"{first.run_id} ")
    assert "alfa-1b" in said.text
    assert second.run_id in limited.text
    assert f"{first.run_id} " not in limited.text


def test_show_tells_programs_every_field_and_the_whole_root(say: Say, home: Home) -> None:
    first, second = directories(home)

    told = say("show", "--json").json

    assert told["size"] == 2
    assert re.fullmatch("[0-9a-f]{64}", told["root"])
    assert [(entry["index"], entry["run_id"]) for entry in told["entries"]] == [(1, second.run_id), (0, first.run_id)]
    entry = {name: value for name, value in told["entries"][0].items() if name != "index"}
    assert entry == json.loads(ledger_proof.parse(second.ledger_proof.read_bytes()).logged.entry)


@pytest.mark.parametrize("named", ["index", "id", "path"])
def test_show_of_one_has_every_field_and_a_proof_that_holds(
    say: Say, home: Home, certified: CertifiedTown, named: str
) -> None:
    run = directories(home)[1]
    which = {"index": "1", "id": run.run_id, "path": str(run.root)}[named]

    told = say("show", which, "--json").json
    said = say("show", which)

    at = check(parse(told["proof"]), told["leaf"].encode(), certified.log_key.verifier)
    assert (at.size, told["index"], told["run_id"]) == (2, 1, run.run_id)
    assert told["verifier_key"] == str(certified.log_key.verifier)
    assert told["proof"] in said.out
    entry = entry_of(told["leaf"].encode())
    words = (entry.event, entry.timestamp, entry.run_id, entry.dna, "alfa-1b", "beta-1b", entry.manifest_sha256)
    assert [word for word in words if word not in said.out] == []


@pytest.mark.parametrize(
    ("which", "problem"),
    [
        ("2", "There is no entry 2: the ledger has 2 entries, the last is 1."),
        ("9" * 30, "neither a run id nor"),
        ("run-20991122-143025", "is not in the ledger"),
        ("nothing", "neither a run id nor"),
    ],
    ids=["index", "large", "id", "path"],
)
def test_show_of_what_is_not_there_is_refused(say: Say, home: Home, which: str, problem: str) -> None:
    said = say("show", which)

    assert said.code == 2
    assert problem in said.text
    assert "Fix: " in said.text
    assert "Traceback" not in said.text


@pytest.mark.parametrize("width", [40, 80, 100, 200, None], ids=str)
def test_a_listing_is_whole_at_any_width(
    say: Say, home: Home, monkeypatch: pytest.MonkeyPatch, width: int | None
) -> None:
    first, second = directories(home)
    dna = entry_of(entry_bytes(second)).dna.removeprefix("OneSeek-7B-Zero.")
    if width is not None:
        monkeypatch.setattr("oneseek.cli.ledger.terminal", lambda: Console(highlight=False, width=width))

    said = say("show")

    lines = said.out.splitlines()[1:]
    assert max(map(len, lines)) <= (width or PIPE_WIDTH)
    whole = re.sub(r"\s", "", said.out)
    for word in (first.run_id, second.run_id, dna, "alfa-1b", "beta-1b", "entry", "models"):
        if width is None or width >= 80:
            assert word in said.out
        assert set(word) <= set(whole)
    assert not {"…"} & set("".join(lines))
    if width is None or width >= 80:
        row = next(number for number, line in enumerate(lines) if second.run_id in line)
        assert dna in lines[row + 1]


def test_a_copy_of_any_name_is_shown_by_the_id_in_its_journal(say: Say, home: Home, tmp_path: Path) -> None:
    first, second = directories(home)
    copy = shutil.copytree(second.root, tmp_path / "a copy")
    swapped = shutil.copytree(second.root, tmp_path / first.run_id)

    shown = [say("show", str(path), "--json").json["run_id"] for path in (copy, swapped)]

    assert shown == [second.run_id] * 2


def test_a_directory_that_does_not_say_which_run_it_is_is_refused(say: Say, home: Home) -> None:
    run = directories(home)[0]
    run.journal.write_bytes(b"{}\n" + run.journal.read_bytes())

    said = say("show", str(run.root))

    assert said.code == 2
    assert "does not say which run it is" in said.text


def test_a_run_that_is_there_twice_is_shown_by_number(say: Say, tmp_path: Path) -> None:
    run = "run-20261122-143025"
    entries = [msgspec.structs.replace(statement_of(statement(number)), run_id=run) for number in (1, 2)]
    with closing(own_ledger(tmp_path / "home")) as log:
        log.append([statement(0), *map(encode, entries)])

    said = say("show", run)

    assert said.code == 2
    assert f"more than one {run}: entries 1, 2." in said.text


def test_what_a_ledger_holds_commands_no_terminal(say: Say, tmp_path: Path) -> None:
    hostile = msgspec.structs.replace(statement_of(statement(0)), dna="\x1b[2J\x9b31m", run_id="run\x1b]0;title\x07")
    with closing(own_ledger(tmp_path / "home")) as log:
        log.append([encode(hostile)])

    shown = say("show").out + say("show", "0").out

    assert not {"\x1b", "\x9b", "\x07"} & set(shown)


@pytest.mark.parametrize("command", ["show", "audit"])
def test_a_home_without_a_ledger_has_none_to_read_and_gets_none(say: Say, tmp_path: Path, command: str) -> None:
    said = say(command)

    assert said.code == 2
    assert "There is no ledger in" in said.text
    assert not (tmp_path / "home").exists()


# -- submit --------------------------------------------------------------------------------------------------------


def test_submit_enters_every_completed_run_that_is_not_certified(say: Say, home: Home) -> None:
    first, second = directories(home)
    proof = second.ledger_proof.read_bytes()
    not_certified(second)

    said = say("submit")
    again = say("submit")

    assert (said.code, said.out) == (0, f"✓ {second.run_id} is certified\n")
    assert second.ledger_proof.read_bytes() == proof
    assert (again.code, again.out) == (0, "There is nothing to submit: every completed run is certified.\n")
    assert is_certified(first)


def test_submit_of_a_certified_run_says_that_there_is_nothing_left_to_do(say: Say, home: Home) -> None:
    run = directories(home)[0]

    said = say("submit", run.run_id)

    assert said.code == 0
    assert said.text.startswith(f"✓ {run.run_id} is in the ledger already; check it: oneseek verify ")
    words = shlex.split(said.text.partition("check it: oneseek ")[2])
    checked = CliRunner().invoke(oneseek, words)
    assert (checked.exit_code, "Certified: " in checked.output) == (0, True)


def test_submit_where_there_are_no_runs_says_where_it_looked(say: Say, tmp_path: Path) -> None:
    said = say("submit", "--home", str(tmp_path / "nohome"))

    assert (said.code, said.out) == (0, f"No runs in {tmp_path / 'nohome' / 'models'}.\n")


def test_submit_of_named_runs_leaves_the_others(say: Say, home: Home) -> None:
    first, second = map(not_certified, directories(home))

    told = say("submit", str(first.root), "--json").json

    assert told == {"runs": [{"run_id": first.run_id, "problem": None, "fix": "", "already": False, "certified": True}]}
    assert (is_certified(first), is_certified(second)) == (True, False)


def test_one_run_that_cannot_be_certified_keeps_no_other_from_it(say: Say, home: Home) -> None:
    first, second = map(not_certified, directories(home))
    (second.root / "stranger.txt").write_text("who are you?")

    said = say("submit")
    told = say("submit", "--json")

    assert (said.code, told.code) == (1, 1)
    assert f"✗ {second.run_id} is not certified: " in said.out
    assert "stranger.txt" in said.text
    assert f"✓ {first.run_id} is certified" in said.out
    assert [run["certified"] for run in told.json["runs"]] == [False]
    assert is_certified(first)


def test_submit_to_a_service_that_is_away_says_so_and_fails(
    say: Say, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow_loopback()
    run = not_certified(directories(home)[0])
    monkeypatch.setattr("oneseek.ledger.client.PAUSES", (0.0, 0.0))
    monkeypatch.setenv("LEDGER_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("LEDGER_TOKEN", TOKEN)

    said = say("submit")

    assert said.code == 1
    assert f"✗ {run.run_id} is not certified: The ledger at http://127.0.0.1:1 can't be reached" in said.text
    assert TOKEN not in said.text


# -- audit ---------------------------------------------------------------------------------------------------------


def test_an_audit_says_what_it_compared_and_found(say: Say, home: Home, certified: CertifiedTown) -> None:
    said = say("audit")
    told = say("audit", "--json").json

    assert said.code == 0
    assert "2 kept by runs" in said.text
    assert f"✓ {certified.log_key.name}: 2 entries, root {told['root'][:16]}…" in said.text
    assert (told["ok"], told["entries"], told["kept"]) == (True, 2, 2)


def test_an_entry_that_was_changed_is_named(say: Say, home: Home) -> None:
    with closing(sqlite3.connect(home.ledger)) as database:
        database.execute("DROP TRIGGER entries_UPDATE")
        database.execute("UPDATE entries SET data = replace(data, 'alfa', 'gamma') WHERE idx = 0")
        database.commit()

    said = say("audit")
    told = say("audit", "--json")

    assert (said.code, told.code) == (1, 1)
    assert re.search("Error: .*([Ee]ntry 0|triggers)", said.text)
    assert told.json["error"]["code"] == "LedgerDamaged"


def test_a_ledger_rewritten_with_the_real_key_contradicts_what_runs_keep(say: Say, home: Home) -> None:
    for path in (home.ledger, home.last_checkpoint):
        path.unlink()
    with closing(Store.open(home.ledger, log_key(home), home.last_checkpoint)) as log:
        log.append([statement(0), statement(1)])

    said = say("audit")

    assert said.code == 1
    assert re.search(f"Error: The proof of {directories(home)[0].run_id}: .* another root", said.text)


def test_a_ledger_that_is_gone_is_no_empty_one(say: Say, home: Home) -> None:
    home.ledger.unlink()

    said = say("audit")

    assert said.code == 1
    assert "ledger.db is gone" in said.text


def test_a_proof_that_proves_nothing_is_named_by_its_run(say: Say, home: Home) -> None:
    run = directories(home)[0]
    run.ledger_proof.write_bytes(run.ledger_proof.read_bytes().replace(b"alfa", b"ulfa", 1))

    said = say("audit")

    assert said.code == 1
    assert f"{run.run_id}: ledger_proof.json" in said.text


def test_runs_of_another_ledger_and_of_the_old_system_are_not_compared(say: Say, home: Home) -> None:
    run = directories(home)[0]
    home.keys.rename(home.root / "keys-before")
    home.ledger.rename(home.root / "ledger-before.db")
    old = Results(home.models).runs / "run-20251122-143025"
    old.mkdir()
    (old / "ledger_proof.json").write_text('{"event": "dna_v2_training_completed"}')
    with closing(own_ledger(home.root)) as log:
        log.append([statement(0)])

    said = say("audit")

    assert said.code == 0
    assert "Not compared, being in another ledger" in said.text
    assert run.run_id in said.text
    assert old.name not in said.text


# -- key -----------------------------------------------------------------------------------------------------------


def test_the_keys_that_are_printed_can_be_pinned(say: Say, home: Home, certified: CertifiedTown) -> None:
    said = say("key")
    told = say("key", "--json").json

    pins = pins_in(said.out)
    assert pins == pins_of(certified.home, {})
    assert pins == Pins(frozenset([told["signer"]]), frozenset([told["ledger"]]), bound=frozenset([told["signer"]]))
    assert told["origin"] == certified.log_key.name
    outside = re.sub("(?s)-----BEGIN.*END PUBLIC KEY-----", "", said.out).split("\n")
    assert [line for line in outside if line and not line.startswith("#")] == [told["ledger"]]


def test_keys_are_made_when_there_are_none_and_stay(say: Say, tmp_path: Path) -> None:
    made, there = say("key"), say("key")

    keys = tmp_path / "home" / "keys"
    assert made.out == there.out
    assert "a new private key was made" in made.err
    assert [name for name in ("run-signer.pem", "log.ed25519") if str(keys / name) not in made.err] == []
    assert there.err == ""
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in keys.iterdir() if path.suffix != ".checkpoint"} == {
        "run-signer.pem": "0o600", "log.ed25519": "0o600",
    }  # fmt: skip


# -- serve, and everything against the service ---------------------------------------------------------------------


@pytest.fixture
def service(tmp_path: Path) -> Iterator[str]:
    """The address of `oneseek ledger serve` as a process of its own, over another home."""
    allow_loopback()
    command = [sys.executable, "-m", "oneseek", "ledger", "serve", "--port", "0", "--origin", "ledger.example.org"]
    environment = {**os.environ, "ONESEEK_HOME": str(tmp_path / "service"), "LEDGER_TOKEN": TOKEN}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[-1]
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()


def test_every_command_asks_the_service_that_is_named(
    say: Say, home: Home, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEDGER_URL", service)
    monkeypatch.setenv("LEDGER_TOKEN", TOKEN)
    first, second = directories(home)
    for run in (first, second):
        for path in (run.ledger_proof, run.manifest, run.signature):
            path.unlink()

    submitted, shown, one = say("submit"), say("show", "--json").json, say("show", first.run_id)
    audited, keys = say("audit", "--json").json, say("key")

    assert submitted.code == 0
    assert (shown["origin"], shown["size"]) == ("ledger.example.org", 2)
    assert "ledger.example.org" in one.out
    assert (audited["origin"], audited["entries"], audited["kept"]) == ("ledger.example.org", 2, 2)
    assert pins_in(keys.out).logs <= pins_of(home, {}).logs
    assert TOKEN not in "".join(path.read_text(errors="replace") for path in home.root.rglob("*") if path.is_file())


def test_a_service_without_a_token_is_refused_with_the_command_to_type(say: Say) -> None:
    said = say("serve", "--port", "0")

    assert said.code == 2
    assert "export LEDGER_TOKEN=$(openssl rand -hex 32)" in said.text


def test_a_service_for_other_machines_needs_tls(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    allow_loopback()
    monkeypatch.setenv("LEDGER_TOKEN", TOKEN)

    said = say("serve", "--port", "0", "--host", "0.0.0.0")

    assert said.code == 2
    assert "--certfile" in said.text


def test_the_token_is_no_flag(say: Say) -> None:
    helps = [say(command, "--help").out for command in ("serve", "submit", "show", "audit", "key")]

    assert [text for text in helps if "--token" in text] == []
    assert all("oneseek ledger" in text for text in helps)


@pytest.mark.parametrize("name", ["runs", "verify", "reproduce", "ledger"])
def test_the_help_of_oneseek_says_what_the_command_says_of_itself(name: str) -> None:
    group = LazyGroup()

    command = group.get_command(click.Context(group), name)

    assert command is not None
    assert command.help is not None
    assert " ".join(command.help.split()).startswith(LazyGroup.commands_by_name[name][1])


def entry_bytes(run: RunDirectory) -> bytes:
    return ledger_proof.parse(run.ledger_proof.read_bytes()).logged.entry


def own_ledger(root: Path) -> Store:
    """The ledger of a home, to append to."""
    home = Home(root, root / "models")
    return Store.open(home.ledger, log_key(home), home.last_checkpoint)
