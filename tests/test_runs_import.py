"""`oneseek runs import`: what comes along, what stays where it is, and that nothing here is ever overwritten."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from oneseek import runs
from oneseek.cli import main
from oneseek.errors import RunError, StorageError
from oneseek.files.layout import Home, Results, RunDirectory
from oneseek.runs.importing import Imported, import_runs
from oneseek.runs.old import MAX_DOCUMENT, find_old, old_runs
from support.certified import edit
from support.old_system import BOTH_MODELS, CERTIFIED, COLONS, FIRST_MODEL, KEY, ONE_DOT, TWO_DOTS, OldSystem
from support.runs import Town, everything

HERE = "run-20231122-143025"


@pytest.fixture
def old(tmp_path: Path) -> OldSystem:
    """An installation with two metadata files of one version, a certified directory with colons, and weights."""
    old = OldSystem(tmp_path / "CivicAI")
    old.metadata(TWO_DOTS, FIRST_MODEL)
    old.metadata(ONE_DOT, BOTH_MODELS)
    old.metadata("oneseek-7b-zero-v1.0-mistral.pth", "a pickle")
    old.metadata("adapter_model.bin", "another", old.family / "lora_adapters" / "mistral-adapter")
    old.run(COLONS)
    old.metadata("checkpoint.pkl", "a third", old.runs / COLONS)
    return old


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "new", tmp_path / "new" / "models")


def outcomes(done: Imported) -> dict[str, str]:
    return {run.name: run.outcome for run in done.runs}


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("place", [".", "models"])
def test_an_installation_is_brought_in_documents_only(old: OldSystem, home: Home, place: str) -> None:
    before = files(old.root)

    done = import_runs(old.root / place, home)

    assert outcomes(done) == {TWO_DOTS: "imported", ONE_DOT: "imported", HERE: "imported"}
    assert {path.name for path in done.left} == {
        "oneseek-7b-zero-v1.0-mistral.pth",
        "mistral-adapter",
        "checkpoint.pkl",
    }
    brought = files(home.models)
    assert {name for name in brought if not name.endswith(".lock")} == {
        f"oneseek-7b-zero/weights/{TWO_DOTS}",
        f"oneseek-7b-zero/weights/{ONE_DOT}",
        *(f"oneseek-certified/{HERE}/{name}" for name in (*CERTIFIED, "imported.json")),
    }
    assert brought[f"oneseek-7b-zero/weights/{TWO_DOTS}"] == (old.weights / TWO_DOTS).read_bytes()
    assert files(old.root) == before
    assert not [name for name in everything(home.root) if ":" in name]


def test_the_name_from_before_is_kept_and_found(old: OldSystem, home: Home) -> None:
    import_runs(old.runs / COLONS, home)

    (found,) = old_runs(home)

    assert (found.name, found.old_name, found.base_models) == (HERE, COLONS, (KEY,))
    assert found.documents == CERTIFIED
    assert find_old(COLONS, home) == find_old(HERE, home) == found


def test_what_is_imported_can_be_imported_from_there_again(old: OldSystem, home: Home, tmp_path: Path) -> None:
    third = Home(tmp_path / "third", tmp_path / "third" / "models")
    import_runs(old.root, home)

    import_runs(home.root, third)

    assert [(run.name, run.old_name) for run in old_runs(third)] == [(run.name, run.old_name) for run in old_runs(home)]


def test_a_second_import_finds_everything_here_already(old: OldSystem, home: Home) -> None:
    import_runs(old.root, home)
    before = files(home.root)

    done = import_runs(old.root, home)

    assert set(outcomes(done).values()) == {"here already"}
    assert files(home.root) == before


@pytest.mark.parametrize("changed", ["metadata", "document", "document more"])
def test_another_one_of_the_same_name_is_refused_and_the_rest_comes(old: OldSystem, home: Home, changed: str) -> None:
    import_runs(old.root, home)
    if changed == "metadata":
        old.metadata(ONE_DOT, FIRST_MODEL)
    elif changed == "document":
        old.run(COLONS, {"oneseek_dna.json": {"dna": "another"}})
    else:
        (home.models / "oneseek-certified" / HERE / "live_metrics.json").unlink()
    old.metadata("oneseek-7b-zero-v1.1.json", FIRST_MODEL)
    before = files(home.root)

    done = import_runs(old.root, home)

    refused = {run.source.name: run.problem for run in done.runs if run.outcome == "refused"}
    assert set(refused) == {ONE_DOT if changed == "metadata" else COLONS}
    assert "is here already, and is another" in str(refused)
    after = files(home.root)
    assert after.pop("models/oneseek-7b-zero/weights/oneseek-7b-zero-v1.1.json")
    assert after == before


def test_two_spellings_of_one_time_are_not_mixed(old: OldSystem, home: Home) -> None:
    old.run(HERE, {"oneseek_dna.json": {"dna": "another"}})

    done = import_runs(old.root, home)

    assert sorted(run.outcome for run in done.runs if HERE in run.name or COLONS in run.name) == ["imported", "refused"]
    assert len(old_runs(home)) == 3


def _link(old: OldSystem) -> None:
    (old.weights / ONE_DOT).rename(old.root / "elsewhere.json")
    (old.weights / ONE_DOT).symlink_to(old.root / "elsewhere.json")


def _document_link(old: OldSystem) -> None:
    (old.runs / COLONS / "oneseek_dna.json").unlink()
    (old.runs / COLONS / "oneseek_dna.json").symlink_to("/etc/hostname")


def _pipe(old: OldSystem) -> None:
    (old.runs / COLONS / "oneseek_dna.json").unlink()
    os.mkfifo(old.runs / COLONS / "oneseek_dna.json")


def _huge(old: OldSystem) -> None:
    old.metadata(ONE_DOT, " " * (MAX_DOCUMENT + 1))


def _pickle(old: OldSystem) -> None:
    (old.weights / ONE_DOT).write_bytes(b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00\x8c\x01x\x94.")


def _torn(old: OldSystem) -> None:
    old.metadata("live_metrics.json", '{"val_losses": {', old.runs / COLONS)


def _no_time(old: OldSystem) -> None:
    (old.runs / COLONS).rename(old.runs / "run-of-tuesday")


@pytest.mark.parametrize(
    "spoil", [_link, _document_link, _pipe, _huge, _pickle, _torn, _no_time], ids=lambda spoil: spoil.__name__[1:]
)
def test_what_is_no_document_is_refused_and_the_rest_comes(old: OldSystem, home: Home, spoil: Any) -> None:
    spoil(old)

    done = import_runs(old.root, home)

    (refused,) = [run for run in done.runs if run.outcome == "refused"]
    assert refused.problem
    assert [run.outcome for run in done.runs].count("imported") == 2
    assert not [
        path for path in home.models.rglob("*") if path.is_symlink() or path.suffix not in ("", ".json", ".lock")
    ]


def test_a_version_that_a_run_is_taking_is_left_to_it(old: OldSystem, town: Town) -> None:
    with town.submit(training__num_epochs=1) as run:
        during = import_runs(old.weights / ONE_DOT, town.home)
        runs.train(run)

    assert outcomes(during) == {ONE_DOT: "refused"}
    assert "A run here is taking version 1.0." in str(during.runs[0].problem)
    assert json.loads(town.results.metadata("1.0").read_text())["run_id"] == run.state.run_id
    assert "is another" in str(import_runs(old.weights / ONE_DOT, town.home).runs[0].problem)


def test_the_next_run_takes_the_version_after_the_imported_ones(old: OldSystem, town: Town) -> None:
    import_runs(old.root, town.home)

    with town.submit(training__num_epochs=1) as run:
        assert run.state.accepted.version == "1.1"


@pytest.mark.parametrize("place", ["nowhere", "empty", "notes.json"])
def test_a_place_without_runs_is_refused_and_nothing_is_made(tmp_path: Path, home: Home, place: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.json").write_text("{}")

    with pytest.raises(RunError, match="nothing of a run"):
        import_runs(tmp_path / place, home)

    assert not home.root.exists()


def test_this_home_is_not_imported_into_itself(old: OldSystem) -> None:
    with pytest.raises(RunError, match="is in this home already"):
        import_runs(old.root, Home(old.root, old.root / "models"))


# Certified runs of this release.


@pytest.fixture(scope="module")
def certified_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one certified run, made once."""
    town = Town(tmp_path_factory.mktemp("certified"))
    town.add_model("alfa-1b")
    town.dataset.write_text("".join(json.dumps({"text": f"Row {number}."}) + "\n" for number in range(20)))
    assert runs.complete(town.submit(training__num_epochs=1), town.home, {}).status == "certified"
    return town.root


