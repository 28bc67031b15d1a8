"""Supervised fine-tuning of one LoRA adapter with torch: on packed rows where the model allows it, else padded.

The loss is that of the definition: the sum of the cross-entropies of an optimiser step's learned tokens over their
number, however the step is cut into batches. All randomness is drawn from (seed, epoch), so that an epoch is a
function of the state before it and its learning rate.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import safetensors.torch
import torch
import transformers
from torch import Tensor, nn

from oneseek.engine import export
from oneseek.engine.base_model import is_out_of_memory, load_base_model
from oneseek.engine.batch import padded_nats
from oneseek.engine.epochs import EpochSums, EpochTrainer
from oneseek.engine.examples import Encoder, Example, NumberedRow, encode_rows, encoder_for, numbered_rows
from oneseek.engine.interface import EpochResult, Exported, Prepared, Progress, Report
from oneseek.engine.lora import (
    adapter_config,
    adapter_parameters,
    adapter_state,
    attach,
    disabled,
    load_adapter_state,
)
from oneseek.engine.machine import peak_memory_bytes, system_fingerprint
from oneseek.engine.packing import Packing, try_packing
from oneseek.engine.schedule import schedule_factor, warmup_steps
from oneseek.errors import WorkerFailed

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

TENSORS = "state.safetensors"
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@contextmanager
def _memory_errors() -> Iterator[None]:
    """However torch says that memory ran out, the run is told in one way."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise _out_of_memory(error) from error
        raise


def _out_of_memory(error: BaseException) -> WorkerFailed:
    first = (str(error).splitlines() or [""])[0]
    return WorkerFailed(
        "out_of_memory",
        f"Memory ran out: {first or 'no more could be allocated'}",
        "Lower training.batch_size (and raise training.gradient_accumulation_steps to match) or data.max_length.",
    )


def _naming_memory(method: Callable[P, R]) -> Callable[P, R]:
    @wraps(method)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        with _memory_errors():
            return method(*args, **kwargs)

    return guarded


