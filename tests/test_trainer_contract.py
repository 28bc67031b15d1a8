"""What every engine must do. One suite, both engines; the torch one trains a real model of 36,000 weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import safetensors.numpy

from oneseek.certificate.tensors import tensors_digest
from oneseek.engine.create import create
from oneseek.engine.interface import Assignment, Damaged, EngineName, EpochResult, Progress, Trainer
from oneseek.errors import WorkerFailed
from support.tiny_models import assignment, chat_rows, preference_rows, write_model, write_rows

RATES = (2e-3, 1e-3, 3e-3)
Message = Progress | Damaged


def ignore(message: Message) -> None:
    """For reports that a test is not about."""


@dataclass
class Bench:
    """Trainers of one engine on one model and dataset, each in a directory of its own."""

    engine: EngineName
    model: Path
    dataset: Path
    root: Path
    settings: dict[str, Any]

    def assignment(self, directory: str = "work", **changes: Any) -> Assignment:
        changes = {"engine": self.engine, "lora_dropout": 0.1, **self.settings, **changes}
        return assignment(self.model, self.dataset, self.root / directory, **changes)

    def trainer(self, directory: str = "work", **changes: Any) -> Trainer:
        trainer = create(self.assignment(directory, **changes))
        trainer.prepare()
        return trainer

    def files(self, directory: str = "work") -> dict[str, bytes]:
        root = self.root / directory
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    def checkpoints(self, directory: str = "work") -> dict[str, bytes]:
        return {name: data for name, data in self.files(directory).items() if name.startswith("epoch-")}


PREFERENCES = {"method": "dpo", "format": "preference_chat"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("base")
    write_model(root / "tiny-llama", "llama")
    write_rows(root / "rows.jsonl", chat_rows(20))
    write_rows(root / "pairs.jsonl", preference_rows(20))
    return root


@pytest.fixture(
    params=["scripted", *(pytest.param(name, marks=pytest.mark.engine) for name in ("torch", "torch, preferences"))]
)
def bench(request: pytest.FixtureRequest, base: Path, tmp_path: Path) -> Bench:
    engine, _, preferences = request.param.partition(", ")
    dataset = base / ("pairs.jsonl" if preferences else "rows.jsonl")
    return Bench(engine, base / "tiny-llama", dataset, tmp_path, PREFERENCES if preferences else {})


def train(trainer: Trainer, rates: Sequence[float] = RATES, report: Callable[[Message], None] = ignore) -> list[Any]:
    return [trainer.train_epoch(epoch, rates[:epoch], (), report) for epoch in range(1, len(rates) + 1)]


def measured(results: Sequence[EpochResult]) -> list[dict[str, Any]]:
    """What must be equal in two equal trainings: all but speed and memory."""
    timed = ("tokens_per_second", "memory_bytes")
    return [{k: v for k, v in msgspec.to_builtins(result).items() if k not in timed} for result in results]


@pytest.fixture
def undisturbed(bench: Bench) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Results and checkpoints of a training that nothing happened to."""
    results = measured(train(bench.trainer("undisturbed")))
    return results, bench.checkpoints("undisturbed")


def test_the_same_assignment_and_learning_rates_give_the_same_bytes(
    bench: Bench, undisturbed: tuple[list[dict[str, Any]], dict[str, bytes]]
) -> None:
    again = measured(train(bench.trainer()))

    assert (again, bench.checkpoints()) == undisturbed


def test_every_epoch_is_reported_step_by_step(bench: Bench) -> None:
    trainer = create(bench.assignment())
    prepared = trainer.prepare()
    reports: list[Message] = []

    train(trainer, report=reports.append)

    steps = [(r.epoch, r.step, r.steps) for r in reports if isinstance(r, Progress)]
    assert prepared.steps_per_epoch == 4
    assert steps == [(epoch, step, 4) for epoch in (1, 2, 3) for step in (1, 2, 3, 4)]
    assert len(reports) == len(steps)