@pytest.fixture
def certified(certified_home: Path, town: Town) -> RunDirectory:
    """A certified run in the town."""
    shutil.copytree(certified_home, town.root, symlinks=True, dirs_exist_ok=True)
    return RunDirectory(next(town.results.runs.glob("run-*")))


@pytest.mark.parametrize("renamed", [False, True])
def test_a_certified_run_comes_whole_under_its_own_id(
    certified: RunDirectory, home: Home, tmp_path: Path, renamed: bool
) -> None:
    copied = tmp_path / "stick" / ("a copy" if renamed else certified.run_id)
    shutil.copytree(certified.root, copied)

    done = import_runs(copied, home)

    assert outcomes(done) == {certified.run_id: "imported"}
    assert done.runs[0].verifiable
    assert files(Results(home.models).run(certified.run_id).root) == files(certified.root)
    assert [run.status for run in runs.list_runs(home)] == ["certified"]
    assert outcomes(import_runs(copied, home)) == {certified.run_id: "here already"}


def test_a_whole_home_brings_its_runs_and_leaves_the_copies_of_their_weights(
    certified: RunDirectory, home: Home, town: Town
) -> None:
    done = import_runs(town.root, home)

    assert outcomes(done) == {certified.run_id: "imported"}
    assert town.results.weights_file("1.0", "alfa-1b") in done.left
    assert old_runs(home) == []


