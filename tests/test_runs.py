"""Whole runs with the scripted engine: what is decided, what is written, what is refused."""

from __future__ import annotations

import json
import math
import shutil
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import msgspec
import psutil
import pytest

from oneseek import runs
from oneseek.certificate.dna import recipe
from oneseek.engine import checkpoint
from oneseek.engine.interface import Prepared
from oneseek.engine.scripted import ScriptedTrainer
from oneseek.errors import Failed, RunError, StorageError, TrainingFailed
from oneseek.events import (
    AutoStopTriggered,
    CheckpointDamaged,
    EpochCommitted,
    EpochStarted,
    ModelVerified,
    RunFinished,
    RunInterrupted,
    RunPlanned,
    RunStopped,
    WeightsAdjusted,
    WorkerRestarted,
)
from oneseek.events.state import RunState
from oneseek.events.wire import wire
from oneseek.files import durable
from oneseek.files.durable import LinksUnsupportedError, copy_tree
from oneseek.files.layout import RunDirectory
from oneseek.journal.file import read
from oneseek.journal.record import Record
from oneseek.names import run_id
from oneseek.preflight.finding import PreflightError
from oneseek.runs import recorder
from support.runs import Town, adapters, events, everything

CURVE = {"val_losses": [3.0, 2.0, 1.5], "bits_per_byte": [1.5, 1.0, 0.75]}
WORSE = {"val_losses": [4.0, 3.5, 3.0], "bits_per_byte": [2.0, 1.75, 1.5]}


def load(path: Path) -> dict[str, Any]:
    document = json.loads(path.read_text())
    assert isinstance(document, dict)
    return document


def test_a_run_leaves_exactly_the_files_that_it_should(town: Town) -> None:
    directory, state = town.train(training__num_epochs=2)

    assert everything(directory.root) == {
        "adapters",
        *(f"adapters/{key}" for key in ("alfa-1b", "beta-1b")),
        *(
            f"adapters/{key}/{file}"
            for key in ("alfa-1b", "beta-1b")
            for file in (
                *("README.md", "adapter_config.json", "adapter_model.safetensors"),
                *("tokenizer.json", "tokenizer_config.json"),
            )
        ),
        "journal.jsonl",
        "live_metrics.json",
        "oneseek_dna.json",
        "provenance.json",
        "recipe.json",
        "training_results.json",
    }
    results = town.results
    assert sorted(path.name for path in results.weights.iterdir()) == [
        "oneseek-7b-zero-v1.0-alfa-1b.pth",
        "oneseek-7b-zero-v1.0-beta-1b.pth",
        "oneseek-7b-zero-v1.0.json",
    ]
    assert sorted(path.name for path in results.adapters.iterdir()) == [
        "alfa-1b-adapter",
        "beta-1b-adapter",
        "oneseek-7b-zero-v1.0-alfa-1b",
        "oneseek-7b-zero-v1.0-beta-1b",
    ]
    assert str(results.newest_adapter("alfa-1b").readlink()) == "oneseek-7b-zero-v1.0-alfa-1b"
    assert str(results.current.readlink()) == "oneseek-7b-zero"
    assert runs.result(directory, state).status == "completed"


def test_every_file_names_the_models_that_were_trained(town: Town) -> None:
    town.script("alfa-1b", CURVE)
    town.script("beta-1b", WORSE)
    directory, state = town.train()

    dna, results = load(directory.dna), load(directory.training_results)
    metadata, metrics = load(town.results.metadata("1.0")), load(directory.live_metrics)

    assert dna["baseModels"] == results["baseModels"] == results["trained_models"] == ["alfa-1b", "beta-1b"]
    assert dna["final_weights"] == pytest.approx({"alfa-1b": 0.75, "beta-1b": 0.25})
    assert dna["dna"] == results["dna"] == metadata["dna"]
    assert dna["dna"] == f"OneSeek-7B-Zero.v1.0.{'.'.join(dna['hashes'][name][:8] for name in dna['hashes'])}"
    assert dna["hashes"]["dataset"] == state.accepted.dataset.sha256
    assert metadata["version"] == "OneSeek-7B-Zero.v1.0"
    assert metadata["baseModels"] == ["alfa-1b", "beta-1b"]
    assert metadata["modelSpecificWeights"] == {
        key: f"oneseek-7b-zero-v1.0-{key}.pth" for key in ("alfa-1b", "beta-1b")
    }
    assert metadata["multiModelMode"] is True
    assert metrics["type"] == "epoch_end"
    assert metrics["val_losses"] == {"alfa-1b": 1.5, "beta-1b": 3.0}
    assert results["champion"] == "alfa-1b"
    assert results["metrics"]["alfa-1b"]["val_loss"] == 1.5
    assert [entry["epoch"] for entry in results["training_history"]] == [1, 2, 3]