def test_the_learning_rate_is_the_epochs_own_times_the_schedule(bench: Bench) -> None:
    reports: list[Message] = []

    results = train(bench.trainer(lr_scheduler="linear", warmup_ratio=0.25), report=reports.append)

    factors = [1 / 3, 2 / 3, 1, 1, *(1 - done / 9 for done in range(1, 9))]
    expected = [RATES[step // 4] * factor for step, factor in enumerate(factors)]
    assert [r.learning_rate for r in reports if isinstance(r, Progress)] == pytest.approx(expected)
    assert [result.learning_rate for result in results] == list(RATES)


@pytest.mark.parametrize("change", [{"seed": 8}, {"num_epochs": 4}])
def test_another_assignment_gives_other_bytes(bench: Bench, change: dict[str, Any]) -> None:
    train(bench.trainer())
    train(bench.trainer("other", **change))

    assert bench.checkpoints()["epoch-3/manifest.json"] != bench.checkpoints("other")["epoch-3/manifest.json"]


def test_where_things_are_changes_no_byte(
    bench: Bench, undisturbed: tuple[list[dict[str, Any]], dict[str, bytes]]
) -> None:
    elsewhere = bench.root / "elsewhere"
    shutil.copytree(bench.model, elsewhere / bench.model.name)
    shutil.copy(bench.dataset, elsewhere / "copy.jsonl")

    changes = {"model_path": str(elsewhere / bench.model.name), "dataset_path": str(elsewhere / "copy.jsonl")}
    train(bench.trainer(**changes))

    assert bench.checkpoints() == undisturbed[1]


@pytest.mark.parametrize("done", [0, 1, 2, 3])
def test_a_new_trainer_goes_on_bit_for_bit_after_any_epoch(
    bench: Bench, undisturbed: tuple[list[dict[str, Any]], dict[str, bytes]], done: int
) -> None:
    train(bench.trainer(), RATES[:done])
    resumed = bench.trainer()

    results = [resumed.train_epoch(epoch, RATES[:epoch], (), ignore) for epoch in range(done + 1, 4)]

    assert measured(results) == undisturbed[0][done:]
    assert bench.checkpoints() == undisturbed[1]


def test_an_epoch_that_was_trained_and_not_committed_is_trained_again(
    bench: Bench, undisturbed: tuple[list[dict[str, Any]], dict[str, bytes]]
) -> None:
    train(bench.trainer(), RATES[:2])

    results = [bench.trainer().train_epoch(epoch, RATES[:epoch], (), ignore) for epoch in (2, 3)]

    assert measured(results) == undisturbed[0][1:]
    assert bench.checkpoints() == undisturbed[1]


def test_a_trainer_broken_off_within_an_epoch_goes_on_as_if_it_had_not_been(
    bench: Bench, undisturbed: tuple[list[dict[str, Any]], dict[str, bytes]]
) -> None:
    def break_off(message: Message) -> None:
        if isinstance(message, Progress) and message.step == 2:
            raise KeyboardInterrupt

    trainer = bench.trainer()
    train(trainer, RATES[:1])
    with pytest.raises(KeyboardInterrupt):
        trainer.train_epoch(2, RATES[:2], (), break_off)

    results = [trainer.train_epoch(epoch, RATES[:epoch], (), ignore) for epoch in (2, 3)]

    assert measured(results) == undisturbed[0][1:]
    assert bench.checkpoints() == undisturbed[1]


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("every", [1, 2])
def test_a_trainer_lost_within_an_epoch_goes_on_from_its_last_step_checkpoint_bit_for_bit(
    bench: Bench, undisturbed: tuple[list[dict[str, Any]], dict[str, bytes]], every: int, steps: int
) -> None:
    def break_off(message: Message) -> None:
        if isinstance(message, Progress) and message.step == steps:
            raise KeyboardInterrupt

    lost = bench.trainer(checkpoint_every=every)
    train(lost, RATES[:1])
    with pytest.raises(KeyboardInterrupt):
        lost.train_epoch(2, RATES[:2], (), break_off)
    reports: list[Message] = []

    resumed = bench.trainer(checkpoint_every=every)
    results = [resumed.train_epoch(epoch, RATES[:epoch], (), reports.append) for epoch in (2, 3)]

    kept = (steps - 1) // every * every  # a step is reported before it is kept
    assert [r.step for r in reports if isinstance(r, Progress)] == [*range(kept + 1, 5), 1, 2, 3, 4]
    assert measured(results) == undisturbed[0][1:]
    checkpoints = bench.checkpoints()
    assert {name: data for name, data in checkpoints.items() if "-step-" not in name} == undisturbed[1]
    assert len({name.split("/")[0] for name in checkpoints if "-step-" in name}) <= 2


def test_a_damaged_step_checkpoint_is_said_and_the_one_before_is_used(
    bench: Bench, undisturbed: tuple[list[dict[str, Any]], dict[str, bytes]]
) -> None:
    train(bench.trainer(checkpoint_every=1), RATES[:1])
    shutil.rmtree(bench.root / "work" / "epoch-1")
    (bench.root / "work" / "epoch-1-step-3" / "state.json").unlink()
    reports: list[Message] = []

    result = bench.trainer(checkpoint_every=1).train_epoch(1, RATES[:1], (), reports.append)

    assert [(r.epoch, "epoch-1-step-3/" in r.problem) for r in reports if isinstance(r, Damaged)] == [(1, True)]
    assert [r.step for r in reports if isinstance(r, Progress)] == [3, 4]
    assert measured([result]) == undisturbed[0][:1]


def test_a_step_checkpoint_of_another_learning_rate_is_not_used(
    bench: Bench, undisturbed: tuple[list[dict[str, Any]], dict[str, bytes]]
) -> None:
    train(bench.trainer(checkpoint_every=1), (RATES[0], 5e-3))
    reports: list[Message] = []

    result = bench.trainer(checkpoint_every=1).train_epoch(2, RATES[:2], (), reports.append)

    assert [r.step for r in reports if isinstance(r, Progress)] == [1, 2, 3, 4]
    assert measured([result]) == undisturbed[0][1:2]


def test_lost_checkpoints_are_trained_again_in_silence(
    bench: Bench, undisturbed: tuple[list[dict[str, Any]], dict[str, bytes]]
) -> None:
    reports: list[Message] = []

    result = bench.trainer().train_epoch(3, RATES, (), reports.append)

    assert measured([result]) == undisturbed[0][2:]
    assert bench.checkpoints() == undisturbed[1]
    assert {r.epoch for r in reports if isinstance(r, Progress)} == {3}


def test_one_flipped_byte_in_any_file_of_a_checkpoint_is_said_and_the_epoch_before_is_used(
    bench: Bench, undisturbed: tuple[list[dict[str, Any]], dict[str, bytes]]
) -> None:
    names = [name for name in undisturbed[1] if name.startswith("epoch-2/")]
    assert len(names) == 3
    for name in names:
        shutil.copytree(bench.root / "undisturbed", bench.root / "work")
        path = bench.root / "work" / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        reports: list[Message] = []

        result = bench.trainer().train_epoch(3, RATES, (), reports.append)

        damaged = [report for report in reports if isinstance(report, Damaged)]
        assert [report.epoch for report in damaged] == [2]
        assert "epoch-2/" in damaged[0].problem
        assert measured([result]) == undisturbed[0][2:]
        assert bench.checkpoints() == undisturbed[1]
        shutil.rmtree(bench.root / "work")


def test_a_state_reached_with_other_learning_rates_is_not_taken_for_this_one(bench: Bench) -> None:
    other = (RATES[0], 5e-3)
    trainer = bench.trainer()
    train(trainer, other)
    reports: list[Message] = []

    in_memory = trainer.train_epoch(3, RATES, (), reports.append)
    from_disk = bench.trainer("fresh").train_epoch(3, RATES, (), ignore)

    assert measured([in_memory]) == measured([from_disk])
    assert not any(isinstance(report, Damaged) for report in reports)


def test_the_first_epoch_can_be_trained_anew_with_another_learning_rate(
    bench: Bench, undisturbed: tuple[list[dict[str, Any]], dict[str, bytes]]
) -> None:
    trainer = bench.trainer()
    trainer.train_epoch(1, (5e-3,), (), ignore)

    result = trainer.train_epoch(1, RATES[:1], (), ignore)

    assert measured([result]) == undisturbed[0][:1]


def test_other_learning_rates_lead_to_another_state(bench: Bench) -> None:
    train(bench.trainer(), RATES[:1])
    train(bench.trainer("other"), (5e-3,))

    states, others = (
        {name: data for name, data in bench.checkpoints(directory).items() if not name.endswith(".json")}
        for directory in ("work", "other")
    )

    assert states.keys() == others.keys()
    assert states != others


def test_a_checkpoint_of_another_assignment_is_not_used(
    bench: Bench, undisturbed: tuple[list[dict[str, Any]], dict[str, bytes]]
) -> None:
    train(bench.trainer(seed=8), RATES[:2])

    result = bench.trainer().train_epoch(3, RATES, (), ignore)

    assert measured([result]) == undisturbed[0][2:]


def test_excluding_every_validation_row_leaves_no_bits_per_byte_and_the_same_loss(bench: Bench) -> None:
    everything = range(20)

    some = bench.trainer().train_epoch(1, RATES[:1], (), ignore)
    none = bench.trainer("none").train_epoch(1, RATES[:1], everything, ignore)

    assert some.bits_per_byte is None if bench.settings else some.bits_per_byte is not None and some.bits_per_byte > 0
    assert none.bits_per_byte is None
    assert (none.val_loss, none.checkpoint) == (some.val_loss, some.checkpoint)


def test_an_earlier_epoch_is_exported_as_it_would_have_been_then(bench: Bench) -> None:
    early = bench.trainer("early")
    train(early, RATES[:2])
    late = bench.trainer()
    train(late)

    then = early.export(2, RATES[:2], ignore)
    now = late.export(2, RATES, ignore)

    assert now == then
    assert now.epoch == 2
    assert now.lora_b_norm > 0
    assert now.output_difference > 0
    weights = "export/adapter/adapter_model.safetensors"
    assert bench.files()[weights] == bench.files("early")[weights]


def test_training_goes_on_after_an_export(
    bench: Bench, undisturbed: tuple[list[dict[str, Any]], dict[str, bytes]]
) -> None:
    trainer = bench.trainer()
    train(trainer, RATES[:2])

    trainer.export(1, RATES[:2], ignore)
    result = trainer.train_epoch(3, RATES, (), ignore)

    assert measured([result]) == undisturbed[0][2:]


def test_a_damaged_checkpoint_on_the_way_to_an_export_is_said(bench: Bench) -> None:
    train(bench.trainer())
    expected = bench.trainer().export(3, RATES, ignore)
    (bench.root / "work" / "epoch-3" / "manifest.json").unlink()
    reports: list[Message] = []

    exported = bench.trainer().export(3, RATES, reports.append)

    assert exported == expected
    assert [type(report) for report in reports] == [Damaged]


def test_an_export_has_pefts_names_the_tokenizer_and_a_digest_over_the_tensors(bench: Bench) -> None:
    trainer = bench.trainer()
    train(trainer)

    exported = trainer.export(3, RATES, ignore)

    directory = bench.root / "work" / "export"
    tensors = safetensors.numpy.load_file(directory / "adapter" / "adapter_model.safetensors")
    assert {path.name for path in directory.iterdir()} == {"adapter", "weights.pth"}
    assert {path.name for path in (directory / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert all(
        name.startswith("base_model.model.model.layers.") and name.endswith((".lora_A.weight", ".lora_B.weight"))
        for name in tensors
    )
    assert exported.tensors_sha256 == tensors_digest(
        (name, "F32", tensor.shape, tensor.astype("<f4").tobytes()) for name, tensor in tensors.items()
    )


def test_an_export_is_replaced_whole(bench: Bench) -> None:
    trainer = bench.trainer()
    train(trainer)
    first = trainer.export(1, RATES, ignore)
    (bench.root / "work" / "export" / "adapter" / "stray").write_bytes(b"")

    second = trainer.export(3, RATES, ignore)

    assert first.tensors_sha256 != second.tensors_sha256
    assert not any("stray" in name or ".tmp" in name for name in bench.files())


def test_a_dataset_that_changed_is_refused(bench: Bench) -> None:
    trainer = create(bench.assignment(dataset_sha256="0" * 64))

    with pytest.raises(WorkerFailed) as failed:
        trainer.prepare()

    assert failed.value.kind == "refused"
    assert "has changed" in failed.value.problem
