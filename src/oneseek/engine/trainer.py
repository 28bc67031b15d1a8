"""One LoRA adapter trained with torch: loading, optimiser steps, state, export. What is learned, the objective says.

All randomness is drawn from (seed, epoch), so that an epoch is a function of the state before it and its learning rate.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import transformers
from torch import Tensor

from oneseek.datasets.tokens import Encoder
from oneseek.engine import export
from oneseek.engine.base_model import load_base_model
from oneseek.engine.dpo import DirectPreferenceOptimisation
from oneseek.engine.epochs import EpochTrainer, Evaluation, Step
from oneseek.engine.examples import NumberedRow, encode_rows, encoder_for, numbered_rows
from oneseek.engine.forward import Forward, Item, choose_forward, learned, sequences, tokens
from oneseek.engine.generation import answers
from oneseek.engine.interface import EpochResult, Exported, Prepared, Report, Workload
from oneseek.engine.lora import (
    adapter_config,
    adapter_parameters,
    adapter_state,
    attach,
    disabled,
    load_adapter_state,
)
from oneseek.engine.machine import peak_memory_bytes, system_fingerprint
from oneseek.engine.objective import Objective
from oneseek.engine.optimizer import FlatAdamW
from oneseek.engine.order import draw, row_order
from oneseek.engine.out_of_memory import naming_memory
from oneseek.engine.pairs import encode_pairs
from oneseek.engine.rehearsal import heaviest
from oneseek.engine.sft import SupervisedFineTuning
from oneseek.engine.speaker import speaker_for
from oneseek.errors import WorkerFailed

TENSORS = "state.safetensors"


class TorchTrainer(EpochTrainer):
    """One model's training; keeps the contract of `interface.Trainer`."""

    model: Any  # a transformers causal language model; its classes carry no types
    encoder: Encoder
    objective: Objective[Any]
    optimizer: FlatAdamW
    _forward: Forward

    @naming_memory
    def prepare(self) -> Prepared:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._settle()
        self.encoder = encoder_for(self.assignment)
        training, validation = numbered_rows(self.assignment)
        self.objective = self._objective(training, validation)
        for name, items in (("training", self.objective.training), ("validation", self.objective.validation)):
            self._require_something_to_learn(name, items)
        self._steps = math.ceil(len(self.objective.training) / self._rows_per_step)
        self.model = load_base_model(
            Path(self.assignment.model_path), _dtype(self._device), self.assignment.quantization
        )
        self._require_known_tokens([*training, *validation])
        self._attach()
        self.model.to(self._device)
        self.optimizer = FlatAdamW(adapter_parameters(self.model), self.assignment.weight_decay)
        self._initial = adapter_state(self.model)
        items = [*self.objective.training, *self.objective.validation]
        self._forward = choose_forward(self.model, items, self._device)
        if self.assignment.gradient_checkpointing:
            self._recompute_activations()
        return self._prepared()

    def shorten(self) -> Workload:
        whole, budget = self.objective, self.assignment.token_budget
        room = 0 if self._forward.attention == "padded" else budget  # rows beside a longer one would be padded to it
        training = heaviest(self._usable(whole.training), tokens, self._rows_per_step, room)
        validation = heaviest(self._usable(whole.validation), tokens, len(whole.validation), room)
        placed = dict(zip(row_order(self.assignment.seed, 1, len(training)), training, strict=True))
        self.objective = replace(  # type: ignore[type-var]
            whole,
            training=[placed[place] for place in range(len(training))],  # the first epoch's order is the heaviest
            validation=next(self._forward.batches(validation, budget)),
        )
        self._steps = 1
        return Workload(
            training_tokens=sum(map(tokens, whole.training)),
            validation_tokens=sum(map(tokens, whole.validation)),
            step_tokens=sum(map(tokens, training)),
        )

    @naming_memory
    def train_epoch(
        self, epoch: int, learning_rates: Sequence[float], excluded_validation_rows: Sequence[int], report: Report
    ) -> EpochResult:
        self._settle()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        return super().train_epoch(epoch, learning_rates, excluded_validation_rows, report)

    @naming_memory
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
        self.optimizer.forget()
        self.model.eval()
        self.objective.begin(self._forward, self.assignment.token_budget)

    def _state(self) -> dict[str, bytes]:
        tensors = {f"adapter.{name}": tensor for name, tensor in adapter_state(self.model).items()}
        tensors |= {f"optimizer.{name}": tensor for name, tensor in self.optimizer.state().items()}
        tensors |= {f"objective.{name}": tensor for name, tensor in self.objective.state().items()}
        tensors["rng.cpu"] = torch.get_rng_state()
        if self._device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state()
        return {TENSORS: safetensors.torch.save(tensors)}

    def _restore(self, files: Mapping[str, bytes]) -> None:
        tensors = safetensors.torch.load(files[TENSORS])
        load_adapter_state(self.model, _part(tensors, "adapter"))
        self.optimizer.load(_part(tensors, "optimizer"))
        self.objective.load(_part(tensors, "objective"))
        torch.set_rng_state(tensors["rng.cpu"])
        if "rng.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["rng.cuda"])

    # -- training -------------------------------------------------------------------------------------------------

    def _enter(self, rates: tuple[float, ...], *, anew: bool) -> None:
        self.model.train()
        training = self.objective.training
        self._order = [training[row] for row in row_order(self.assignment.seed, len(rates), len(training))]
        if anew:
            torch.manual_seed(draw(self.assignment.seed, len(rates), "dropout"))

    def _step(self, epoch: int, index: int, learning_rate: float) -> Step:
        """A step in which nothing is learned changes nothing: no update, no weight decay."""
        items = self._order[index * self._rows_per_step : (index + 1) * self._rows_per_step]
        usable = self._usable(items)
        units = self.objective.units(usable)
        if units == 0:
            return Step(loss=0.0, units=0, tokens=0, gradient_norm=0.0)
        where = f"epoch {epoch}, step {index + 1}"
        self.optimizer.zero_grad()
        loss = 0.0
        for batch in self._forward.batches(usable, self.assignment.token_budget):
            part = self.objective.loss(self._forward, batch) / units
            loss += float(part.detach())
            _require_finite(loss, "loss", where)
            part.backward()  # type: ignore[no-untyped-call]
        norm = self.optimizer.clip(self.assignment.max_grad_norm)
        _require_finite(norm, "gradient norm", where)
        self.optimizer.step(learning_rate)
        return Step(loss, units, sum(map(tokens, usable)), norm)

    def _usable(self, items: Sequence[Any]) -> list[Any]:
        return [item for item in items if self.objective.usable(item)]

    @property
    def _rows_per_step(self) -> int:
        return self.assignment.batch_size * self.assignment.gradient_accumulation_steps

    # -- evaluation -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _evaluate(self, rates: tuple[float, ...], excluded: Sequence[int]) -> Evaluation:
        self.model.eval()
        found = self.objective.evaluate(self._forward, self.assignment.token_budget, excluded)
        _require_finite(found.val_loss, "validation loss", "the evaluation")
        if not self.assignment.sample_prompts:
            return found
        speaker = speaker_for(Path(self.assignment.model_path), self.assignment.strategy)
        said = answers(self.model, speaker, self.assignment.sample_prompts, self.assignment.sample_tokens)
        return replace(found, samples=said)

    @torch.no_grad()
    def _output_difference(self) -> float:
        """The largest absolute difference that the adapter makes in a learned token's loss, in nats, in the first
        validation row that has one."""
        self.model.eval()
        row = next(item for item in self.objective.validation if learned([item]))
        adapted = self._forward.nats([row])
        with disabled(self.model):
            base = self._forward.nats([row])
        return float((adapted - base).abs().max())

    # -- the machine, and what was found --------------------------------------------------------------------------

    def _objective(self, training: list[NumberedRow], validation: list[NumberedRow]) -> Objective[Any]:
        a = self.assignment
        if a.method == "dpo":
            return DirectPreferenceOptimisation(
                training=encode_pairs(self.encoder, training, a.dataset_path),
                validation=encode_pairs(self.encoder, validation, a.dataset_path),
                beta=a.dpo_beta,
                kind=a.dpo_loss,
                label_smoothing=a.dpo_label_smoothing,
            )
        return SupervisedFineTuning(
            training=encode_rows(self.encoder, training, a.dataset_path),
            validation=encode_rows(self.encoder, validation, a.dataset_path),
        )

    def _recompute_activations(self) -> None:
        if not self.model.supports_gradient_checkpointing:
            raise WorkerFailed(
                "refused",
                f"{self.assignment.key} cannot compute its activations again, and they do not fit into memory.",
                "Lower data.max_length, or set execution.gradient_checkpointing to never.",
            )
        self.model.activation_checkpointing_enable({"use_reentrant": False})
        self.model.disable_input_require_grads()  # only reentrant checkpoints need it; it costs a backward pass more

    def _settle(self) -> None:
        """Take this trainer's threads, and algorithms that give the same bits each time.

        Trainers of one process take turns, each with its own number of threads.
        """
        torch.set_num_threads(self.assignment.threads)
        if self._device.type == "cuda":
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with it
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # it would fill every new tensor with NaN
        # Attention's gradient on a GPU is deterministic only where what is not may not run at all.
        torch.use_deterministic_algorithms(True, warn_only=self._device.type != "cuda")

    def _attach(self) -> None:
        a = self.assignment
        torch.manual_seed(a.seed)
        attach(self.model, a.target_modules, a.lora_r, a.lora_alpha, a.lora_dropout, rslora=a.lora_use_rslora)

    def _prepared(self) -> Prepared:
        a, training = self.assignment, self.objective.training
        trainable = sum(parameter.numel() for parameter in adapter_parameters(self.model).values())
        dtype = str(_dtype(self._device)).removeprefix("torch.")
        return Prepared(
            dtype=dtype,
            device=str(self._device),
            attention=self._forward.computed.attention,
            head=self._forward.computed.head,
            token_budget=a.token_budget,
            gradient_checkpointing=a.gradient_checkpointing,
            threads=a.threads,
            target_modules=a.target_modules,
            parameters=int(self.model.num_parameters()) - trainable,  # of packed weights, those that were packed
            trainable_parameters=trainable,
            steps_per_epoch=self._steps,
            training_tokens=sum(map(tokens, training)),
            supervised_tokens=learned(training),
            truncated_rows=sum(any(sequence.truncated for sequence in sequences(item)) for item in training),
            rows_without_labels=sum(not self.objective.usable(item) for item in training),
            incomparable_validation_rows=self.objective.incomparable,
            fingerprint=_fingerprint(self._device, a.quantization) | {"dtype": dtype},
        )

    def _require_something_to_learn(self, name: str, items: Sequence[Item]) -> None:
        if not any(map(self.objective.usable, items)):
            raise WorkerFailed(
                "refused",
                f"Not one token of the {len(items)} {name} rows is learned by {self.assignment.key}.",
                "Raise data.max_length so that answers are not cut off, or check that the rows have answers.",
            )

    def _require_known_tokens(self, rows: Sequence[NumberedRow]) -> None:
        """Every token must have a row in the embedding; a tokenizer from elsewhere knows more of them."""
        known = int(self.model.get_input_embeddings().weight.shape[0])
        items = (*self.objective.training, *self.objective.validation)
        for (line, _), item in zip(rows, items, strict=True):
            highest = max(int(sequence.input_ids.max(initial=0)) for sequence in sequences(item))
            if highest >= known:
                raise WorkerFailed(
                    "refused",
                    f"{self.assignment.dataset_path}, line {line}: token {highest} "
                    f"({self.encoder.tokenizer.id_to_token(highest)!r}) is none of the {known} tokens that "
                    f"{self.assignment.key} has embeddings for.",
                    "Copy the tokenizer.json and chat template that belong to the model's weights again.",
                )

    def _peak_memory(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated()
        return peak_memory_bytes()

    def _adapter_config(self) -> bytes:
        a = self.assignment
        config = adapter_config(
            self.model,
            a.hub_id or a.model_path,
            a.target_modules,
            a.lora_r,
            a.lora_alpha,
            a.lora_dropout,
            revision=a.revision,
            rslora=a.lora_use_rslora,
        )
        return json.dumps(config, indent=2).encode() + b"\n"

    def _require_equal(self, state: Mapping[str, Tensor], written: bytes) -> None:
        """Both files must hold exactly what was trained."""
        weights = torch.load(export.weights_path(self.directory), weights_only=True)
        for name, tensors in (("adapter_model.safetensors", safetensors.torch.load(written)), ("weights.pth", weights)):
            if tensors.keys() != state.keys() or not all(torch.equal(tensors[key], state[key]) for key in state):
                raise WorkerFailed(
                    "refused", f"{name} does not hold the tensors that were trained.", "Check the disk, then resume."
                )


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{prefix}."): tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")
    }


def _dtype(device: torch.device) -> torch.dtype:
    """bf16 where the GPU computes in it; else fp32. fp16 would need loss scaling, and CPUs emulate bf16 slowly."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float32


def _fingerprint(device: torch.device, quantization: str | None) -> dict[str, str]:
    cpu = torch.backends.cpu.get_cpu_capability()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu
    packed = {"quantization": f"{quantization}, bitsandbytes {version('bitsandbytes')}"} if quantization else {}
    return {
        **packed,
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


def _pickled(state: Mapping[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    return buffer.getvalue()