def test_weights_move_as_the_worked_example_says(town: Town) -> None:
    town.script("alfa-1b", CURVE)
    town.script("beta-1b", WORSE)

    directory, _ = town.train()

    commits = [event for event in events(directory) if isinstance(event, EpochCommitted)]
    assert commits[0].weights == pytest.approx({"alfa-1b": 1.3684, "beta-1b": 0.6316}, abs=1e-4)
    assert commits[0].learning_rates == pytest.approx({"alfa-1b": 0.00013684, "beta-1b": 0.00006316}, abs=1e-8)
    assert commits[1].weights == pytest.approx({"alfa-1b": 1.5, "beta-1b": 0.5})
    started = [event for event in events(directory) if isinstance(event, EpochStarted)]
    assert started[1].learning_rates == commits[0].learning_rates


def test_the_weight_adjustment_comes_before_the_epoch_end_that_carries_it(town: Town) -> None:
    directory, _ = town.train(training__num_epochs=2)

    order = [event for event in events(directory) if isinstance(event, (WeightsAdjusted, EpochCommitted))]

    assert [type(event).__name__ for event in order] == ["WeightsAdjusted", "EpochCommitted"] * 2
    assert order[0].weights == order[1].weights


def test_the_epochs_march_in_lockstep(town: Town) -> None:
    directory, _ = town.train(training__num_epochs=3)

    epochs = [event.epoch for event in events(directory) if hasattr(event, "epoch") and hasattr(event, "train_loss")]

    assert epochs == [1, 1, 2, 2, 3, 3]


def test_the_run_stops_itself_when_nothing_more_is_learned(town: Town) -> None:
    for name in ("alfa-1b", "beta-1b"):
        town.script(name, {"val_losses": [2.0], "bits_per_byte": [1.0]})

    directory, state = town.train(training__num_epochs=20)

    assert state.epochs_done == 4
    assert any(isinstance(event, AutoStopTriggered) for event in events(directory))
    assert load(directory.training_results)["stopped_by"] == "auto_stop"


@pytest.mark.parametrize(("keep", "epoch"), [("best", 2), ("last", 3)])
def test_the_adapter_that_is_kept_is_the_best_or_the_last(town: Town, keep: str, epoch: int) -> None:
    town.script("alfa-1b", {"bits_per_byte": [2.0, 1.0, 1.5], "val_losses": [2.0, 1.0, 1.5]})

    directory, _ = town.train("alfa-1b", training__keep=keep)

    verified = [event for event in events(directory) if isinstance(event, ModelVerified)]
    assert [(event.model, event.epoch) for event in verified] == [("alfa-1b", epoch)]
    assert load(directory.training_results)["metrics"]["alfa-1b"]["epoch"] == epoch


def test_the_two_last_checkpoints_and_the_best_are_kept(town: Town) -> None:
    town.script("alfa-1b", {"bits_per_byte": [1.0, 2.0, 3.0, 4.0], "val_losses": [1.0, 2.0, 3.0, 4.0]})
    kept: set[str] = set()

    def look(record: Record, state: RunState) -> None:
        if isinstance(record.event, ModelVerified):
            kept.update(path.name for path in town.results.run(state.run_id).worker("alfa-1b").glob("epoch-*"))

    town.train("alfa-1b", training__num_epochs=4, watch=look)

    assert kept == {"epoch-1", "epoch-3", "epoch-4"}


@pytest.mark.parametrize("kind", ["diverged", "out_of_memory", "crashed"])
def test_a_failing_model_is_quarantined_and_the_others_go_on(town: Town, kind: str) -> None:
    town.script("beta-1b", {"fail": {"epoch": 2, "kind": kind}})

    directory, state = town.train()

    assert state.live == ("alfa-1b",)
    assert state.epochs_done == 3
    commits = [event for event in events(directory) if isinstance(event, EpochCommitted)]
    assert math.fsum(commits[1].weights.values()) == pytest.approx(1)
    metrics = load(directory.live_metrics)
    assert metrics["val_losses"]["beta-1b"] is None
    for path in (directory.dna, directory.training_results, town.results.metadata("1.0")):
        assert list(load(path)["quarantined"]) == ["beta-1b"]
        assert load(path)["baseModels"] == ["alfa-1b"]
    assert runs.result(directory, state).failed_models == state.quarantined


