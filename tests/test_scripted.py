"""The scripted engine does what its script says, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from oneseek.engine.create import create
from oneseek.engine.interface import Assignment, Damaged, Progress, Trainer
from oneseek.errors import WorkerFailed
from support.tiny_models import assignment, chat_rows, write_rows

RATES = (1e-4, 1e-4, 1e-4)


def ignore(message: Progress | Damaged) -> None:
    """For reports that a test is not about."""


def scripted(tmp_path: Path, script: dict[str, Any], **changes: Any) -> Assignment:
    model = tmp_path / "model"
    model.mkdir(exist_ok=True)
    (model / "script.json").write_text(json.dumps(script))
    rows = write_rows(tmp_path / "rows.jsonl", chat_rows(20))
    return assignment(model, rows, tmp_path / "work", engine="scripted", **changes)


def prepared(tmp_path: Path, script: dict[str, Any]) -> Trainer:
    trainer = create(scripted(tmp_path, script))
    trainer.prepare()
    return trainer


def test_losses_follow_the_script_and_the_last_value_stays(tmp_path: Path) -> None:
    trainer = prepared(tmp_path, {"val_losses": [2.0, 1.5], "bits_per_byte": [1.0, 0.9, 0.8]})

    results = [trainer.train_epoch(epoch, RATES[:epoch], (), ignore) for epoch in (1, 2, 3)]

    assert [result.val_loss for result in results] == [2.0, 1.5, 1.5]
    assert [result.bits_per_byte for result in results] == [1.0, 0.9, 0.8]


def test_without_a_script_losses_fall_and_fall_faster_with_a_higher_learning_rate(tmp_path: Path) -> None:
    slow = prepared(tmp_path, {})
    low = [slow.train_epoch(epoch, RATES[:epoch], (), ignore).val_loss for epoch in (1, 2, 3)]

    fast = prepared(tmp_path, {}).train_epoch(1, (5e-4,), (), ignore).val_loss

    assert low == sorted(low, reverse=True)
    assert 0 < fast < low[0]


@pytest.mark.parametrize("kind", ["diverged", "out_of_memory"])
def test_a_scripted_failure_comes_in_its_epoch_and_leaves_no_checkpoint(tmp_path: Path, kind: str) -> None:
    trainer = prepared(tmp_path, {"fail": {"epoch": 2, "kind": kind}})
    trainer.train_epoch(1, RATES[:1], (), ignore)

    for _ in range(2):
        with pytest.raises(WorkerFailed) as failed:
            trainer.train_epoch(2, RATES[:2], (), ignore)

        assert failed.value.kind == kind
    assert not (tmp_path / "work" / "epoch-2").exists()


def test_a_failure_happens_as_often_as_the_script_says_whoever_trains(tmp_path: Path) -> None:
    script = {"fail": {"epoch": 1, "kind": "crashed", "times": 2}}
    for _ in range(2):
        with pytest.raises(RuntimeError, match="scripted crash"):
            prepared(tmp_path, script).train_epoch(1, RATES[:1], (), ignore)

    result = prepared(tmp_path, script).train_epoch(1, RATES[:1], (), ignore)

    assert result.epoch == 1


def test_a_failure_in_epoch_zero_comes_while_preparing(tmp_path: Path) -> None:
    trainer = create(scripted(tmp_path, {"fail": {"epoch": 0, "kind": "out_of_memory"}}))

    with pytest.raises(WorkerFailed):
        trainer.prepare()


def test_a_hanging_trainer_answers_no_more(tmp_path: Path) -> None:
    trainer = prepared(tmp_path, {"fail": {"epoch": 1, "kind": "hang"}})
    thread = threading.Thread(target=lambda: trainer.train_epoch(1, RATES[:1], (), ignore), daemon=True)

    thread.start()
    thread.join(timeout=0.5)

    assert thread.is_alive()


def test_an_exit_takes_the_process_with_it_and_torch_was_never_imported(tmp_path: Path) -> None:
    told = scripted(tmp_path, {"fail": {"epoch": 2, "kind": "exit"}})
    program = (
        "import sys, msgspec\n"
        "from oneseek.engine.create import create\n"
        "from oneseek.engine.interface import Assignment\n"
        "trainer = create(msgspec.json.decode(sys.stdin.buffer.read(), type=Assignment))\n"
        "trainer.prepare()\n"
        "trainer.train_epoch(1, [1e-4], (), lambda _: None)\n"
        "trainer.export(1, [1e-4], lambda _: None)\n"
        "print('torch' in sys.modules, 'transformers' in sys.modules, flush=True)\n"
        "trainer.train_epoch(2, [1e-4, 1e-4], (), lambda _: None)\n"
    )

    ended = subprocess.run(
        [sys.executable, "-c", program], input=msgspec.json.encode(told), capture_output=True, check=False, timeout=60
    )

    assert (ended.returncode, ended.stdout, ended.stderr) == (137, b"False False\n", b"")


def test_truncated_rows_of_the_script_are_found_while_preparing(tmp_path: Path) -> None:
    trainer = create(scripted(tmp_path, {"incomparable_validation_rows": [1, 3]}))

    assert trainer.prepare().incomparable_validation_rows == (1, 3)
    assert trainer.train_epoch(1, RATES[:1], (0,), ignore).bits_per_byte is not None
    assert trainer.train_epoch(1, RATES[:1], (0, 2), ignore).bits_per_byte is None


def test_a_misspelt_script_is_an_error_not_a_default(tmp_path: Path) -> None:
    with pytest.raises(msgspec.ValidationError, match="val_loss"):
        prepared(tmp_path, {"val_loss": [1.0]})
