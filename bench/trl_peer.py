"""TRL's side of a comparison: the same rows in the same batches, the same adapter to begin with.

No packing and no gradient checkpointing, which would change the batches or the price of a step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from case import Case, Given, Watch, as_script


class InGivenOrder:
    """A sampler: the given order of each epoch, one after the other."""

    def __init__(self, orders: list[list[int]]) -> None:
        self._orders = iter(orders)
        self._count = len(orders[0])

    def __iter__(self) -> Iterator[int]:
        return iter(next(self._orders))

    def __len__(self) -> int:
        return self._count


def watched(trainer_class: Any, case: Case, given: Given, watch: Watch) -> Any:
    """A trainer of that class, one of transformers, which takes the rows in the given order and tells what it does."""
    import torch
    from transformers import TrainerCallback

    class Watched(trainer_class):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self.add_callback(Telling(self))

        def _get_train_sampler(self, *_: Any) -> Any:
            return InGivenOrder(given.orders)

        def training_step(self, *arguments: Any, **named: Any) -> Any:
            loss = super().training_step(*arguments, **named)
            self.last_loss = float(loss)
            return loss

    class Telling(TrainerCallback):  # type: ignore[misc]
        def __init__(self, trainer: Watched) -> None:
            self._trainer = trainer

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            torch.set_num_threads(case.threads)  # making a trainer sets its own number
            watch.begins()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            watch.step(self._trainer.last_loss)

    return Watched


def train(case: Case, watch: Watch) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    train_model(case, watch, AutoModelForCausalLM.from_pretrained(case.model, dtype=torch.float32), lora(case))


def lora(case: Case) -> Any:
    """The adapter, as PEFT is told of it."""
    from peft import LoraConfig

    return LoraConfig(
        r=case.lora_r, lora_alpha=case.lora_alpha, target_modules=list(case.target_modules), task_type="CAUSAL_LM"
    )


def train_model(case: Case, watch: Watch, model: Any, peft_config: Any = None) -> None:
    """Train a model that is loaded. Without `peft_config` it has its adapter already."""
    import torch
    from datasets import Dataset
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file
    from transformers import AutoTokenizer

    given = Given.read(Path(case.given))
    trainer_class, config = _dpo(case) if case.method == "dpo" else _sft(case)

    class Peer(watched(trainer_class, case, given, watch)):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset  # it is tokenised

        def _precompute_ref_logps(self, *arguments: Any) -> Any:
            torch.set_num_threads(case.threads)
            with watch.before():
                return super()._precompute_ref_logps(*arguments)

    peer = Peer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(given.rows),
        processing_class=AutoTokenizer.from_pretrained(case.model),
        peft_config=peft_config,
    )
    set_peft_model_state_dict(peer.model, load_file(given.adapter))
    peer.train()


def _sft(case: Case) -> tuple[Any, Any]:
    from trl import SFTConfig, SFTTrainer

    return SFTTrainer, SFTConfig(**_settings(case, SFTConfig))


def _dpo(case: Case) -> tuple[Any, Any]:
    from trl import DPOConfig, DPOTrainer

    reference = {"beta": case.beta, "loss_type": [case.loss], "precompute_ref_log_probs": case.precompute}
    return DPOTrainer, DPOConfig(**reference, **_settings(case, DPOConfig))


def _settings(case: Case, config: Any) -> dict[str, Any]:
    names = {field.name for field in fields(config)}
    checkpointing = "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"
    return {
        "output_dir": case.directory,
        "per_device_train_batch_size": case.batch_size,
        "num_train_epochs": case.epochs,
        "learning_rate": case.learning_rate,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "weight_decay": 0.0,
        "max_length": case.max_length,
        "seed": case.seed,
        checkpointing: False,  # the newer name came after transformers 5.17
        "bf16": False,
        "use_cpu": True,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }


if __name__ == "__main__":
    as_script(train)
