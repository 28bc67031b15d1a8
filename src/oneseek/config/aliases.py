"""Names that other tools use, for files that people bring along: what means a setting of ours, and what means none.

An alias stands where its tool has it, at the top of a file, or in the section of the setting that it means
(`lora.lora_alpha`, `per_model.<key>.lora.lora_alpha`). Only names that mean the same are here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from oneseek.config.schema import MODEL_OVERRIDABLE

_AS_YAML: Mapping[str, Any] = {"true": True, "false": False, "4": 4, "8": 8}
_LINEAR = {"all": "all-linear"}
_SCHEDULES = {"constant_with_warmup": "constant"}  # our `constant` comes after the warm-up, too


class Alias(msgspec.Struct, frozen=True):
    """`field` is the setting that the name means in `tools`. `words`: values that are written otherwise there; None is
    one that asks for nothing. `item`: the value is a list of one mapping, and this key of it is meant."""

    tools: str
    name: str
    field: str
    words: Mapping[str, str | None] = {}
    item: str = ""

    @property
    def takes_any(self) -> bool:
        """Whether every value is written as in the setting's own place."""
        return not (self.item or self.words)

    def own_value(self, value: Any) -> Any:
        """The value as the setting has it; None where it asks for nothing.

        Raises:
            ValueError: `value` says more than the setting can hold.
        """
        if self.item and value is not None:
            return self._only_item(value)
        given = value.strip().lower() if isinstance(value, str) else value
        return next((own for word, own in self.words.items() if given in (word, _AS_YAML.get(word, word))), value)

    def _only_item(self, value: Any) -> str:
        if not isinstance(value, list | tuple) or len(value) != 1:
            raise ValueError(f"{self.field} is one file")
        (only,) = value
        if not isinstance(only, Mapping) or not isinstance(only.get(self.item), str):
            raise ValueError(f"it has no {self.item}")
        # The format of a file is found from its content, whatever `type` says of it.
        others = sorted(str(key) for key in only.keys() - {self.item, "type", "ds_type"})
        if others:
            raise ValueError(f"{self.field} is a file alone, without {', '.join(others)}")
        return str(only[self.item])


HF = "Hugging Face"
TRL = "TRL"
FACTORY = "LLaMA-Factory"
AXOLOTL = "Axolotl"
SEVERAL = "several"

