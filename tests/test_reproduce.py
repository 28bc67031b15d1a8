"""Training a run again: the same DNA, or what is otherwise; and a home in which nothing shows of it."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from oneseek import runs
from oneseek.cli.reproduce import concluded
from oneseek.engine import scripted
from oneseek.errors import ConfigError, RunError, StorageError, TrainingFailed
from oneseek.events import EpochCommitted, EpochStarted, ModelPlan, RunAccepted, RunPlanned, WorkerRestarted
from oneseek.events.state import RunState
from oneseek.files.layout import RunDirectory
from oneseek.journal.file import read
from oneseek.journal.record import GENESIS, Record, encode
from oneseek.names import run_id
from oneseek.registry.cache import Repository
from oneseek.runs.reproduce import distances, reproduce
from support.base_models import write_model
from support.runs import Town, adapters, events

ONESEEK = [sys.executable, "-m", "oneseek"]


def contents(root: Path) -> dict[str, bytes | None]:
    """Every path below `root` but the locks of devices, with what it holds."""
    found = {path.relative_to(root): path.read_bytes() if path.is_file() else None for path in root.rglob("*")}
    return {str(path): held for path, held in found.items() if path.parts[0] != "locks"}


def name_of(directory: RunDirectory) -> str:
    return str(json.loads(directory.dna.read_text())["dna"])


def replanned(directory: RunDirectory, change: Callable[[ModelPlan], ModelPlan], **more: Any) -> None:
    """Rewrite the plan in a run's journal, as if it had been trained on another machine."""
    lines, prev = [], GENESIS
    for record in read(directory.journal).records:
        event = record.event
        if isinstance(event, RunPlanned):
            event = msgspec.structs.replace(event, models=tuple(map(change, event.models)), **more)
        line, prev = encode(msgspec.structs.replace(record, prev=prev, event=event))
        lines.append(line)
    directory.journal.write_bytes(b"".join(lines))


def fail(town: Town, name: str, epoch: int, kind: str = "diverged") -> None:
    town.script(name, {"fail": {"epoch": epoch, "kind": kind}})


def test_a_run_trained_again_has_the_same_dna_and_the_home_stays_as_it_is(town: Town) -> None:
    directory, _ = town.train(training__num_epochs=2)
    before = contents(town.root)

    found = reproduce(directory, town.home)

    assert found.verdict == "same DNA"
    assert found.wire()["dna"] == {"old": name_of(directory), "new": name_of(directory)}
    assert {key: model.same for key, model in found.models.items()} == {"alfa-1b": True, "beta-1b": True}
    assert contents(town.root) == before


def test_a_run_that_was_stopped_resumed_and_lost_a_worker_is_reproduced_in_one_go(town: Town) -> None:
    def stop(record: Record, state: RunState) -> None:
        if isinstance(record.event, EpochCommitted):
            raise KeyboardInterrupt

    with town.submit(watch=stop) as run, pytest.raises(KeyboardInterrupt):
        runs.train(run)
    town.script("beta-1b", {"fail": {"epoch": 2, "kind": "crashed", "times": 1}})
    town.resume(run.directory)
    assert any(isinstance(event, WorkerRestarted) for event in events(run.directory))

    found = reproduce(run.directory, town.home)

    assert found.verdict == "same DNA"


def test_threads_token_budget_and_places_are_those_of_the_old_plan(town: Town) -> None:
    directory, _ = town.train(training__num_epochs=1)
    share = {"threads": 7, "token_budget": 12_345, "gradient_checkpointing": True}
    replanned(directory, lambda plan: msgspec.structs.replace(plan, **share), at_once=2)
    planned: list[RunPlanned] = []

    found = reproduce(
        directory,
        town.home,
        watch=lambda record, _: planned.append(record.event) if isinstance(record.event, RunPlanned) else None,
    )

    assert [(plan.threads, plan.token_budget, plan.gradient_checkpointing) for plan in planned[0].models] == [
        (7, 12_345, True)
    ] * 2
    assert planned[0].at_once == 2
    assert found.fingerprint == ()


def test_another_machine_is_told_before_the_first_epoch_and_no_reason_not_to_train(town: Town) -> None:
    directory, _ = town.train(training__num_epochs=1)
    replanned(directory, lambda plan: msgspec.structs.replace(plan, device="cuda", fingerprint={"torch": "2.12"}))
    order: list[Any] = []

    found = reproduce(
        directory,
        town.home,
        watch=lambda record, _: order.append("epoch") if isinstance(record.event, EpochStarted) else None,
        warn=lambda differences: order.append(tuple(differences)),
    )

    assert order == [found.fingerprint, "epoch"]
    assert "torch was 2.12, is None" in found.fingerprint
    assert "alfa-1b: device was cuda, is cpu" in found.fingerprint
    assert found.verdict == "same DNA"


