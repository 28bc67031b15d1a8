"""LLaMA-Factory's side of a comparison: the run that its command line starts, on rows that are tokenised already.

It has no setting for a given order of rows, so its trainer is replaced by one that takes them in that order.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from case import Case, Given, Watch, as_script
from trl_peer import lora, watched


def train(case: Case, watch: Watch) -> None:
    from datasets import Dataset
    from llamafactory.train.dpo import trainer as dpo
    from llamafactory.train.sft import workflow as sft
    from llamafactory.train.tuner import run_exp

    given = Given.read(Path(case.given))
    work = Path(case.directory)
    Dataset.from_list([_row(row) for row in given.rows]).save_to_disk(work / "rows")
    lora(case).save_pretrained(work / "adapter")
    shutil.copy(given.adapter, work / "adapter" / "adapter_model.safetensors")
    sft.CustomSeq2SeqTrainer = watched(sft.CustomSeq2SeqTrainer, case, given, watch)
    dpo.CustomDPOTrainer = watched(dpo.CustomDPOTrainer, case, given, watch)
    run_exp(_settings(case, work))


def _row(row: dict[str, list[int]]) -> dict[str, Any]:
    """A row as its collators want it."""
    if "labels" in row:
        return {**row, "attention_mask": [1] * len(row["input_ids"])}
    pair: dict[str, Any] = {"images": None, "videos": None, "audios": None}
    for name in ("chosen", "rejected"):
        answer = row[f"{name}_ids"]
        pair[f"{name}_input_ids"] = row["prompt_ids"] + answer
        pair[f"{name}_attention_mask"] = [1] * len(pair[f"{name}_input_ids"])
        pair[f"{name}_labels"] = [-100] * len(row["prompt_ids"]) + answer
    return pair


def _settings(case: Case, work: Path) -> dict[str, Any]:
    return {
        "stage": case.method,
        "do_train": True,
        "model_name_or_path": case.model,
        "adapter_name_or_path": str(work / "adapter"),
        "finetuning_type": "lora",
        "dataset": "rows",  # it asks for a name, and reads what tokenized_path names
        "tokenized_path": str(work / "rows"),
        "template": "empty",
        "cutoff_len": case.max_length,
        "pref_beta": case.beta,
        "pref_loss": case.loss,
        "output_dir": str(work / "out"),
        "per_device_train_batch_size": case.batch_size,
        "num_train_epochs": case.epochs,
        "learning_rate": case.learning_rate,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "weight_decay": 0.0,
        "seed": case.seed,
        "disable_gradient_checkpointing": True,
        "bf16": False,
        "use_cpu": True,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


if __name__ == "__main__":
    as_script(train)