def test_metadata_alone_of_a_run_of_this_release_is_refused(certified: RunDirectory, home: Home, town: Town) -> None:
    done = import_runs(town.results.metadata("1.0"), home)

    assert f"belongs to {certified.run_id}" in str(done.runs[0].problem)


def test_a_run_with_other_bytes_under_an_id_that_is_here_is_refused(
    certified: RunDirectory, home: Home, town: Town
) -> None:
    import_runs(certified.root, home)
    here = Results(home.models).run(certified.run_id)
    here.live_metrics.write_bytes(here.live_metrics.read_bytes() + b" ")
    before = files(home.root)

    done = import_runs(certified.root, home)

    assert "is here already, and is another" in str(done.runs[0].problem)
    assert files(home.root) == before


@pytest.mark.parametrize("name", ["weights.pth", "adapters/extra.safetensors", "run.sh", "work/state.pt"])
def test_a_file_that_belongs_to_no_run_keeps_it_out(certified: RunDirectory, home: Home, name: str) -> None:
    stranger = certified.root / name
    stranger.parent.mkdir(exist_ok=True)
    stranger.write_bytes(b"x")

    done = import_runs(certified.root, home)

    assert outcomes(done) == {certified.run_id: "refused"}
    assert runs.list_runs(home) == []


def test_a_link_in_a_certified_run_keeps_it_out(certified: RunDirectory, home: Home, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    certified.live_metrics.rename(secret)
    certified.live_metrics.symlink_to(secret)

    done = import_runs(certified.root, home)

    assert "is a link" in str(done.runs[0].problem)
    assert runs.list_runs(home) == []


def test_a_run_that_is_not_certified_is_refused(town: Town, home: Home) -> None:
    directory, _ = town.train(training__num_epochs=1)

    done = import_runs(directory.root, home)

    assert "is completed, not certified" in str(done.runs[0].problem)
    assert runs.list_runs(home) == []


def test_a_damaged_run_is_refused_with_the_damage(certified: RunDirectory, home: Home) -> None:
    lines = certified.journal.read_bytes().splitlines(keepends=True)
    certified.journal.write_bytes(b"".join([*lines[:2], b"{}\n", *lines[3:]]))

    done = import_runs(certified.root, home)

    assert "is damaged, not certified" in str(done.runs[0].problem)


def _flip_a_weight(run: RunDirectory) -> None:
    weights = run.adapter("alfa-1b") / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)


def _better_results(run: RunDirectory) -> None:
    edit(run.training_results, "metrics.alfa-1b.val_loss", 0.01)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_flip_a_weight, "check 3 (digests): adapters/alfa-1b/adapter_model.safetensors"),
        (_better_results, "check 3 (digests): training_results.json"),
    ],
    ids=lambda each: getattr(each, "__name__", "")[1:],
)
def test_a_run_that_is_not_what_was_certified_is_refused_with_the_first_failed_check(
    certified: RunDirectory, home: Home, spoil: Any, words: str
) -> None:
    spoil(certified)

    done = import_runs(certified.root, home)

    assert outcomes(done) == {certified.run_id: "refused"}
    assert words in str(done.runs[0].problem)
    assert runs.list_runs(home) == []
    assert [path for path in everything(home.root) if "importing" in path] == []


# Broken off.


