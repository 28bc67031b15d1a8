"""Kill anything at any time: the run that is resumed ends with the bits of one that nobody disturbed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from oneseek import runs
from oneseek.files.layout import RunDirectory
from support.runs import Town, adapters, everything

HERE = Path(__file__).parent
REAL = pytest.mark.xdist_group("real kills")
ONESEEK = [sys.executable, "-m", "oneseek"]


@pytest.mark.parametrize(
    ("kills", "seed", "executor"), [*((75, seed, "inline") for seed in range(4)), (15, 4, "local")]
)
def test_scripted_runs_survive_every_kill_bit_for_bit(tmp_path: Path, kills: int, seed: int, executor: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "support.storm", str(tmp_path), str(kills), str(seed), executor],
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    left = json.loads(done.stdout)
    assert left["killed"] >= kills
    assert [left[what] for what in ("differences", "temporary", "unfinished", "orphans")] == [[]] * 4


@pytest.fixture(scope="module")
def real_town(tmp_path_factory: pytest.TempPathFactory) -> Town:
    """A home with two tiny real models, and a complete run of theirs."""
    from support import tiny_models

    town = Town(tmp_path_factory.mktemp("real"))
    tiny_models.write_model(town.home.models / "alfa-1b", "llama")
    tiny_models.write_model(town.home.models / "beta-1b", "gpt2")
    rows = [
        {"prompt": row["messages"][0]["content"], "completion": row["messages"][1]["content"]}
        for row in tiny_models.chat_rows(60)
    ]
    tiny_models.write_rows(town.dataset, rows)
    return town


def start(town: Town, *command: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "ONESEEK_HOME": str(town.root)}
    return subprocess.Popen(
        [*ONESEEK, *command], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=town.root
    )


def train(town: Town) -> subprocess.Popen[bytes]:
    settings = ("--set", "lora.dropout=0.1", "--set", "training.gradient_accumulation_steps=2")
    return start(
        town, "train", "--dataset", str(town.dataset), "--base-models", "alfa-1b", "beta-1b", "--epochs", "3",
        "--batch-size", "4", *settings,
    )  # fmt: skip


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Exit code and what was said on standard error, when it has ended."""
    _, said = process.communicate(timeout=120)
    return process.returncode, said.decode()


def all_runs(town: Town) -> set[Path]:
    return {path.parent for path in town.results.runs.glob("*/journal.jsonl")}


def only_run(town: Town, besides: set[Path]) -> RunDirectory | None:
    new = all_runs(town) - besides
    assert len(new) <= 1
    return RunDirectory(new.pop()) if new else None


def kill_and_resume(town: Town, kills: int, seed: int) -> list[str]:
    """Kill a real run `kills` times at random instants, and again when it is complete; what went wrong."""
    dice = random.Random(seed)
    wrong: list[str] = []
    known = all_runs(town)
    began = time.monotonic()
    assert ended(train(town)) == (0, "")
    seconds = time.monotonic() - began
    undisturbed = only_run(town, known)
    assert undisturbed is not None
    expected = adapters(undisturbed)
    known, killed = known | {undisturbed.root}, 0
    directory: RunDirectory | None = None
    while killed < kills or directory is not None:
        process = train(town) if directory is None else start(town, "resume", directory.run_id)
        if killed < kills:
            time.sleep(dice.uniform(0, seconds))
        else:
            process.wait(120)
        if process.poll() is None:  # else it was quicker than we
            workers = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGKILL)
            killed += 1
            alive = psutil.wait_procs(workers, timeout=10)[1]
            wrong += [f"orphan {orphan.pid}" for orphan in alive]
        code, said = ended(process)
        if code not in (0, -signal.SIGKILL):
            wrong.append(f"exit {code}: {said}")
            break
        directory = directory or only_run(town, known)
        if directory and runs.describe(directory).status == "certified":
            if adapters(directory) != expected:
                wrong.append(f"{directory.run_id} has other bits")
            known.add(directory.root)
            directory = None
    paths = everything(town.home.models)
    return wrong + [path for path in paths if path.endswith((".tmp", "/work"))]


@pytest.mark.engine
@REAL
def test_real_runs_survive_three_kills_bit_for_bit(real_town: Town) -> None:
    assert kill_and_resume(real_town, kills=3, seed=int(time.time())) == []


@pytest.mark.soak
def test_real_runs_survive_thirty_kills_bit_for_bit(real_town: Town) -> None:
    assert kill_and_resume(real_town, kills=30, seed=int(time.time())) == []


@pytest.mark.engine
@REAL
def test_ctrl_c_is_recorded_and_the_run_goes_on_to_the_same_bits(real_town: Town) -> None:
    before = all_runs(real_town)
    process = train(real_town)
    while not ((directory := only_run(real_town, before)) and (directory.worker("alfa-1b") / "epoch-1").exists()):
        assert process.poll() is None
        time.sleep(0.05)

    process.send_signal(signal.SIGINT)
    code, said = ended(process)
    interrupted = runs.describe(directory)
    resumed = ended(start(real_town, "resume", directory.run_id))

    assert code == 130
    assert "oneseek resume" in said
    assert directory.run_id in said
    assert interrupted.status == "interrupted"
    assert resumed == (0, "")
    assert runs.describe(directory).status == "certified"
