"""What a rehearsal tells of a run before it, and that nothing is left of it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneseek.config.schema import TrainingConfig
from oneseek.datasets.formats import UsedFormat
from oneseek.engine.interface import EngineName
from oneseek.engine.rehearsal import Measured, Stage, heaviest
from oneseek.estimate import memory_of
from oneseek.events import DatasetUsed
from oneseek.files.durable import sha256_file
from oneseek.registry.discover import describe
from oneseek.runs.rehearse import RULE, Rehearsal, Rehearsed, Watch, findings, pace, rehearse
from oneseek.runs.staff import Share, assignment
from support.runs import Town

MIB = 2**20


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary directories are made, by these tests alone."""
    directory = tmp_path / "scratch"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    return directory


def dataset(path: Path, form: UsedFormat = "messages", rows: int = 20) -> DatasetUsed:
    return DatasetUsed(
        path=str(path.resolve()),
        sha256=sha256_file(path),
        format=form,
        strategy="chat" if form == "messages" else "standard",
        training_rows=rows - 2,
        validation_rows=2,
        rows_sha256="",
    )


def rehearsed(
    town: Town, *, engine: EngineName = "scripted", watch: Watch = lambda key, stage: None, **settings: Any
) -> Rehearsal:
    """The rehearsal of the models of a town."""
    config = town.config(**settings)
    models = [describe(town.home.models / name) for name in config.model.selection]
    return rehearse(config, models, dataset(town.dataset), lambda key: 100, engine=engine, watch=watch)


def files(*directories: Path) -> set[Path]:
    return {path for directory in directories for path in directory.rglob("*")}


# -- what it tells -------------------------------------------------------------------------------------------------


def test_a_rehearsal_tells_of_every_model_what_its_training_takes(town: Town) -> None:
    found = rehearsed(town)

    assert [each.key for each in found.models] == ["alfa-1b", "beta-1b"]
    for each in found.models:
        assert each.problem is None
        assert 10 * MIB < (each.peak_bytes or 0) < each.estimated_bytes  # the scripted engine is small
        assert (each.seconds_per_step or 0) > 0
        assert (each.tokens_per_second or 0) > 0
    assert found.projected_seconds is not None
    assert found.projected_seconds > max(each.projected_seconds or 0 for each in found.models)


def test_the_whole_run_is_projected_from_one_step(town: Town) -> None:
    town.script("alfa-1b", {"step_seconds": 0.2})

    found = rehearsed(town, model__base_models=["alfa-1b"], training__num_epochs=10, training__batch_size=3)

    (model,) = found.models
    assert 0.2 <= (model.seconds_per_step or 0) < 0.3
    assert 10 * 6 * 0.2 < (model.projected_seconds or 0) < 10 * 6 * 0.2 + 15  # 18 rows are 6 steps


def test_the_stages_of_each_model_are_told_as_they_begin(town: Town) -> None:
    told: list[tuple[str, Stage]] = []

    rehearsed(town, watch=lambda key, stage: told.append((key, stage)))

    stages = ("loading", "training", "evaluating", "saving")
    assert told == [(key, stage) for key in ("alfa-1b", "beta-1b") for stage in stages]


# -- what can go wrong ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"epoch": 1, "kind": "diverged"}, "loss became nan"),
        ({"epoch": 0, "kind": "out_of_memory"}, "Memory ran out"),
        ({"epoch": 1, "kind": "crashed"}, "CrashError: scripted crash"),
        ({"epoch": 1, "kind": "exit"}, "While training: It was killed (exit 137); the machine may be out of memory"),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)
def test_what_would_end_a_training_is_told_and_the_others_are_still_rehearsed(
    town: Town, fault: dict[str, Any], words: str
) -> None:
    town.script("alfa-1b", {"fail": fault})

    found = rehearsed(town)

    failed, passed = found.models
    assert words in (failed.problem or "")
    assert failed.peak_bytes is None
    assert passed.problem is None
    assert found.projected_seconds is None


def test_a_failed_rehearsal_is_an_error_of_its_model() -> None:
    failed = Rehearsed(key="alfa-1b", estimated_bytes=100, problem="It burst.", fix="Mend it.")
    passed = Rehearsed(key="beta-1b", estimated_bytes=100, peak_bytes=90)

    (finding,) = findings(Rehearsal(models=(failed, passed), at_once=1, projected_seconds=None), 90)

    assert (finding.rule, finding.severity, finding.model) == (RULE, "error", "alfa-1b")
    assert (finding.problem, finding.fix) == ("It burst.", "Mend it.")


@pytest.mark.parametrize(("at_once", "free", "warned"), [(2, 499, True), (2, 500, False), (1, 300, False)])
def test_models_that_do_not_fit_side_by_side_are_warned_of(at_once: int, free: int, warned: bool) -> None:
    models = tuple(
        Rehearsed(key=f"m{peak}", estimated_bytes=0, peak_bytes=peak * MIB, projected_seconds=1.0)
        for peak in (100, 200, 300)
    )

    found = findings(Rehearsal(models=models, at_once=at_once, projected_seconds=3.0), free * MIB)

    assert [finding.severity for finding in found] == ["warning"] * warned


# -- nothing is left -----------------------------------------------------------------------------------------------


def test_nothing_is_left_behind(town: Town, scratch: Path) -> None:
    town.script("alfa-1b", {"fail": {"epoch": 1, "kind": "exit"}})
    before = files(town.root, scratch)

    rehearsed(town)

    assert files(town.root, scratch) == before


