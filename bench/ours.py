"""OneSeek's side of a comparison.

`python ours.py CASE MARKS STARTED` trains; `python ours.py give CASE` writes what peers are given.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

from case import Case, Given, Watch, as_script

from oneseek.datasets.formats import STRATEGY_OF
from oneseek.engine.create import create
from oneseek.engine.interface import Assignment, Damaged, Progress


def assignment(case: Case) -> Assignment:
    return Assignment(
        engine="torch",
        key=Path(case.model).name,
        model_path=case.model,
        dataset_path=case.dataset,
        dataset_sha256=hashlib.sha256(Path(case.dataset).read_bytes()).hexdigest(),
        format=case.format,
        strategy=STRATEGY_OF[case.format],
        validation_split=1e-9,  # one row
        max_length=case.max_length,
        directory=case.directory,
        threads=case.threads,
        method=case.method,
        seed=case.seed,
        num_epochs=case.epochs,
        batch_size=case.batch_size,
        gradient_accumulation_steps=1,
        lr_scheduler="constant",
        warmup_ratio=0.0,
        max_grad_norm=1.0,
        weight_decay=0.0,
        lora_r=case.lora_r,
        lora_alpha=case.lora_alpha,
        lora_dropout=0.0,
        target_modules=case.target_modules,
        dpo_beta=case.beta,
        dpo_loss=case.loss,
    )


def train(case: Case, watch: Watch) -> None:
    def report(message: Progress | Damaged) -> None:
        if isinstance(message, Progress):
            watch.step(message.loss)

    trainer = create(assignment(case))
    trainer.prepare()
    watch.begins()
    for epoch in range(1, case.epochs + 1):
        trainer.train_epoch(epoch, [case.learning_rate] * epoch, (), report)


def give(case: Case) -> Given:
    """The rows as we tokenise them, the order in which we take them, and our adapter before the first step; the adapter
    is written beside `case.given`."""
    from safetensors.torch import save_file

    from oneseek.engine.lora import adapter_state
    from oneseek.engine.order import row_order

    trainer: Any = create(assignment(case))
    trainer.prepare()
    adapter = f"{case.given}.safetensors"
    save_file(adapter_state(trainer.model), adapter)
    rows = trainer.objective.training
    return Given(
        rows=[_pair(row) if case.method == "dpo" else _example(row) for row in rows],
        orders=[row_order(case.seed, epoch, len(rows)) for epoch in range(1, case.epochs + 1)],
        adapter=adapter,
    )


def _example(row: Any) -> dict[str, list[int]]:
    return {"input_ids": [int(token) for token in row.input_ids], "labels": [int(label) for label in row.labels]}


def _pair(row: Any) -> dict[str, list[int]]:
    chosen, rejected = _example(row.chosen), _example(row.rejected)
    first = next(place for place, label in enumerate(chosen["labels"]) if label != -100)
    if chosen["input_ids"][:first] != rejected["input_ids"][:first] or rejected["labels"][first] == -100:
        raise ValueError("The answers of a pair begin at different tokens: TRL can't be given such a row.")
    return {
        "prompt_ids": chosen["input_ids"][:first],
        "chosen_ids": chosen["input_ids"][first:],
        "rejected_ids": rejected["input_ids"][first:],
    }


if __name__ == "__main__":
    if sys.argv[1] == "give":
        case = Case.read(Path(sys.argv[2]))
        give(case).write(Path(case.given))
    else:
        as_script(train)