def test_a_model_that_cannot_be_prepared_is_quarantined(town: Town) -> None:
    town.script("beta-1b", {"fail": {"epoch": 0, "kind": "out_of_memory"}})

    directory, state = town.train(training__num_epochs=1)

    assert list(state.quarantined) == ["beta-1b"]
    assert list(adapters(directory)) == ["alfa-1b"]


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_a_run_without_a_live_model_fails_with_the_causes(town: Town, epoch: int) -> None:
    for name in ("alfa-1b", "beta-1b"):
        town.script(name, {"fail": {"epoch": epoch, "kind": "diverged"}})

    with town.submit() as run, pytest.raises(TrainingFailed, match="alfa-1b"):
        runs.train(run)

    known = runs.describe(run.directory)
    assert known.status == "failed"
    assert known.state is not None
    assert known.state.failure is not None
    assert not town.results.metadata("1.0").exists()


def test_rows_that_one_model_truncates_are_left_out_of_bits_per_byte_for_all(town: Town) -> None:
    town.script("beta-1b", {"incomparable_validation_rows": [1]})

    directory, _ = town.train(training__num_epochs=1)

    plans = [event for event in events(directory) if isinstance(event, RunPlanned)]
    assert plans[0].excluded_validation_rows == (1,)
    assert plans[0].rank_by == "bits_per_byte"


def test_where_no_row_can_be_compared_the_loss_decides(town: Town) -> None:
    town.script("beta-1b", {"incomparable_validation_rows": [0, 1], "bits_per_byte": [None]})

    directory, state = town.train(training__num_epochs=1)

    assert state.rank_by == "val_loss"
    assert state.live == ("alfa-1b", "beta-1b")
    assert load(directory.training_results)["ranked_by"] == "val_loss"


def test_the_same_run_twice_has_the_same_dna_but_for_its_version(town: Town) -> None:
    first, _ = town.train(training__num_epochs=1)
    second, _ = town.train(training__num_epochs=1)

    assert load(first.dna)["hashes"] == load(second.dna)["hashes"]
    assert load(second.dna)["version"] == "1.1"
    assert adapters(first) == adapters(second)


@pytest.mark.parametrize(
    "settings",
    [
        {"execution__executor": "local"},
        {"live_leaderboard__refresh_interval": 1},
        {"output__version": "7.3"},
        {"execution__gradient_checkpointing": "always"},
        {"training__checkpoint_every": 1},
        {"training__sample_prompts": ["When?"], "training__sample_tokens": 3},
        {"dpo__beta": 0.3},
    ],
)
def test_the_recipe_does_not_hold_what_changes_no_weight(town: Town, settings: dict[str, Any]) -> None:
    first, _ = town.train(training__num_epochs=1)

    second, _ = town.train(training__num_epochs=1, **settings)

    assert load(first.dna)["hashes"] == load(second.dna)["hashes"]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("model__quantization", "4bit"),
        ("data__max_length", 64),
        ("data__validation_split", 0.3),
        ("training__num_epochs", 2),
        ("training__batch_size", 3),
        ("training__rank_by", "val_loss"),
        ("training__keep", "last"),
        ("lora__use_rslora", True),
        ("lora__dropout", 0.1),
        ("adaptive_weights__enabled", False),
        ("confidence_auto_stop__threshold", 0.5),
    ],
)
def test_what_a_weight_follows_from_makes_another_recipe(town: Town, setting: str, value: Any) -> None:
    _, as_it_is = town.train()
    _, changed = town.train(**{setting: value})

    assert recipe(changed) != recipe(as_it_is)


def test_another_seed_is_another_recipe(town: Town) -> None:
    first, _ = town.train(training__num_epochs=1)

    second, _ = town.train(training__num_epochs=1, training__seed=7)

    assert load(first.dna)["hashes"]["dataset"] == load(second.dna)["hashes"]["dataset"]
    assert load(first.dna)["hashes"]["recipe"] != load(second.dna)["hashes"]["recipe"]