TABLE = (
    Alias(SEVERAL, "model_name_or_path", "model.name"),
    Alias(AXOLOTL, "base_model", "model.name"),
    Alias(SEVERAL, "load_in_4bit", "model.quantization", {"true": "4bit", "false": None}),
    Alias(SEVERAL, "load_in_8bit", "model.quantization", {"true": "8bit", "false": None}),
    Alias(FACTORY, "quantization_bit", "model.quantization", {"4": "4bit", "8": "8bit"}),
    Alias(HF, "train_file", "data.dataset"),
    Alias(FACTORY, "dataset", "data.dataset"),
    Alias(AXOLOTL, "datasets", "data.dataset", item="path"),
    Alias(HF, "validation_file", "data.validation_dataset"),
    Alias(FACTORY, "eval_dataset", "data.validation_dataset"),
    Alias(AXOLOTL, "test_datasets", "data.validation_dataset", item="path"),
    Alias(AXOLOTL, "val_set_size", "data.validation_split"),
    Alias(FACTORY, "val_size", "data.validation_split"),
    Alias(TRL, "max_length", "data.max_length"),
    Alias(TRL, "max_seq_length", "data.max_length"),
    Alias(FACTORY, "cutoff_len", "data.max_length"),
    Alias(AXOLOTL, "sequence_len", "data.max_length"),
    Alias(FACTORY, "stage", "training.method"),
    Alias(AXOLOTL, "rl", "training.method"),
    Alias(HF, "num_train_epochs", "training.num_epochs"),
    Alias(AXOLOTL, "num_epochs", "training.num_epochs"),
    Alias(SEVERAL, "epochs", "training.num_epochs"),
    Alias(HF, "per_device_train_batch_size", "training.batch_size"),
    Alias(AXOLOTL, "micro_batch_size", "training.batch_size"),
    Alias(SEVERAL, "gradient_accumulation_steps", "training.gradient_accumulation_steps"),
    Alias(SEVERAL, "learning_rate", "training.learning_rate"),
    Alias(SEVERAL, "lr", "training.learning_rate"),
    Alias(HF, "lr_scheduler_type", "training.lr_scheduler", _SCHEDULES),
    Alias(AXOLOTL, "lr_scheduler", "training.lr_scheduler", _SCHEDULES),
    Alias(SEVERAL, "warmup_ratio", "training.warmup_ratio"),
    Alias(SEVERAL, "max_grad_norm", "training.max_grad_norm"),
    Alias(SEVERAL, "weight_decay", "training.weight_decay"),
    Alias(SEVERAL, "seed", "training.seed"),
    Alias(SEVERAL, "save_steps", "training.checkpoint_every"),
    Alias(FACTORY, "lora_rank", "lora.r"),
    Alias(SEVERAL, "lora_r", "lora.r"),
    Alias(SEVERAL, "lora_alpha", "lora.alpha"),
    Alias(SEVERAL, "lora_dropout", "lora.dropout"),
    Alias(SEVERAL, "use_rslora", "lora.use_rslora"),
    Alias(AXOLOTL, "peft_use_rslora", "lora.use_rslora"),
    Alias(FACTORY, "lora_target", "lora.target_modules", _LINEAR),
    Alias(SEVERAL, "lora_target_modules", "lora.target_modules"),
    Alias(AXOLOTL, "lora_target_linear", "lora.target_modules", {"true": "all-linear", "false": None}),
    Alias(TRL, "beta", "dpo.beta"),
    Alias(FACTORY, "pref_beta", "dpo.beta"),
    Alias(TRL, "loss_type", "dpo.loss"),
    Alias(FACTORY, "pref_loss", "dpo.loss"),
    Alias(SEVERAL, "output_dir", "output.directory"),
    Alias(SEVERAL, "gradient_checkpointing", "execution.gradient_checkpointing", {"true": "always", "false": "never"}),
)
ALIASES = {alias.name: alias for alias in TABLE}


class Absent(msgspec.Struct, frozen=True):
    """Names that mean no setting of ours, and why. `instead` is the setting to think of, whose values are others."""

    names: str
    why: str
    instead: str = ""

    def fix(self, field: str) -> str:
        """What to do about one of the names at the dotted path `field`."""
        return (
            f"Set {self.instead} in place of {field}: {self.why}." if self.instead else f"Remove {field}: {self.why}."
        )