def test_a_full_disk_leaves_what_came_before_and_nothing_half_written(
    old: OldSystem, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", full)
        with pytest.raises(StorageError, match="no space is left"):
            import_runs(old.root, home)

    assert {run.name for run in old_runs(home)} == {ONE_DOT, TWO_DOTS}
    assert outcomes(import_runs(old.root, home))[HERE] == "imported"


KILLED = """
import sys
from pathlib import Path
from oneseek.files.layout import Home
from oneseek.runs.importing import import_runs
print("ready", flush=True)
sys.stdin.readline()
import_runs(Path(sys.argv[1]), Home(Path(sys.argv[2]), Path(sys.argv[2], "models")))
"""


def test_killed_at_any_instant_every_run_is_whole_or_not_there(old: OldSystem, tmp_path: Path) -> None:
    for second in range(20):
        old.run(f"run-20231122-1431{second:02}")
    for attempt, delay in enumerate((0.002, 0.006, 0.015)):
        home = Home(tmp_path / f"home{attempt}", tmp_path / f"home{attempt}" / "models")
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(old.root), str(home.root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        child.stdin.write(b"\n")
        child.stdin.flush()
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)
        child.communicate()

        found = old_runs(home)

        assert [run.problem for run in found] == [None] * len(found)
        assert {frozenset(run.documents) for run in found if run.name.startswith("run-")} <= {frozenset(CERTIFIED)}
        assert set(outcomes(import_runs(old.root, home)).values()) <= {"imported", "here already"}
        assert len(old_runs(home)) == 23


# The command.


@pytest.fixture
def say(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run `oneseek …`; its exit code, and what it printed."""

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["oneseek", *arguments])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capfdbinary.readouterr()
        return code, (out + err).decode()

    return run


def test_the_command_says_what_came_and_what_stayed(say: Any, old: OldSystem, home: Home) -> None:
    code, said = say("runs", "import", str(old.root), "--home", str(home.root))

    assert code == 0
    assert f"✓ {HERE} (was {COLONS}) is imported" in said
    assert "stay where they are" in said
    assert str(old.weights / "oneseek-7b-zero-v1.0-mistral.pth") in said


def test_the_command_exits_with_1_where_something_was_refused(say: Any, old: OldSystem, home: Home) -> None:
    _torn(old)

    code, said = say("runs", "import", str(old.root), "--home", str(home.root), "--json")

    assert code == 1
    assert [run["outcome"] for run in json.loads(said)["runs"]] == ["imported", "imported", "refused"]
    assert all(set(run) == {"source", "name", "outcome", "verifiable", "problem"} for run in json.loads(said)["runs"])


def test_a_certified_run_comes_with_the_hint_to_verify_it(say: Any, certified: RunDirectory, home: Home) -> None:
    code, said = say("runs", "import", str(certified.root), "--home", str(home.root))

    assert code == 0
    here = Results(home.models).run(certified.run_id).root
    assert f"oneseek verify {here} --home {home.root} --key KEYS" in said
    assert "oneseek ledger key" in said


def test_nothing_to_import_exits_with_2(say: Any, tmp_path: Path, home: Home) -> None:
    assert say("runs", "import", str(tmp_path), "--home", str(home.root))[0] == 2


def test_old_runs_are_listed_below_ours(say: Any, old: OldSystem, town: Town, certified: RunDirectory) -> None:
    import_runs(old.root, town.home)
    where = ("--home", str(town.root))

    listed = json.loads(say("runs", "list", "--json", *where)[1])["runs"]
    shown = json.loads(say("runs", "show", COLONS, "--json", *where)[1])
    table, page = say("runs", "list", *where)[1], say("runs", "show", TWO_DOTS, *where)[1]

    assert [(run["run_id"], run["verifiable"]) for run in listed] == [
        (certified.run_id, True),
        (TWO_DOTS, False),
        (HERE, False),
    ]
    assert listed[0]["dna"].startswith("OneSeek-7B-Zero.v1.0.")
    assert listed[0]["dna"].removeprefix("OneSeek-7B-Zero.") in table
    assert (shown["status"], shown["base_models"], shown["documents"]) == ("not verifiable", [KEY], CERTIFIED)
    assert table.count("not verifiable") == 2
    assert "neither a journal nor a signature" in page
    assert "mistral-7b-instruct" in page


def test_what_a_file_says_commands_no_terminal(say: Any, old: OldSystem) -> None:
    old.metadata(ONE_DOT, {"version": "\x1b[2J", "baseModels": ["\x1b]0;x\x07"], "\x1b[31m": "\x1b[0m"})
    old.run("run-\x1b[31m")

    for command in (("runs", "list"), ("runs", "show", ONE_DOT), ("runs", "show", "run-\x1b[31m")):
        assert "\x1b" not in say(*command, "--home", str(old.root))[1]


def test_a_run_whose_dna_is_broken_is_still_listed(say: Any, certified: RunDirectory, town: Town) -> None:
    certified.dna.write_text("{")

    (run,) = json.loads(say("runs", "list", "--json", "--home", str(town.root))[1])["runs"]

    assert certified.dna.name in run["problem"]