def test_an_existing_version_is_refused_and_nothing_of_it_is_touched(town: Town) -> None:
    town.train(training__num_epochs=1, output__version="2.0")
    before = {path: path.read_bytes() for path in town.results.family.rglob("*") if path.is_file()}

    with pytest.raises(PreflightError) as refused:
        town.submit(output__version="v2.0")

    assert [finding.rule for finding in refused.value.findings if finding.severity == "error"] == ["version-is-free"]
    assert before == {path: path.read_bytes() for path in town.results.family.rglob("*") if path.is_file()}


def test_thirty_runs_started_in_one_second_get_thirty_ids_and_versions(town: Town) -> None:
    moment = datetime(2025, 11, 22, 14, 30, 25, tzinfo=UTC)

    def start(_: int) -> tuple[str, str]:
        with runs.submit(town.config(), town.home, engine="scripted", now=lambda: moment) as run:
            return run.state.run_id, run.state.accepted.version

    with ThreadPoolExecutor(8) as pool:
        started = list(pool.map(start, range(30)))

    assert {name for name, _ in started} == {run_id(moment, attempt) for attempt in range(1, 31)}
    assert {version for _, version in started} == {f"1.{minor}" for minor in range(30)}


def test_a_refused_run_leaves_nothing_behind(town: Town) -> None:
    before = everything(town.root)

    with pytest.raises(PreflightError):
        town.submit("alfa-1b", training__method="dpo")

    assert everything(town.root) == before


def test_a_second_process_cannot_take_up_a_run_that_is_running(town: Town) -> None:
    with town.submit() as run, pytest.raises(RunError, match="is running already"):
        runs.resume(run.directory)


def test_a_certified_run_cannot_be_resumed(town: Town) -> None:
    directory, _ = town.train(training__num_epochs=1)
    runs.certify(directory, town.home)

    with pytest.raises(RunError, match="is complete"):
        runs.resume(directory)

    assert not directory.work.exists()


@pytest.mark.parametrize("changed", ["dataset", "weights", "config", "gone"])
def test_resume_refuses_what_has_changed_and_names_it(town: Town, changed: str) -> None:
    with town.submit() as run:
        directory = run.directory
    model = town.home.models / "beta-1b"
    match changed:
        case "dataset":
            town.dataset.write_text(town.dataset.read_text() + "\n")
        case "weights":
            data = bytearray((model / "model.safetensors").read_bytes())
            data[-1] ^= 1
            (model / "model.safetensors").write_bytes(bytes(data))
        case "config":
            (model / "config.json").write_text((model / "config.json").read_text() + " ")
        case "gone":
            model.rename(model.with_name("elsewhere"))

    with pytest.raises(RunError) as refused:
        runs.resume(directory)

    named = {"dataset": "rows.jsonl has changed", "weights": "of the base model beta-1b, the weights changed"}
    named |= {"config": "of the base model beta-1b, the config.json changed", "gone": "beta-1b is gone"}
    assert named[changed] in refused.value.problem
    assert not runs.is_running(directory)


def test_a_stop_request_lets_the_epoch_end_and_the_run_can_go_on(town: Town) -> None:
    undisturbed, _ = town.train()

    def ask(record: Record, state: RunState) -> None:
        if isinstance(record.event, EpochStarted) and state.epoch == 2:
            runs.stop(town.results.run(state.run_id))

    town.script("alfa-1b", {"step_seconds": 0.1})
    directory, state = town.train(watch=ask)
    assert (state.status, state.epochs_done) == ("stopped", 2)
    assert any(isinstance(event, RunStopped) for event in events(directory))

    state = town.resume(directory)

    assert state.status == "completed"
    assert adapters(directory) == adapters(undisturbed)


def test_a_stop_at_once_leaves_the_epoch_undone(town: Town) -> None:
    def ask(record: Record, state: RunState) -> None:
        if isinstance(record.event, EpochStarted) and state.epoch == 2:
            runs.stop(town.results.run(state.run_id), now=True)

    town.script("alfa-1b", {"step_seconds": 0.3})

    with town.submit(watch=ask) as run, pytest.raises(KeyboardInterrupt):
        runs.train(run)

    assert runs.describe(run.directory).status == "interrupted"
    assert run.state.epochs_done == 1
    assert isinstance(events(run.directory)[-1], RunInterrupted)