class TorchTrainer(EpochTrainer):
    """One model's training; keeps the contract of `interface.Trainer`."""

    model: Any  # a transformers causal language model; its classes carry no types
    optimizer: torch.optim.AdamW
    encoder: Encoder
    training: list[Example]
    validation: list[Example]
    _packing: Packing | None

    @_naming_memory
    def prepare(self) -> Prepared:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._settle()
        training, validation = numbered_rows(self.assignment)
        self.encoder = encoder_for(self.assignment)
        self.training = encode_rows(self.encoder, training, self.assignment.dataset_path)
        self.validation = encode_rows(self.encoder, validation, self.assignment.dataset_path)
        for name, examples in (("training", self.training), ("validation", self.validation)):
            _require_labels(self.assignment.key, name, examples)
        self._steps = math.ceil(len(self.training) / self._rows_per_step)
        self.model = load_base_model(Path(self.assignment.model_path), _dtype(self._device))
        self._require_known_tokens([*training, *validation], [*self.training, *self.validation])
        self._attach()
        self.model.to(self._device)
        self._parameters = adapter_parameters(self.model)
        self._initial = adapter_state(self.model)
        # On a GPU one call of attention per example would starve it; that path is for CPUs.
        self._packing = try_packing(self.model, self.training, self._device) if self._device.type == "cpu" else None
        return self._prepared()

    @_naming_memory
    def train_epoch(
        self, epoch: int, learning_rates: Sequence[float], excluded_validation_rows: Sequence[int], report: Report
    ) -> EpochResult:
        self._settle()
        rates = tuple(learning_rates[:epoch])
        sums = self._train_next(rates, report)
        val_loss, bits_per_byte = self._evaluate(excluded_validation_rows)
        return EpochResult(
            epoch=epoch,
            train_loss=sums.loss,
            val_loss=val_loss,
            bits_per_byte=bits_per_byte,
            learning_rate=rates[-1],
            gradient_norm=sums.gradient_norm,
            tokens_per_second=sums.tokens_per_second,
            memory_bytes=self._peak_memory(),
            checkpoint=self._keep(rates),
        )

    @_naming_memory
    def export(self, epoch: int, learning_rates: Sequence[float], report: Report) -> Exported:
        self._settle()
        self._reach(learning_rates[:epoch], report)
        state = adapter_state(self.model)
        export.write(
            self.directory,
            adapter=safetensors.torch.save(state, metadata={"format": "pt"}),
            weights=_pickled(state),
            config=self._adapter_config(),
            model_path=Path(self.assignment.model_path),
        )
        written = export.read_adapter(self.directory)
        self._require_equal(state, written)
        load_adapter_state(self.model, safetensors.torch.load(written))
        norm = math.sqrt(sum(float(t.double().square().sum()) for name, t in state.items() if ".lora_B." in name))
        return export.verified(epoch, written, norm, self._output_difference())

    # -- the state ------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        load_adapter_state(self.model, self._initial)
        self._new_optimizer()

    def _state(self) -> dict[str, bytes]:
        tensors = {f"adapter.{name}": tensor for name, tensor in adapter_state(self.model).items()}
        for name, parameter in self._parameters.items():
            for moment, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"{moment}.{name}"] = value.detach().cpu().contiguous()
        tensors["rng.cpu"] = torch.get_rng_state()
        if self._device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state()
        return {TENSORS: safetensors.torch.save(tensors)}

    def _restore(self, files: Mapping[str, bytes]) -> None:
        tensors = safetensors.torch.load(files[TENSORS])
        load_adapter_state(self.model, {name: tensors[f"adapter.{name}"] for name in self._parameters})
        self._new_optimizer()
        for name, parameter in self._parameters.items():
            if f"step.{name}" in tensors:
                moments = {moment: tensors[f"{moment}.{name}"] for moment in _MOMENTS}
                # `step` stays on the CPU, as AdamW keeps it
                self.optimizer.state[parameter] = {
                    moment: value if moment == "step" else value.to(self._device) for moment, value in moments.items()
                }
        torch.set_rng_state(tensors["rng.cpu"])
        if "rng.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["rng.cuda"])

    def _new_optimizer(self) -> None:
        self.optimizer = torch.optim.AdamW(
            self._parameters.values(), betas=(0.9, 0.999), eps=1e-8, weight_decay=self.assignment.weight_decay
        )

    # -- training -------------------------------------------------------------------------------------------------

    def _train(self, epoch: int, learning_rate: float, report: Report) -> EpochSums:
        self.model.train()
        torch.manual_seed(_draw(self.assignment.seed, epoch, "dropout"))
        began = time.perf_counter()
        nats = norms = 0.0
        learned = tokens = updates = 0
        for index, examples in enumerate(self._steps_of(epoch)):
            step_began = time.perf_counter()
            rate = learning_rate * self._schedule((epoch - 1) * self._steps + index)
            supervised = sum(example.supervised_tokens for example in examples)
            loss, norm = self._step(examples, supervised, rate, f"epoch {epoch}, step {index + 1}")
            step_tokens = sum(len(example.input_ids) for example in examples)
            report(
                Progress(
                    epoch=epoch,
                    step=index + 1,
                    steps=self._steps,
                    loss=loss,
                    learning_rate=rate,
                    gradient_norm=norm,
                    tokens_per_second=step_tokens / (time.perf_counter() - step_began),
                )
            )
            nats, learned, tokens = nats + loss * supervised, learned + supervised, tokens + step_tokens
            norms, updates = norms + norm, updates + (supervised > 0)
        return EpochSums(nats / learned, norms / updates, tokens / (time.perf_counter() - began))

    def _step(self, examples: Sequence[Example], supervised: int, rate: float, where: str) -> tuple[float, float]:
        """One optimiser step; its loss in nats per learned token, and the gradient's L2 norm before clipping.

        A step in which nothing is learned changes nothing: no update, no weight decay.
        """
        if supervised == 0:
            return 0.0, 0.0
        self.optimizer.zero_grad(set_to_none=True)
        loss = 0.0
        for rows in _chunks([e for e in examples if e.supervised_tokens], self.assignment.batch_size):
            part = self._nats(rows).sum() / supervised
            loss += float(part.detach())
            _require_finite(loss, "loss", where)
            part.backward()  # type: ignore[no-untyped-call]
        norm = float(nn.utils.clip_grad_norm_(self._parameters.values(), self.assignment.max_grad_norm))
        _require_finite(norm, "gradient norm", where)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        return loss, norm

    def _steps_of(self, epoch: int) -> Iterator[list[Example]]:
        """The epoch's optimiser steps in its own order of rows."""
        generator = torch.Generator().manual_seed(_draw(self.assignment.seed, epoch, "order"))
        order = torch.randperm(len(self.training), generator=generator).tolist()
        return _chunks([self.training[row] for row in order], self._rows_per_step)

    def _schedule(self, step: int) -> float:
        total = self._steps * self.assignment.num_epochs
        warmup = warmup_steps(total, self.assignment.warmup_ratio)
        return schedule_factor(step, total, warmup, self.assignment.lr_scheduler)

    @property
    def _rows_per_step(self) -> int:
        return self.assignment.batch_size * self.assignment.gradient_accumulation_steps

    # -- evaluation -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _evaluate(self, excluded: Collection[int]) -> tuple[float, float | None]:
        """Validation loss in nats per learned token, and bits per byte of the answers (None: no row is left).

        Bits per byte leaves out the excluded rows and those that can't be compared here.
        """
        self.model.eval()
        left_out = set(excluded)
        counted = [index not in left_out and _comparable(example) for index, example in enumerate(self.validation)]
        learned = [pair for pair in zip(self.validation, counted, strict=True) if pair[0].supervised_tokens]
        nats = answer_nats = 0.0
        for rows in _chunks(learned, self.assignment.batch_size):
            each = self._nats([example for example, _ in rows]).double()  # (learned,)
            answers = [counts and mark for example, counts in rows for mark in example.learned_answer_marks]
            nats += float(each.sum())
            answer_nats += float(each[torch.tensor(answers, device=self._device)].sum())
        loss = nats / sum(example.supervised_tokens for example in self.validation)
        _require_finite(loss, "validation loss", "the evaluation")
        answer_bytes = sum(e.answer_bytes for e, counts in zip(self.validation, counted, strict=True) if counts)
        return loss, answer_nats / (math.log(2) * answer_bytes) if answer_bytes else None

    def _nats(self, examples: Sequence[Example]) -> Tensor:
        """Cross-entropy of every learned token in nats: (learned,), example by example."""
        if self._packing:
            return self._packing.nats(examples, self._device)
        return padded_nats(self.model, examples, self._device)

    @torch.no_grad()
    def _output_difference(self) -> float:
        """The largest absolute difference that the adapter makes in a learned token's loss, in nats, in the first
        validation row that has one."""
        self.model.eval()
        row = next(example for example in self.validation if example.supervised_tokens)
        adapted = self._nats([row])
        with disabled(self.model):
            base = self._nats([row])
        return float((adapted - base).abs().max())

    # -- the machine, and what was found --------------------------------------------------------------------------

    def _settle(self) -> None:
        """Take this trainer's threads, and algorithms that give the same bits each time.

        Trainers of one process take turns, each with its own number of threads.
        """
        torch.set_num_threads(self.assignment.threads)
        if self._device.type == "cuda":
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with it
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # it would fill every new tensor with NaN
        torch.use_deterministic_algorithms(True, warn_only=True)

    def _attach(self) -> None:
        a = self.assignment
        torch.manual_seed(a.seed)
        attach(self.model, a.target_modules, a.lora_r, a.lora_alpha, a.lora_dropout)

    def _prepared(self) -> Prepared:
        trainable = sum(parameter.numel() for parameter in self._parameters.values())
        dtype = str(_dtype(self._device)).removeprefix("torch.")
        return Prepared(
            dtype=dtype,
            device=str(self._device),
            attention="packed" if self._packing else "padded",
            head="chunked" if self._packing and self._packing.head else "own",
            token_budget=self.assignment.token_budget,
            gradient_checkpointing=self.assignment.gradient_checkpointing,
            threads=self.assignment.threads,
            target_modules=self.assignment.target_modules,
            parameters=sum(parameter.numel() for parameter in self.model.parameters()) - trainable,
            trainable_parameters=trainable,
            steps_per_epoch=self._steps,
            training_tokens=sum(len(example.input_ids) for example in self.training),
            supervised_tokens=sum(example.supervised_tokens for example in self.training),
            truncated_rows=sum(example.truncated for example in self.training),
            rows_without_labels=sum(example.supervised_tokens == 0 for example in self.training),
            incomparable_validation_rows=tuple(i for i, e in enumerate(self.validation) if not _comparable(e)),
            fingerprint=_fingerprint(self._device) | {"dtype": dtype},
        )

    def _require_known_tokens(self, rows: Sequence[NumberedRow], examples: Sequence[Example]) -> None:
        """Every token must have a row in the embedding; a tokenizer from elsewhere knows more of them."""
        known = int(self.model.get_input_embeddings().weight.shape[0])
        for (line, _), example in zip(rows, examples, strict=True):
            unknown = next((token for token in example.input_ids if token >= known), None)
            if unknown is not None:
                raise WorkerFailed(
                    "refused",
                    f"{self.assignment.dataset_path}, line {line}: token {unknown} "
                    f"({self.encoder.tokenizer.id_to_token(unknown)!r}) is none of the {known} tokens that "
                    f"{self.assignment.key} has embeddings for.",
                    "Copy the tokenizer.json and chat template that belong to the model's weights again.",
                )

    def _peak_memory(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated()
        return peak_memory_bytes()

    def _adapter_config(self) -> bytes:
        a = self.assignment
        config = adapter_config(self.model, a.model_path, a.target_modules, a.lora_r, a.lora_alpha, a.lora_dropout)
        return json.dumps(config, indent=2).encode() + b"\n"

    def _require_equal(self, state: Mapping[str, Tensor], written: bytes) -> None:
        """Both files must hold exactly what was trained."""
        weights = torch.load(export.weights_path(self.directory), weights_only=True)
        for name, tensors in (("adapter_model.safetensors", safetensors.torch.load(written)), ("weights.pth", weights)):
            if tensors.keys() != state.keys() or not all(torch.equal(tensors[key], state[key]) for key in state):
                raise WorkerFailed(
                    "refused", f"{name} does not hold the tensors that were trained.", "Check the disk, then resume."
                )


def _comparable(example: Example) -> bool:
    """Whether the whole answers of a row are there to be counted in bytes."""
    return not example.truncated and example.answer_bytes > 0


def _chunks(items: Sequence[T], size: int) -> Iterator[list[T]]:
    return (list(items[start : start + size]) for start in range(0, len(items), size))


def _draw(seed: int, epoch: int, purpose: str) -> int:
    """A seed of its own for every epoch and purpose: neighbouring seeds and epochs share no stream."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1  # torch takes 63 bits without a sign


def _dtype(device: torch.device) -> torch.dtype:
    """bf16 where the GPU computes in it; else fp32. fp16 would need loss scaling, and CPUs emulate bf16 slowly."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float32


def _fingerprint(device: torch.device) -> dict[str, str]:
    cpu = torch.backends.cpu.get_cpu_capability()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu
    return {
        **system_fingerprint(),
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "device": name,
    }


def _require_finite(value: float, what: str, where: str) -> None:
    if not math.isfinite(value):
        raise WorkerFailed(
            "diverged",
            f"The {what} became {value} in {where}.",
            "Lower training.learning_rate, or raise training.warmup_ratio.",
        )


def _require_labels(key: str, name: str, examples: Sequence[Example]) -> None:
    if not any(example.supervised_tokens for example in examples):
        raise WorkerFailed(
            "refused",
            f"Not one token of the {len(examples)} {name} rows is learned by {key}.",
            "Raise data.max_length so that answers are not cut off, or check that the rows have answers.",
        )


def _pickled(state: Mapping[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    return buffer.getvalue()