def test_weights_that_differ_are_measured_for_each_model(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, state = town.train(training__num_epochs=2)
    hashed = scripted._hashed
    monkeypatch.setattr(scripted, "_hashed", lambda data: hashed(data.replace(b"/beta-1b", b"/other")))

    found = reproduce(directory, town.home)

    assert found.verdict == "same data and recipe"
    assert found.old.name("1.0") == name_of(directory) != found.new.name("1.0")
    alfa, beta = found.models["alfa-1b"], found.models["beta-1b"]
    assert (alfa.same, alfa.max_difference, alfa.relative_difference) == (True, 0.0, 0.0)
    assert not beta.same
    assert beta.max_difference is not None
    assert 0 < beta.max_difference < 1
    assert beta.old_epoch == beta.new_epoch == state.verified["beta-1b"].epoch


def test_rows_that_are_divided_in_another_way_are_another_recipe(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    from oneseek.runs.submit import dataset_used

    directory, _ = town.train(training__num_epochs=1)
    monkeypatch.setattr(
        importlib.import_module("oneseek.runs.reproduce"),
        "dataset_used",
        lambda *a: msgspec.structs.replace(dataset_used(*a), rows_sha256="0" * 64),
    )

    found = reproduce(directory, town.home)

    assert found.verdict == "differs"
    assert len(found.recipe) == 1
    assert found.recipe[0].startswith("rows.sha256 was ")
    told = [line.plain for line in concluded(found)]
    assert told[0] == "differs; the weights are the same (same fingerprint)"
    assert f"  recipe: {found.recipe[0]}" in told


def test_a_changed_dataset_is_refused(town: Town) -> None:
    directory, _ = town.train(training__num_epochs=1)
    town.dataset.write_text(town.dataset.read_text().replace("Answer 3", "Answer three"))
    before = contents(town.root)

    with pytest.raises(RunError, match=r"the dataset .*rows\.jsonl has changed"):
        reproduce(directory, town.home)

    assert contents(town.root) == before


def test_a_dataset_that_was_moved_is_named(town: Town, tmp_path: Path) -> None:
    directory, _ = town.train(training__num_epochs=1)
    moved = town.dataset.rename(tmp_path / "elsewhere.jsonl")

    with pytest.raises(RunError, match=r"the dataset .*rows\.jsonl is gone") as refused:
        reproduce(directory, town.home)
    found = reproduce(directory, town.home, dataset=moved)

    assert "--dataset" in refused.value.fix
    assert found.verdict == "same DNA"


def test_a_validation_dataset_that_was_moved_is_named_and_one_that_never_was_is_refused(
    town: Town, tmp_path: Path
) -> None:
    aside = tmp_path / "aside.jsonl"
    aside.write_text("".join(town.dataset.read_text().splitlines(keepends=True)[:3]).replace("Answer", "Reply"))
    with_it, _ = town.train(training__num_epochs=1, data__validation_dataset=str(aside))
    without, _ = town.train(training__num_epochs=1)
    moved = aside.rename(tmp_path / "moved.jsonl")

    found = reproduce(with_it, town.home, validation_dataset=moved)

    assert found.verdict == "same DNA"
    with pytest.raises(ConfigError, match="no validation dataset"):
        reproduce(without, town.home, validation_dataset=moved)


def test_a_changed_base_model_is_refused_also_that_of_a_model_that_was_quarantined(town: Town) -> None:
    fail(town, "beta-1b", 1)
    directory, _ = town.train(training__num_epochs=1)
    config = town.home.models / "beta-1b" / "config.json"
    config.write_text(config.read_text() + " ")

    with pytest.raises(RunError, match=r"beta-1b, the config\.json changed"):
        reproduce(directory, town.home)


def test_base_models_are_found_in_the_models_directory_of_now(town: Town, tmp_path: Path) -> None:
    directory, _ = town.train(training__num_epochs=1)
    copied = RunDirectory(Path(shutil.copytree(directory.root, tmp_path / "copy" / directory.run_id)))
    (tmp_path / "models").mkdir()
    for name in ("alfa-1b", "beta-1b"):
        (town.home.models / name).rename(tmp_path / "models" / name)

    with pytest.raises(RunError, match=r"base model .*alfa-1b is gone") as refused:
        reproduce(copied, town.home)
    found = reproduce(copied, replace(town.home, models=tmp_path / "models"))

    assert "--models-dir" in refused.value.fix
    assert found.verdict == "same DNA"


def test_a_model_of_the_hub_is_found_under_its_commit_in_the_cache_of_now(town: Town, tmp_path: Path) -> None:
    repository = Repository(tmp_path / "cache", "org/gamma-1b")
    write_model(repository.snapshot("0" * 40))
    repository.remember("main", "0" * 40)
    config = town.config("org/gamma-1b", training__num_epochs=1)
    with runs.submit(config, replace(town.home, cache=repository.cache), engine="scripted") as run:
        runs.train(run)
    write_model(town.home.models / "gamma-1b", seed=1)
    moved = repository.cache.rename(tmp_path / "moved")

    found = reproduce(run.directory, replace(town.home, cache=moved))

    assert found.verdict == "same DNA"
    with pytest.raises(RunError, match="of the base model gamma-1b, the weights changed"):
        reproduce(run.directory, town.home)


def test_a_run_that_is_not_complete_is_refused(town: Town) -> None:
    with town.submit() as run, pytest.raises(RunError, match="no weights yet"):
        reproduce(run.directory, town.home)


def test_an_adapter_that_is_not_what_was_verified_is_found_before_anything_is_trained(town: Town) -> None:
    directory, _ = town.train(training__num_epochs=1)
    file = directory.adapter("beta-1b") / "adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    shown: list[Record] = []

    with pytest.raises(StorageError, match=r"beta-1b.*is not the adapter that was verified"):
        reproduce(directory, town.home, watch=lambda record, _: shown.append(record))

    assert shown == []


def test_a_model_that_was_quarantined_fails_again(town: Town) -> None:
    fail(town, "beta-1b", 2)
    directory, _ = town.train(training__num_epochs=2)

    found = reproduce(directory, town.home)

    assert found.verdict == "same DNA"
    assert list(found.models) == ["alfa-1b"]
    assert list(found.old_quarantined) == list(found.new_quarantined) == ["beta-1b"]


@pytest.mark.parametrize("epoch", [0, 2], ids=["at the start", "on the way"])
def test_a_model_that_failed_then_and_not_now_is_told_and_only_the_verified_ones_count(town: Town, epoch: int) -> None:
    fail(town, "beta-1b", epoch)
    directory, _ = town.train(training__num_epochs=2, adaptive_weights__enabled=False)
    town.script("beta-1b", {})

    found = reproduce(directory, town.home)

    assert found.verdict == "same DNA"
    assert (list(found.old_quarantined), found.new_quarantined) == (["beta-1b"], {})


def test_a_verified_model_that_fails_now_is_named_with_the_cause(town: Town) -> None:
    directory, _ = town.train(training__num_epochs=2, adaptive_weights__enabled=False)
    fail(town, "beta-1b", 2)

    found = reproduce(directory, town.home)

    assert found.verdict == "same data and recipe"
    assert found.models["alfa-1b"].same
    assert "nan" in (found.models["beta-1b"].problem or "")
    assert found.models["beta-1b"].max_difference is None


def test_a_verified_model_that_can_not_be_prepared_here_ends_it_before_the_first_epoch(town: Town) -> None:
    directory, _ = town.train(training__num_epochs=1)
    fail(town, "beta-1b", 0, "out_of_memory")
    before = contents(town.root)
    shown: list[type] = []

    with pytest.raises(TrainingFailed, match=r"beta-1b can't be prepared here: Memory ran out"):
        reproduce(directory, town.home, watch=lambda record, _: shown.append(type(record.event)))

    assert EpochStarted not in shown
    assert contents(town.root) == before


def test_rows_that_were_quarantined_are_left_out_again(town: Town, tmp_path: Path) -> None:
    town.dataset.write_text(town.dataset.read_text() + "not json\n")
    directory, _ = town.train(training__num_epochs=1, data__bad_rows="quarantine")

    found = reproduce(directory, town.home, keep=tmp_path / "kept")

    assert found.verdict == "same DNA"
    assert found.kept is not None
    assert RunDirectory(Path(found.kept)).quarantine.read_bytes() == directory.quarantine.read_bytes()


def test_the_new_run_can_be_kept_and_is_a_complete_run_of_its_own(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, _ = town.train(training__num_epochs=1)
    same_second = datetime.strptime(directory.run_id, "run-%Y%m%d-%H%M%S").replace(tzinfo=UTC)
    monkeypatch.setattr(
        importlib.import_module("oneseek.runs.reproduce"), "run_id", lambda now, attempt: run_id(same_second, attempt)
    )
    before = contents(town.root)
    keep = tmp_path / "far" / "kept"

    first, second = (reproduce(directory, town.home, keep=keep) for _ in range(2))

    assert first.kept is not None
    assert second.kept is not None
    assert sorted(str(path) for path in keep.iterdir()) == sorted([first.kept, second.kept])
    kept = RunDirectory(Path(first.kept))
    assert kept.run_id == next(e.run_id for e in events(kept) if isinstance(e, RunAccepted)) != directory.run_id
    assert adapters(kept) == adapters(directory)
    assert name_of(kept) == name_of(directory)
    assert set(contents(kept.root)) <= set(contents(directory.root))
    assert reproduce(kept, town.home).verdict == "same DNA"
    assert contents(town.root) == before


def test_where_the_new_run_can_not_be_kept_nothing_is_trained(town: Town, tmp_path: Path) -> None:
    directory, _ = town.train(training__num_epochs=1)
    (tmp_path / "file").write_text("mine")

    with pytest.raises(StorageError, match="file"):
        reproduce(directory, town.home, keep=tmp_path / "file")

    assert (tmp_path / "file").read_text() == "mine"


def test_breaking_it_off_leaves_the_home_as_it_was(town: Town) -> None:
    directory, _ = town.train(training__num_epochs=2)
    before = contents(town.root)

    def stop(record: Record, state: RunState) -> None:
        if isinstance(record.event, EpochCommitted):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reproduce(directory, town.home, watch=stop)

    assert contents(town.root) == before


def test_two_at_once_do_not_remove_each_others_work(town: Town) -> None:
    directory, _ = town.train(training__num_epochs=1)
    inner: list[str] = []

    def another(record: Record, state: RunState) -> None:
        if isinstance(record.event, RunAccepted):  # its directory is there, and it has not the device yet
            inner.append(reproduce(directory, town.home).verdict)

    outer = reproduce(directory, town.home, watch=another)

    assert (outer.verdict, inner) == ("same DNA", ["same DNA"])


# -- the command ---------------------------------------------------------------------------------------------------


def start(town: Town, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "ONESEEK_HOME": str(town.root), "COLUMNS": "200"}
    return subprocess.Popen(
        [*ONESEEK, "reproduce", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=town.root,
        text=True,
    )


def command(town: Town, *arguments: str) -> tuple[int, str, str]:
    process = start(town, *arguments)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_the_command_says_same_dna_and_ends_with_0(town: Town) -> None:
    directory, _ = town.train(training__num_epochs=1)
    replanned(directory, lambda plan: msgspec.structs.replace(plan, fingerprint={"torch": "2.12"}))

    code, out, err = command(town, directory.run_id)

    assert code == 0, err
    assert f"same DNA: {name_of(directory)}" in out
    assert "torch was 2.12, is None" in err


def test_the_command_says_what_differs_and_ends_with_1(town: Town) -> None:
    directory, _ = town.train(training__num_epochs=2)
    replanned(directory, lambda plan: msgspec.structs.replace(plan, fingerprint={"torch": "2.12"}))
    fail(town, "beta-1b", 2)  # the learning rates of the other model change with it

    code, out, err = command(town, directory.run_id, "--keep", "kept")

    assert code == 1, err
    assert "same data and recipe; weights differ" in out
    assert "(other machine fingerprint: engine was None, is scripted; torch was 2.12, is None)" in out
    assert "beta-1b: ✗ The loss became nan" in out
    assert f"Kept: {next((town.root / 'kept').iterdir()).relative_to(town.root)}" in out


def test_the_commands_json_ends_with_the_verdict(town: Town) -> None:
    directory, _ = town.train(training__num_epochs=1)

    code, out, err = command(town, str(directory.root), "--dataset", "datasets/rows.jsonl", "--json")

    *told, last = map(json.loads, out.splitlines())
    assert (code, err) == (0, "")
    assert last["verdict"] == "same DNA"
    assert last["dna"]["new"] == name_of(directory)
    assert last["fingerprint"] == last["recipe"] == []
    assert last["models"]["alfa-1b"]["same"] is True
    assert last["models"]["alfa-1b"]["max_difference"] == 0
    assert "epoch_end" in [each["type"] for each in told]


def test_the_command_refuses_another_dataset_with_2(town: Town) -> None:
    directory, _ = town.train(training__num_epochs=1)
    other = town.root / "other.jsonl"
    other.write_text(town.dataset.read_text() + "\n")

    code, _, err = command(town, directory.run_id, "--dataset", str(other))

    assert code == 2
    assert "other.jsonl has changed" in err


def test_the_command_keeps_no_run_in_a_file(town: Town) -> None:
    directory, _ = town.train(training__num_epochs=1)
    (town.root / "file").write_text("mine")

    code, _, err = command(town, directory.run_id, "--keep", "file")

    assert code == 2
    assert "'file' is a file" in err
    assert (town.root / "file").read_text() == "mine"


def test_the_command_removes_the_directories_that_it_made_for_a_run_that_never_came(town: Town) -> None:
    directory, _ = town.train(training__num_epochs=1)
    (town.root / "mine").mkdir()
    fail(town, "beta-1b", 0, "out_of_memory")
    before = contents(town.root)

    codes = [command(town, directory.run_id, "--keep", keep)[0] for keep in ("mine", "made/for/it")]

    assert 0 not in codes
    assert contents(town.root) == before


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_the_command_removes_its_work_when_it_is_broken_off_and_the_next_one_what_a_kill_left(
    town: Town, sent: signal.Signals, code: int
) -> None:
    directory, _ = town.train(training__num_epochs=1)
    before = contents(town.root)
    town.script("alfa-1b", {"step_seconds": 1.0})
    process = start(town, directory.run_id, "--json")
    assert process.stdout is not None
    while '"epoch_start"' not in process.stdout.readline():
        assert process.poll() is None
    time.sleep(0.2)

    process.send_signal(sent)
    process.communicate(timeout=60)

    (town.home.models / "alfa-1b" / "script.json").unlink()
    assert process.returncode == code
    assert (contents(town.root) == before) == (sent != signal.SIGKILL)
    assert reproduce(directory, town.home).verdict == "same DNA"
    assert contents(town.root) == before


# -- how far apart -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "data"),
    [
        ("F32", np.array([3.0, 4.0, 0.0], "<f4").tobytes()),
        ("F16", np.array([3.0, 4.0, 0.0], "<f2").tobytes()),
        ("BF16", (np.array([3.0, 4.0, 0.0], "<f4").view("<u4") >> 16).astype("<u2").tobytes()),
    ],
    ids=["F32", "F16", "BF16"],
)
def test_the_distance_of_two_adapters_is_over_all_their_tensors_whatever_their_type(dtype: str, data: bytes) -> None:
    zero = ("b", "F64", (1,), np.array([0.0], "<f8").tobytes())
    one = ("b", "F64", (1,), np.array([-0.5], "<f8").tobytes())
    tensor = ("a", dtype, (3,), data)

    apart = distances([tensor, zero], [one, tensor])

    assert apart == (0.5, 0.1)
    assert distances([tensor, zero], [zero, tensor]) == (0.0, 0.0)


def test_adapters_of_other_tensors_have_no_distance() -> None:
    data = np.zeros(4, "<f4").tobytes()
    tensor = ("a", "F32", (2, 2), data)

    assert distances([tensor], [("b", "F32", (2, 2), data)]) is None
    assert distances([tensor], [("a", "F32", (4,), data)]) is None
    assert distances([tensor], [tensor, ("b", "F32", (2, 2), data)]) is None


# -- a real training -----------------------------------------------------------------------------------------------


@pytest.mark.engine
def test_a_real_run_is_reproduced_bit_for_bit_and_in_other_batches_it_is_told_how_far_off(tmp_path: Path) -> None:
    from support import tiny_models

    town = Town(tmp_path / "home")
    tiny_models.write_model(town.home.models / "alfa-1b", "llama")
    tiny_models.write_rows(town.dataset, tiny_models.chat_rows(20))
    config = town.config(training__num_epochs=1, lora__dropout=0.1, training__batch_size=4)
    with runs.submit(config, town.home) as run:
        runs.train(run)
    before = contents(town.root)

    same = reproduce(run.directory, town.home)
    untouched = contents(town.root) == before
    replanned(run.directory, lambda plan: msgspec.structs.replace(plan, token_budget=40))
    other = reproduce(run.directory, town.home)

    assert same.verdict == "same DNA"
    assert untouched
    assert other.verdict == "same data and recipe"
    apart = other.models["alfa-1b"].relative_difference
    assert apart is not None
    assert 0 < apart < 0.01