_ABSENT = (
    Absent("trust_remote_code", "code that comes with a model is never run"),
    Absent("tokenizer_name tokenizer_type model_type special_tokens", "model and tokenizer are used as they are"),
    Absent("template chat_template", "each model's own chat template is used"),
    Absent("bf16 fp16 tf32 pure_bf16 bfloat16 float16 torch_dtype dtype", "the number type follows from the hardware"),
    Absent(
        "quantization_method double_quantization bnb_4bit_quant_type bnb_4bit_compute_dtype bnb_4bit_use_double_quant",
        "model.quantization is all that is to be said of it",
    ),
    Absent("dataset_dir", "it is the whole path of a file, or the name of a stored dataset", "data.dataset"),
    Absent("max_samples max_train_samples", "every row of it is used", "data.dataset"),
    Absent("train_on_inputs train_on_prompt mask_history", "of a conversation only the answers are learned"),
    Absent(
        "overwrite_cache dataset_prepared_path preprocessing_num_workers dataset_processes dataloader_num_workers",
        "how rows are read and prepared has no settings",
    ),
    Absent(
        "packing neat_packing sample_packing eval_sample_packing pad_to_sequence_len group_by_length",
        "whether rows are packed or padded is found by trying",
    ),
    Absent(
        "flash_attn flash_attention sdp_attention xformers_attention attn_implementation",
        "how a model's attention is computed is found by trying",
    ),
    Absent("deepspeed fsdp fsdp_config local_rank ddp_timeout", "each model trains in one process"),
    Absent(
        "adapter finetuning_type use_peft use_dora peft_use_dora modules_to_save lora_modules_to_save",
        "what is trained is a LoRA adapter and nothing beside it",
    ),
    Absent("do_train do_eval do_predict", "every run trains and validates"),
    Absent("optim optimizer adam_beta1 adam_beta2 adam_epsilon", "AdamW is the only optimiser, with its usual numbers"),
    Absent(
        "max_steps num_train_steps max_train_steps", "a run is counted in passes over the rows", "training.num_epochs"
    ),
    Absent("warmup_steps", "it is a share of all steps, from 0 to 1", "training.warmup_ratio"),
    Absent("label_smoothing_factor", "only preferences have label smoothing, as dpo.label_smoothing"),
    Absent("early_stopping_patience", "it counts epochs in which nothing changed", "confidence_auto_stop.patience"),
    Absent("metric_for_best_model", "it is 'bits_per_byte' or 'val_loss'", "training.rank_by"),
    Absent("load_best_model_at_end", "it is 'best' or 'last'", "training.keep"),
    Absent("save_strategy saves_per_epoch save_total_limit save_only_model", "a checkpoint is kept after each epoch"),
    Absent("resume_from_checkpoint auto_resume_from_checkpoints", "`oneseek resume` goes on with a run"),
    Absent("eval_steps eval_strategy evaluation_strategy evals_per_epoch", "models are validated after each epoch"),
    Absent("per_device_eval_batch_size eval_batch_size", "as many rows are validated at once as memory allows"),
    Absent("logging_steps logging_strategy logging_first_step", "progress is shown every few seconds"),
    Absent("plot_loss", "`oneseek runs show` has the losses of each epoch"),
    Absent("overwrite_output_dir", "existing results are never overwritten"),
    Absent("run_name", "a run is named by the time of its start"),
    Absent("report_to wandb_project wandb_entity wandb_watch wandb_name wandb_log_model", "nothing is sent elsewhere"),
    Absent("push_to_hub hub_model_id hub_strategy", "nothing is sent elsewhere"),
)
ABSENT = {name: absent for absent in _ABSENT for name in absent.names.split()}


class Meant(NamedTuple):
    """An alias, and the path of the setting that it means where it stands."""

    alias: Alias
    path: tuple[str, ...]


def meant_by(path: tuple[str, ...]) -> Meant | None:
    """What the alias at `path` means; None where there is none, or it stands where no tool would put it."""
    alias = ALIASES.get(path[-1])
    if alias is None or not all(isinstance(step, str) for step in path):
        return None
    *parents, name = alias.field.split(".")
    above = path[:-1]
    meant = (*(above or parents), name)
    one_model = len(above) == 3 and above[0] == "per_model" and name in MODEL_OVERRIDABLE.get(above[2], ())
    here = above in ((), tuple(parents)) or (one_model and above[2:] == tuple(parents))
    return Meant(alias, meant) if here and meant != path else None


def table() -> str:
    """The reference: one Markdown table of all aliases."""
    rows = [f"| `{alias.name}` | {alias.tools} | `{alias.field}` | {_remark(alias)} |" for alias in TABLE]
    return "\n".join(["| name | of | is read as | values |", "|---|---|---|---|", *rows, ""])


def _remark(alias: Alias) -> str:
    if alias.item:
        return f"a list of one, with a `{alias.item}`"
    return ", ".join(f"`{word}` {f'is `{own}`' if own else 'sets nothing'}" for word, own in alias.words.items())
