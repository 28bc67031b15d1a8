"""What a trainer is told, what it answers, and what it must be able to do.

One trainer trains one model. Two implementations keep this contract: the real one, on torch, and `scripted.py`, its
twin without torch, which tests use where the training itself does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import msgspec

from oneseek.events import Preference

EngineName = Literal["torch", "scripted"]


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that one model's training depends on. Paths are absolute.

    What is at `model_path` is the commit `revision` of `hub_id`, where it is from the hub: so the adapter names it.
    `directory` is the trainer's own: its checkpoints and its export are written there. `cache_directory` is shared by
    all runs of a home and holds tokenised datasets; None: nothing is kept. `threads` is its share of the machine's
    cores. With `validation_path` all rows of the dataset are trained on and all of that file are validated on; else
    `validation_split` of the dataset is set aside. At most `token_budget` tokens are computed at once, however many
    rows an optimiser step has.
    """

    engine: EngineName
    key: str
    model_path: str
    hub_id: str | None = None
    revision: str | None = None
    dataset_path: str
    dataset_sha256: str
    validation_path: str | None = None
    validation_sha256: str | None = None
    format: str
    strategy: Literal["chat", "standard"]
    validation_split: float
    max_length: int
    directory: str
    cache_directory: str | None = None
    threads: int
    token_budget: int = 1024
    gradient_checkpointing: bool = False
    quantization: Literal["4bit", "8bit"] | None = None
    method: Literal["sft", "dpo"] = "sft"
    seed: int
    num_epochs: int
    batch_size: int
    gradient_accumulation_steps: int
    lr_scheduler: Literal["linear", "cosine", "constant"]
    warmup_ratio: float
    max_grad_norm: float
    weight_decay: float
    lora_r: int
    lora_alpha: float
    lora_dropout: float
    lora_use_rslora: bool = False
    target_modules: tuple[str, ...]
    dpo_beta: float = 0.1
    dpo_loss: Literal["sigmoid", "ipo"] = "sigmoid"
    dpo_label_smoothing: float = 0.0
    checkpoint_every: int | None = None
    sample_prompts: tuple[str, ...] = ()
    sample_tokens: int = 64


class Computed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """How a model is computed, found by trying: rows packed, padded, or each by itself; its head in chunks, or as the
    model does it."""

    attention: Literal["packed", "padded", "single"]
    head: Literal["chunked", "own"]


class Prepared(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Model and data are loaded. Counts are of the training rows unless they say validation.

    `attention` and `head` are those of Computed.
    `fingerprint` names what must be equal for bit-equal weights: torch, CPU or GPU, operating system.
    `incomparable_validation_rows` are those (indices into the validation rows) that this model had to cut, or whose
    answers its template rewrites: no bits per byte can be told for them.
    """

    dtype: str
    device: str
    attention: str
    head: str
    token_budget: int
    gradient_checkpointing: bool
    threads: int
    target_modules: tuple[str, ...]
    parameters: int
    trainable_parameters: int
    steps_per_epoch: int
    training_tokens: int
    supervised_tokens: int
    truncated_rows: int
    rows_without_labels: int
    incomparable_validation_rows: tuple[int, ...]
    fingerprint: dict[str, str]


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of all training rows, of all validation rows, and of the one step that `Trainer.shorten` left."""

    training_tokens: int
    validation_tokens: int
    step_tokens: int


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """After an optimiser step. `loss` is nats per supervised token of that step."""

    epoch: int
    step: int
    steps: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens_per_second: float


class EpochResult(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """An epoch was trained and evaluated, and its checkpoint is whole on disk.

    Losses are nats per supervised token; `bits_per_byte` is None where every validation row is excluded. In DPO losses
    are per pair, and `preference` is there instead of bits per byte. `samples` are the answers to the assignment's
    sample prompts. `checkpoint` is the SHA-256 of the checkpoint's manifest.
    """

    epoch: int
    train_loss: float
    val_loss: float
    bits_per_byte: float | None
    learning_rate: float
    gradient_norm: float
    tokens_per_second: float
    memory_bytes: int
    checkpoint: str
    preference: Preference | None = None
    samples: tuple[str, ...] = ()


class Damaged(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A checkpoint that is not what was written was found, and not used."""

    epoch: int
    problem: str


class Exported(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The adapter of `epoch` is in `<directory>/export/adapter`, the same tensors in `<directory>/export/weights.pth`.

    Both were read back: `tensors_sha256` is over (name, dtype, shape, bytes), `lora_b_norm` the L2 norm of all LoRA B
    together, `output_difference` the largest difference to the base model in the loss of a validation token, in nats.
    """

    epoch: int
    tensors_sha256: str
    lora_b_norm: float
    output_difference: float


Report = Callable[[Progress | Damaged], None]


class Trainer(Protocol):
    """One model's training. Every method may raise WorkerFailed; what else escapes counts as a crash.

    The learning rates of epochs 1, 2, … (before the schedule) determine every weight, given the assignment. So a state
    is named by an epoch and the learning rates up to it, and can always be reached: from the newest intact checkpoint
    at or before it, training the epochs between again, bit for bit.
    """

    def prepare(self) -> Prepared:
        """Load the base model, put the adapter in, read and tokenise the rows."""

    def shorten(self) -> Workload:
        """For a rehearsal: once prepared, keep the rows of one optimiser step alone, the longest ones in batches as
        full as they can be, and of the validation rows those of one batch."""

    def train_epoch(
        self, epoch: int, learning_rates: Sequence[float], excluded_validation_rows: Sequence[int], report: Report
    ) -> EpochResult:
        """Train epoch `epoch` (from 1) after reaching the state before it; evaluate; write the checkpoint.

        learning_rates: those of epochs 1 to `epoch`, base learning rate times adaptive weight.
        Raises WorkerFailed("diverged") when a loss is NaN or infinite.
        """

    def export(self, epoch: int, learning_rates: Sequence[float], report: Report) -> Exported:
        """Write the adapter of `epoch`, read it back and check it."""