def rehearsing() -> list[psutil.Process]:
    """The processes that rehearse now; other tests may have left others behind that are not waited for yet."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # a ZombieProcess is one
            if "rehearsing" in " ".join(child.cmdline()):
                found.append(child)
    return found


@pytest.mark.parametrize("broken_off", ["training", "saving"])
def test_nothing_is_left_when_it_is_broken_off(town: Town, scratch: Path, broken_off: Stage) -> None:
    before = files(town.root, scratch)

    def interrupt(key: str, stage: Stage) -> None:
        if stage == broken_off:
            assert list(scratch.iterdir())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rehearsed(town, watch=interrupt)

    assert files(town.root, scratch) == before
    assert rehearsing() == []


def test_nothing_is_left_of_a_process_that_is_killed(town: Town, scratch: Path) -> None:
    town.script("alfa-1b", {"step_seconds": 60.0})
    before = files(town.root, scratch)

    def kill(key: str, stage: Stage) -> None:
        if (key, stage) == ("alfa-1b", "training"):
            (child,) = rehearsing()
            child.kill()

    found = rehearsed(town, watch=kill)

    assert "may be out of memory" in (found.models[0].problem or "")
    assert found.models[1].problem is None
    assert files(town.root, scratch) == before


# -- how it is measured --------------------------------------------------------------------------------------------


def test_memory_is_that_of_the_process_alone_and_not_of_whoever_started_it() -> None:
    held = bytearray(b"x") * (300 * MIB)
    code = "from oneseek.engine.machine import peak_memory_bytes; print(peak_memory_bytes())"

    peak = int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)

    assert len(held) > peak > 5 * MIB


@given(sizes=st.lists(st.integers(1, 100), min_size=1, max_size=30), count=st.integers(1, 10), room=st.integers(0, 300))
def test_the_heaviest_step_begins_with_the_longest_row_and_a_batch_that_nothing_more_fits_into(
    sizes: list[int], count: int, room: int
) -> None:
    items = list(enumerate(sizes))

    chosen = heaviest(items, lambda item: item[1], count, room)

    assert len(set(chosen)) == len(chosen) == min(count, len(items))
    assert chosen[0][1] == max(sizes)
    batch, rest = filled([size for _, size in chosen], room)
    left = [size for index, size in items if (index, size) not in chosen]
    if len(chosen) == count and not rest:
        return  # the whole step is one batch
    assert all(sum(batch) + size > room for size in (*rest, *left))


def filled(sizes: list[int], room: int) -> tuple[list[int], list[int]]:
    """The first batch, and the others."""
    count = 1
    while count < len(sizes) and sum(sizes[: count + 1]) <= room:
        count += 1
    return sizes[:count], sizes[count:]


def test_an_evaluation_costs_half_of_a_training_and_a_third_where_activations_are_computed_twice(town: Town) -> None:
    found = Measured(
        peak_bytes=1,
        load_seconds=5.0,
        step_seconds=1.0,
        tokens_per_second=100.0,
        evaluation_seconds=2.0,
        export_seconds=3.0,
        training_tokens=900,
        validation_tokens=300,
    )

    def of(again: bool, method: str = "sft") -> list[float]:
        config = TrainingConfig.model_validate({"training": {"method": method}})
        told = assignment(
            "scripted",
            dataset(town.dataset),
            config,
            key="alfa-1b",
            model_path="",
            target_modules=(),
            share=Share(1, 1024, again),
            directory=Path(),
            token_cache=None,
        )
        expected = pace(found, told)
        return [expected.load, expected.once, expected.epoch]

    assert of(again=False) == pytest.approx([5, 3, 9 + 1.5 + 2])
    assert of(again=True) == pytest.approx([5, 3, 9 + 1 + 2])
    assert of(again=False, method="dpo") == pytest.approx([5, 6 + 3, 9 + 1.5 + 2])


# -- with torch ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from shapes import TINY
    from words import write_model

    directory = tmp_path_factory.mktemp("models") / "tiny"
    write_model(directory, TINY, 0)
    return directory


def rows(path: Path, method: str) -> DatasetUsed:
    """Twenty rows of 256 tokens."""
    import random

    from words import completions, preferences, write_rows

    draw = random.Random(0)
    made = preferences([256] * 20, draw) if method == "dpo" else completions([256] * 20, draw)
    return dataset(write_rows(path, made), "preference" if method == "dpo" else "prompt_completion")


@pytest.mark.engine
@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_a_real_rehearsal_takes_the_memory_that_was_estimated(
    tiny: Path, tmp_path: Path, scratch: Path, method: str
) -> None:
    config = TrainingConfig.model_validate(
        {
            "training": {"method": method, "batch_size": 4, "gradient_accumulation_steps": 1, "num_epochs": 2},
            "lora": {"target_modules": "all-linear"},
            "execution": {"threads": 1, "gradient_checkpointing": "never"},
        }
    )
    info = describe(tiny)

    (found,) = rehearse(config, [info], rows(tmp_path / "rows.jsonl", method), lambda key: 1000).models

    assert found.problem is None
    assert found.estimated_bytes == memory_of(info, config, 1024).total
    assert found.peak_bytes == pytest.approx(found.estimated_bytes, rel=0.25)
    assert (found.projected_seconds or 0) > (found.seconds_per_step or 0) * 8  # two epochs of five steps
    assert not list(scratch.iterdir())
