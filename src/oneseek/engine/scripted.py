"""A trainer without torch that keeps the same contract in milliseconds, for tests and rehearsals of everything else.

Its state is evolved by hashing, so that a resumed run which differs in anything ends with other bytes. Its losses fall
as training losses do, or follow `script.json` in the base model's directory:

    {"val_losses": [1.9, 1.5], "bits_per_byte": [1.1, 0.9], "incomparable_validation_rows": [], "step_seconds": 0.0,
     "fail": {"epoch": 2, "kind": "diverged", "times": 1}}

`fail` happens in the second step of its epoch, the first where there is no other (epoch 0: while preparing). Kinds:
diverged, out_of_memory, crashed (an exception), exit (the process is gone at once, as when it is killed), hang (no
answer any more).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np
import safetensors.numpy

from oneseek.engine import export
from oneseek.engine.epochs import EpochTrainer, Evaluation, Step
from oneseek.engine.examples import split_rows
from oneseek.engine.export import LORA_A, LORA_B, PREFIX
from oneseek.engine.interface import Exported, Prepared, Report, Workload
from oneseek.errors import WorkerFailed

T = TypeVar("T")

STATE_FILE = "state.bin"
STATE_BYTES = 512
WIDTH = 16
LAYER = "model.layers.0.self_attn.q_proj"


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What goes wrong in `epoch`; without `times`, every time."""

    epoch: int
    kind: Literal["diverged", "out_of_memory", "crashed", "exit", "hang"]
    times: int | None = None


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the training shows. Of lists shorter than the training, the last value stays."""

    val_losses: tuple[float, ...] = ()
    bits_per_byte: tuple[float | None, ...] = ()
    fail: Fault | None = None
    step_seconds: float = 0.0
    incomparable_validation_rows: tuple[int, ...] = ()


class CrashError(RuntimeError):
    """What the script calls `crashed`: an exception that nobody expects."""


class ScriptedTrainer(EpochTrainer):
    """One model's training by script; keeps the contract of `interface.Trainer`."""

    def prepare(self) -> Prepared:
        a = self.assignment
        self._script = _read_script(Path(a.model_path))
        self._fail_if_scripted(0)
        training, validation = split_rows(a)
        self._validation_rows = len(validation)
        self._steps = math.ceil(len(training) / (a.batch_size * a.gradient_accumulation_steps))
        self._tokens = sum(len(json.dumps(row)) for row in training)
        return Prepared(
            dtype="float32",
            device="cpu",
            attention="none",
            head="none",
            token_budget=a.token_budget,
            gradient_checkpointing=a.gradient_checkpointing,
            threads=a.threads,
            target_modules=a.target_modules,
            parameters=WIDTH * WIDTH,
            trainable_parameters=2 * a.lora_r * WIDTH,
            steps_per_epoch=self._steps,
            training_tokens=self._tokens,
            supervised_tokens=self._tokens // 2,
            truncated_rows=0,
            rows_without_labels=0,
            incomparable_validation_rows=self._script.incomparable_validation_rows,
            fingerprint={"engine": "scripted"},
        )

    def shorten(self) -> Workload:
        whole, rows = self._tokens, self._validation_rows
        self._tokens, self._steps = whole // self._steps, 1
        return Workload(training_tokens=whole, validation_tokens=rows, step_tokens=self._tokens)

    def export(self, epoch: int, learning_rates: Sequence[float], report: Report) -> Exported:
        self._reach(learning_rates[:epoch], report)
        half = self.assignment.lora_r * WIDTH
        drawn = hashlib.shake_256(self._bytes).digest(2 * half)
        values = np.frombuffer(drawn, dtype=np.uint8).astype(np.float32) / 256 - 0.5
        lora_a, lora_b = values[:half].reshape(-1, WIDTH), values[half:].reshape(WIDTH, -1)
        names = (f"{PREFIX}{LAYER}{LORA_A}", f"{PREFIX}{LAYER}{LORA_B}")
        tensors = dict(zip(names, (lora_a, lora_b), strict=True))
        export.write(
            self.directory,
            adapter=safetensors.numpy.save(tensors, metadata={"format": "pt"}),
            weights=b"".join(tensor.tobytes() for tensor in tensors.values()),
            config=json.dumps(self._adapter_config(), indent=2).encode() + b"\n",
            model_path=Path(self.assignment.model_path),
        )
        written = export.read_adapter(self.directory)
        read_back = safetensors.numpy.load(written)
        if not all(np.array_equal(read_back[name], tensor) for name, tensor in tensors.items()):
            raise WorkerFailed("refused", "adapter_model.safetensors does not hold what was trained.", "Resume.")
        return export.verified(epoch, written, float(np.linalg.norm(lora_b)), float(np.abs(lora_b @ lora_a).max()))

    # -- the state ------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._bytes = _hashed(f"{self.assignment.seed}/{self.assignment.key}".encode())

    def _restore(self, files: Mapping[str, bytes]) -> None:
        self._bytes = files[STATE_FILE]

    def _state(self) -> dict[str, bytes]:
        return {STATE_FILE: self._bytes}

    def _enter(self, rates: tuple[float, ...], *, anew: bool) -> None:
        self._train_loss = self._loss(rates) * 1.05
        if anew:
            self._bytes = _hashed(self._bytes + f"epoch {len(rates)}".encode())

    def _step(self, epoch: int, index: int, learning_rate: float) -> Step:
        if index == min(1, self._steps - 1):
            self._fail_if_scripted(epoch)
        self._bytes = _hashed(self._bytes + f"{epoch}/{index}/{learning_rate!r}".encode())
        time.sleep(self._script.step_seconds)
        return Step(loss=self._train_loss, units=1, tokens=self._tokens // self._steps, gradient_norm=0.5)

    def _evaluate(self, rates: tuple[float, ...], excluded: Sequence[int]) -> Evaluation:
        val_loss = _at(self._script.val_losses, len(rates), self._loss(rates))
        bits = _at(self._script.bits_per_byte, len(rates), val_loss * 0.6)
        return Evaluation(val_loss, None if self._all_excluded(excluded) else bits)

    # -- the script -----------------------------------------------------------------------------------------------

    def _loss(self, rates: Sequence[float]) -> float:
        """A curve that falls towards a floor: start and floor are the model's own, its pace the learning rates'."""
        digest = hashlib.sha256(self.assignment.key.encode()).digest()
        start, floor = 2.0 + digest[0] / 256, 0.8 + digest[1] / 512
        return floor + (start - floor) * math.exp(-0.5 * sum(math.log1p(rate * 1e4) for rate in rates))

    def _all_excluded(self, excluded: Sequence[int]) -> bool:
        left_out = {*excluded, *self._script.incomparable_validation_rows}
        return left_out >= set(range(self._validation_rows))

    def _fail_if_scripted(self, epoch: int) -> None:
        fault = self._script.fail
        if fault is None or fault.epoch != epoch or not self._count_failure(fault):
            return
        match fault.kind:
            case "diverged":
                raise WorkerFailed("diverged", f"The loss became nan in epoch {epoch}, step 1.", "Lower the rate.")
            case "out_of_memory":
                raise WorkerFailed("out_of_memory", "Memory ran out.", "Lower training.batch_size.")
            case "crashed":
                raise CrashError(f"scripted crash in epoch {epoch}")
            case "exit":
                os._exit(137)
            case "hang":
                threading.Event().wait()

    def _count_failure(self, fault: Fault) -> bool:
        """Whether the fault is still to happen. The count outlives the process: it is on disk before the failure."""
        if fault.times is None:
            return True
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "failures").open("ab+") as file:
            if file.tell() >= fault.times:
                return False
            file.write(b"x")
        return True

    def _adapter_config(self) -> dict[str, Any]:
        return {
            "base_model_name_or_path": self.assignment.hub_id or self.assignment.model_path,
            **({} if self.assignment.revision is None else {"revision": self.assignment.revision}),
            "peft_type": "LORA",
            "r": self.assignment.lora_r,
            "lora_alpha": self.assignment.lora_alpha,
            "lora_dropout": self.assignment.lora_dropout,
            "use_rslora": self.assignment.lora_use_rslora,
            "target_modules": sorted(self.assignment.target_modules),
            "task_type": "CAUSAL_LM",
        }


def _read_script(model: Path) -> Script:
    path = model / "script.json"
    return msgspec.json.decode(path.read_bytes(), type=Script) if path.is_file() else Script()


def _hashed(data: bytes) -> bytes:
    return hashlib.shake_256(data).digest(STATE_BYTES)


def _at(values: Sequence[T], epoch: int, otherwise: T) -> T:
    return values[min(epoch, len(values)) - 1] if values else otherwise