def test_whoever_looks_while_runs_complete_disturbs_none_and_is_not_disturbed(tmp_path: Path) -> None:
    directory, over = RunDirectory(tmp_path / "run"), threading.Event()

    def looking() -> int:
        looks = 0
        while not over.is_set():
            runs.is_running(directory)
            looks += 1
        return looks

    with ThreadPoolExecutor(3) as pool:
        lookers = [pool.submit(looking) for _ in range(3)]
        try:
            for _ in range(300):
                lock = recorder._take(directory)
                lock.release()
                recorder.remove_work(directory)
        finally:
            over.set()

    assert all(looker.result() for looker in lookers)
    assert not directory.work.exists()


def test_a_run_that_is_just_being_let_go_is_complete_and_never_interrupted(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    remove = recorder.remove_work

    def look_first(directory: RunDirectory) -> None:
        seen.append(runs.describe(directory).status)
        remove(directory)

    monkeypatch.setattr(recorder, "remove_work", look_first)

    town.train()

    assert seen == ["completed"]


@pytest.mark.parametrize(
    ("before", "after", "status"),
    [(True, True, "preparing"), (True, False, "preparing"), (False, True, "preparing"), (False, False, "interrupted")],
)
def test_a_run_is_interrupted_only_where_no_process_had_it_before_its_journal_was_read_nor_has_it_now(
    town: Town, monkeypatch: pytest.MonkeyPatch, before: bool, after: bool, status: str
) -> None:
    with town.submit() as run:
        answers = iter([before, after])
        monkeypatch.setattr(import_module("oneseek.runs.find"), "is_running", lambda directory: next(answers))

        assert runs.describe(run.directory).status == status


def test_a_run_whose_process_was_killed_while_it_let_go_is_certified(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as killed:
        killed.setattr(recorder, "remove_work", lambda directory: None)
        directory, _ = town.train()
    assert directory.lock.exists()

    assert runs.certify(directory, town.home).problem is None

    assert not directory.work.exists()
    assert runs.describe(directory).status == "certified"


def test_whoever_looks_sees_whether_a_run_is_running_and_makes_nothing(town: Town, tmp_path: Path) -> None:
    with town.submit() as run:
        during = [runs.is_running(run.directory), recorder._refuses(run.directory)]
    after = [runs.is_running(run.directory), recorder._refuses(run.directory)]
    run.directory.lock.unlink()
    gone = runs.is_running(run.directory)

    assert (during, after, gone) == ([True, True], [False, False], False)
    assert not run.directory.lock.exists()
    assert not runs.is_running(RunDirectory(tmp_path / "none"))


@pytest.mark.parametrize(("looks", "removed"), [(2, True), (3, False)])
def test_work_that_somebody_has_open_is_removed_a_moment_later_or_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looks: int, removed: bool
) -> None:
    directory, left, remove = RunDirectory(tmp_path / "run"), iter(range(looks)), Path.rmdir

    def open_just_now(path: Path) -> None:
        if next(left, None) is not None:
            directory.lock.touch()
            raise PermissionError(13, "Permission denied")
        remove(path)

    recorder._take(directory).release()
    monkeypatch.setattr(recorder, "TRIES", 3)
    monkeypatch.setattr(Path, "rmdir", open_just_now)

    with nullcontext() if removed else pytest.raises(StorageError, match="permission is denied"):
        recorder.remove_work(directory)

    assert directory.work.exists() != removed


def test_the_folders_that_a_run_begins_with_are_on_disk(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(durable, "sync_directory", synced.append)

    with town.submit() as run:
        results = town.results

    assert {results.root, results.family, run.directory.root} <= set(synced)


def test_a_run_that_is_not_running_cannot_be_stopped(town: Town) -> None:
    directory, _ = town.train(training__num_epochs=1)

    with pytest.raises(RunError, match="is not running"):
        runs.stop(directory)


def test_a_damaged_checkpoint_is_told_and_the_epoch_before_leads_to_the_same_bits(town: Town) -> None:
    undisturbed, _ = town.train()

    def interrupt(record: Record, state: RunState) -> None:
        if isinstance(record.event, EpochStarted) and record.event.epoch == 3 and "resumed" not in seen:
            seen.append("resumed")
            raise KeyboardInterrupt

    seen: list[str] = []
    with town.submit(watch=interrupt) as run, pytest.raises(KeyboardInterrupt):
        runs.train(run)
    checkpoint = next(
        path for path in (run.directory.worker("alfa-1b") / "epoch-2").iterdir() if path.suffix != ".json"
    )
    data = bytearray(checkpoint.read_bytes())
    data[len(data) // 2] ^= 1
    checkpoint.write_bytes(bytes(data))

    state = town.resume(run.directory)

    damaged = [event for event in events(run.directory) if isinstance(event, CheckpointDamaged)]
    assert [(event.model, event.epoch) for event in damaged] == [("alfa-1b", 2)]
    assert checkpoint.name in damaged[0].problem
    assert state.status == "completed"
    assert adapters(run.directory) == adapters(undisturbed)


@pytest.mark.parametrize(("gib", "at_once", "setting"), [(64.0, 2, "auto"), (0.7, 1, "always")])
def test_the_memory_that_is_free_decides_how_many_work_at_once_and_the_plan_says_so(
    town: Town, monkeypatch: pytest.MonkeyPatch, gib: float, at_once: int, setting: str
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=int(gib * 2**30)))

    directory, _ = town.train(
        execution__executor="local",
        execution__threads=2,
        execution__gradient_checkpointing=setting,
        training__num_epochs=1,
    )

    plan = next(event for event in events(directory) if isinstance(event, RunPlanned))
    assert plan.at_once == at_once
    assert {model.threads for model in plan.models} == {2 // at_once}
    assert {model.gradient_checkpointing for model in plan.models} == {setting == "always"}


def test_a_resumed_run_computes_as_planned_however_much_memory_is_free_now(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(record: Record, state: RunState) -> None:
        if isinstance(record.event, EpochStarted) and record.event.epoch == 2:
            raise KeyboardInterrupt

    free = SimpleNamespace(available=64 * 2**30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    with town.submit(watch=interrupt) as run, pytest.raises(KeyboardInterrupt):
        runs.train(run)
    free.available = 2**20

    state = town.resume(run.directory)

    assert state.status == "completed"
    assert state.planned is not None
    assert {model.token_budget for model in state.planned.models} == {longest_step(state)}


def longest_step(state: RunState) -> int:
    return state.accepted.models[0].memory.longest_step


def test_resume_on_a_machine_that_would_compute_other_bits_is_refused(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(record: Record, state: RunState) -> None:
        if isinstance(record.event, EpochCommitted):
            raise KeyboardInterrupt

    with town.submit(watch=interrupt) as run, pytest.raises(KeyboardInterrupt):
        runs.train(run)
    prepare = ScriptedTrainer.prepare

    def elsewhere(self: ScriptedTrainer) -> Prepared:
        return msgspec.structs.replace(prepare(self), fingerprint={"engine": "scripted", "cpu": "another"})

    monkeypatch.setattr(ScriptedTrainer, "prepare", elsewhere)

    with runs.resume(run.directory) as again, pytest.raises(RunError, match="can't go on here"):
        runs.train(again)


def test_publishing_that_was_broken_off_is_finished_by_resume(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed, _ = town.train(training__num_epochs=1)

    def full(*_: object) -> None:
        raise Failed("The disk is full.")

    with monkeypatch.context() as broken:
        broken.setattr("oneseek.runs.publish.copy_file", full)
        with town.submit(training__num_epochs=1) as run, pytest.raises(Failed):
            runs.train(run)
    assert runs.describe(run.directory).status == "interrupted"
    before = read(run.directory.journal).records

    state = town.resume(run.directory)

    assert runs.result(run.directory, state).status == "completed"
    assert read(run.directory.journal).records == before
    assert isinstance(before[-1].event, RunFinished)
    assert adapters(run.directory) == adapters(undisturbed)
    assert town.results.metadata("1.1").exists()


def test_runs_are_found_by_id_and_path_and_listed_newest_first(town: Town) -> None:
    first, _ = town.train(training__num_epochs=1)
    second, _ = town.train(training__num_epochs=1)

    assert runs.find(first.run_id, town.home) == first
    assert runs.find(str(second.root), town.home) == second
    assert [run.run_id for run in runs.list_runs(town.home)] == [second.run_id, first.run_id]
    with pytest.raises(RunError, match="There is no run"):
        runs.find("run-19990101-000000", town.home)
    with pytest.raises(RunError, match="neither a run id nor"):
        runs.find("../../etc", town.home)


def test_a_damaged_journal_is_listed_with_its_problem(town: Town) -> None:
    directory, _ = town.train(training__num_epochs=1)
    data = bytearray(directory.journal.read_bytes())
    data[40] ^= 1
    directory.journal.write_bytes(bytes(data))

    listed = runs.list_runs(town.home)

    assert [(run.status, run.problem is not None) for run in listed] == [("damaged", True)]


def test_the_newest_adapter_of_a_model_is_not_mistaken_for_anothers(town: Town) -> None:
    town.add_model("big-alfa-1b")
    town.train("alfa-1b", training__num_epochs=1)

    town.train("big-alfa-1b", training__num_epochs=1)

    assert str(town.results.newest_adapter("alfa-1b").readlink()) == "oneseek-7b-zero-v1.0-alfa-1b"
    assert str(town.results.newest_adapter("big-alfa-1b").readlink()) == "oneseek-7b-zero-v1.1-big-alfa-1b"


def test_every_record_of_a_run_has_a_wire_form_that_is_json(town: Town) -> None:
    shown: list[dict[str, Any]] = []

    def watch(record: Record, state: RunState) -> None:
        shown.append(wire(record.seq, record.at, record.event, state))

    town.train(watch=watch)

    assert [event["seq"] for event in shown] == list(range(1, len(shown) + 1))
    json.dumps(shown, allow_nan=False)
    assert shown[0]["multiModelMode"] is True
    assert shown[-1]["type"] == "training_complete"


def full() -> NoReturn:
    raise StorageError("The disk is full.", "Free some space, then try again.")


def stop_after(epoch: int) -> Callable[[Record, RunState], None]:
    """Breaks a run off behind the commit of an epoch."""

    def interrupt(record: Record, state: RunState) -> None:
        if isinstance(record.event, EpochCommitted) and record.event.epoch == epoch:
            raise KeyboardInterrupt

    return interrupt


def test_a_full_disk_in_a_worker_fails_the_run_and_quarantines_nobody(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, _ = town.train()
    write = checkpoint.write

    def full_for_beta(directory: Path, position: checkpoint.Position, files: Mapping[str, bytes]) -> str:
        return full() if directory.name == "beta-1b" else write(directory, position, files)

    with monkeypatch.context() as broken:
        broken.setattr("oneseek.engine.checkpoint.write", full_for_beta)
        with town.submit() as run, pytest.raises(TrainingFailed, match="disk is full"):
            runs.train(run)
    failed = runs.describe(run.directory)

    state = town.resume(run.directory)

    assert failed.status == "failed"
    assert failed.state is not None
    assert failed.state.quarantined == {}
    assert state.status == "completed"
    assert adapters(run.directory) == adapters(undisturbed)


def test_a_run_that_failed_for_all_models_can_be_tried_again_when_the_cause_is_gone(town: Town) -> None:
    for name in ("alfa-1b", "beta-1b"):
        town.script(name, {"fail": {"epoch": 2, "kind": "out_of_memory", "times": 1}})
    with town.submit() as run, pytest.raises(TrainingFailed):
        runs.train(run)

    state = town.resume(run.directory)

    assert (state.status, state.live) == ("completed", ("alfa-1b", "beta-1b"))


def test_runs_of_the_old_system_and_other_peoples_files_are_left_alone(town: Town) -> None:
    old = town.results.runs / "run-20251123-001234"
    old.mkdir(parents=True)
    (old / "oneseek_dna.json").write_text("{}")
    (town.results.runs / "run-notes.txt").write_text("mine")
    (town.results.runs / "run-20251123-001235").mkdir()
    (town.results.newest_adapter("alfa-1b")).mkdir(parents=True)
    (town.results.newest_adapter("alfa-1b") / "adapter_model.bin").write_text("old")

    town.train(training__num_epochs=1)

    assert (old / "oneseek_dna.json").exists()
    assert (town.results.runs / "run-notes.txt").exists()
    assert not (town.results.runs / "run-20251123-001235").exists()
    assert (town.results.adapters / "alfa-1b-adapter-before" / "adapter_model.bin").exists()
    assert town.results.newest_adapter("alfa-1b").is_symlink()


def test_where_links_cannot_be_made_copies_and_a_pointer_stand_for_them(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(link: Path, target: str) -> None:
        raise LinksUnsupportedError(str(link))

    monkeypatch.setattr("oneseek.runs.publish.point", unsupported)

    first, _ = town.train("alfa-1b", training__num_epochs=1)
    second, _ = town.train("alfa-1b", training__num_epochs=1, training__seed=3)

    newest = town.results.newest_adapter("alfa-1b")
    assert not newest.is_symlink()
    assert (newest / "adapter_model.safetensors").read_bytes() == adapters(second)["alfa-1b"]
    assert adapters(first) != adapters(second)
    assert town.results.current.read_text().strip() == "oneseek-7b-zero"
    assert not list(town.results.adapters.glob("*-before*"))


def test_a_copy_that_went_wrong_is_found_before_anything_points_to_it(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaging(source: Path, target: Path) -> None:
        copy_tree(source, target)
        file = target / "adapter_model.safetensors"
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(bytes(data))

    with monkeypatch.context() as broken:
        broken.setattr("oneseek.runs.publish.copy_tree", damaging)
        with town.submit("alfa-1b", training__num_epochs=1) as run, pytest.raises(StorageError, match="alfa-1b") as bad:
            runs.train(run)

    assert "remove that directory" in bad.value.fix
    assert not town.results.newest_adapter("alfa-1b").exists()


def test_a_base_model_that_changes_during_the_run_is_not_certified(town: Town) -> None:
    def change(record: Record, state: RunState) -> None:
        if isinstance(record.event, EpochCommitted):
            config = town.home.models / "beta-1b" / "config.json"
            config.write_text(config.read_text() + " ")

    with town.submit(training__num_epochs=1, watch=change) as run, pytest.raises(RunError, match="beta-1b"):
        runs.train(run)

    assert runs.describe(run.directory).status == "failed"


def test_a_model_that_is_verified_is_not_quarantined_too(town: Town) -> None:
    with town.submit(watch=stop_after(1), training__num_epochs=1) as run, pytest.raises(KeyboardInterrupt):
        runs.train(run)
    town.script("beta-1b", {"fail": {"epoch": 0, "kind": "out_of_memory", "times": 1}})

    town.resume(run.directory)

    dna = load(run.directory.dna)
    assert dna["baseModels"] == ["alfa-1b", "beta-1b"]
    assert dna["quarantined"] == {}


def test_a_worker_lost_while_it_prepares_for_a_resumed_run_is_replaced(town: Town) -> None:
    undisturbed, _ = town.train()
    with town.submit(watch=stop_after(1)) as run, pytest.raises(KeyboardInterrupt):
        runs.train(run)
    town.script("beta-1b", {"fail": {"epoch": 0, "kind": "crashed", "times": 2}})

    town.resume(run.directory)

    assert len([event for event in events(run.directory) if isinstance(event, WorkerRestarted)]) == 2
    assert adapters(run.directory) == adapters(undisturbed)


def test_the_recipe_is_that_of_the_request_whoever_fell_out(town: Town) -> None:
    whole, _ = town.train(training__num_epochs=1)
    town.script("beta-1b", {"fail": {"epoch": 0, "kind": "out_of_memory"}})

    without, _ = town.train(training__num_epochs=1)

    assert load(whole.dna)["hashes"]["recipe"] == load(without.dna)["hashes"]["recipe"]


def test_odd_things_among_the_runs_do_not_break_the_list(town: Town) -> None:
    directory, _ = town.train(training__num_epochs=1)
    (town.results.runs / "run-20200101-000000" / "journal.jsonl").mkdir(parents=True)
    foreign = town.results.runs / "run-20200101-000001"
    foreign.mkdir()
    (foreign / "journal.jsonl").write_text("hello\n")

    listed = {run.run_id: run.status for run in runs.list_runs(town.home)}

    assert listed == {
        directory.run_id: "completed",
        "run-20200101-000000": "damaged",
        "run-20200101-000001": "damaged",
    }


def test_a_model_may_be_called_like_one_of_our_own_files(town: Town) -> None:
    town.add_model("stop")
    town.add_model("logs")

    directory, state = town.train("stop", "logs", training__num_epochs=1)

    assert set(adapters(directory)) == {"stop", "logs"}
    assert state.status == "completed"


def test_a_run_whose_work_was_removed_by_hand_starts_over_to_the_same_bits(town: Town) -> None:
    undisturbed, _ = town.train()
    with town.submit(watch=stop_after(2)) as run, pytest.raises(KeyboardInterrupt):
        runs.train(run)
    shutil.rmtree(run.directory.work)

    town.resume(run.directory)

    assert adapters(run.directory) == adapters(undisturbed)


def test_a_reservation_that_was_broken_off_is_swept_by_the_next_start(town: Town) -> None:
    town.results.weights.mkdir(parents=True)
    town.results.reservation("1.0").touch()
    town.results.reservation("1.1").write_text("run-20251122-143025\n")

    directory, state = town.train(training__num_epochs=1)

    assert state.accepted.version == "1.0"
    assert not list(town.results.weights.glob("*.reserved"))
    assert directory.dna.exists()
