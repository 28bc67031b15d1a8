"""LoRA (Hu et al. 2021, arXiv:2106.09685), put into a Hugging Face model in place, and written as PEFT writes it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from oneseek.engine.export import LORA_A, LORA_B, PREFIX
from oneseek.errors import WorkerFailed


class LoraLinear(nn.Module):
    """y = base(x) + alpha/r · B A dropout(x), where only A and B are trained.

    `base` is an `nn.Linear` or a `Conv1D` (GPT-2's linear layer, its weight transposed). A and B are fp32.
    """

    lora_a: nn.Parameter  # (r, in)
    lora_b: nn.Parameter  # (out, r)

    def __init__(self, base: nn.Module, r: int, alpha: float, dropout: float) -> None:
        super().__init__()
        inputs, outputs = _features(base)
        self.base = base
        self.scaling = alpha / r
        self.dropout = nn.Dropout(dropout)
        self.enabled = True
        self.lora_a = nn.Parameter(torch.empty(r, inputs, dtype=torch.float32))
        self.lora_b = nn.Parameter(torch.zeros(outputs, r, dtype=torch.float32))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    @property
    def _drops(self) -> bool:
        return self.training and self.dropout.p > 0

    @property
    def weight(self) -> Any:
        """The base layer's, for models whose code reads it (Mamba's dt_proj): past the adapter, as the code does."""
        return self.base.weight

    @property
    def bias(self) -> Any:
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        """x: (…, in) → (…, out), in the base layer's dtype."""
        if self.enabled and x.dtype == self.lora_a.dtype == self.weight.dtype and not self._drops:
            w = self.weight if isinstance(self.base, Conv1D) else self.weight.t()
            adapted: Tensor = _Adapted.apply(x, w, self.bias, self.lora_a, self.lora_b, self.scaling)  # type: ignore[no-untyped-call]
            return adapted
        base: Tensor = self.base(x)
        if not self.enabled:
            return base
        low = nn.functional.linear(self.dropout(x).to(self.lora_a.dtype), self.lora_a)  # (…, r)
        return (base + nn.functional.linear(low, self.lora_b) * self.scaling).to(base.dtype)


class _Adapted(torch.autograd.Function):
    """y = x W + b + s · (x A^T) B^T in one step, and its gradients for x, A and B; W and b are frozen.

    Autograd's own graph of the same has four nodes more per layer and keeps the sum's parts. With g = dL/dy and
    h = x A^T: dL/dx = g W^T + s (g B) A, dL/dA = s (g B)^T x, dL/dB = s g^T h. Shapes: x (…, in), W (in, out),
    b (out,) or None, A (r, in), B (out, r).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, a: Tensor, lora_b: Tensor, scaling: float) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])  # (n, in)
        low = rows @ a.t()  # (n, r)
        y = rows @ w if b is None else torch.addmm(b, rows, w)
        y.addmm_(low, lora_b.t(), alpha=scaling)
        ctx.save_for_backward(rows, low, w, a, lora_b)
        ctx.scaling = scaling
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, low, w, a, lora_b = ctx.saved_tensors
        shape = gradients[0].shape
        g = gradients[0].reshape(-1, shape[-1])  # (n, out)
        through_b = (g @ lora_b).mul_(ctx.scaling)  # (n, r)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (g @ w.t()).addmm_(through_b, a).view(*shape[:-1], a.shape[1])
        return dx, None, None, through_b.t() @ rows, (g.t() @ low).mul_(ctx.scaling), None


def attach(model: nn.Module, target_modules: Sequence[str], r: int, alpha: float, dropout: float) -> list[str]:
    """Freeze `model` and wrap its target layers in LoRA; their paths, in the model's order.

    A name means, as in PEFT, the layer of that path and every layer whose path ends in `.name`. A's first values are
    drawn from torch's global generator: seed it before.

    Raises:
        WorkerFailed: a name matches no linear layer.
    """
    linear = {path: module for path, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))}
    for name in target_modules:
        if not any(_matches(path, name) for path in linear):
            there = sorted({path.rpartition(".")[2] for path in linear})
            raise WorkerFailed(
                "refused",
                f"The model has no linear layer {name!r}.",
                f"Set lora.target_modules to auto, or to some of: {', '.join(there)}.",
            )
    model.requires_grad_(False)
    chosen = [path for path in linear if any(_matches(path, name) for name in target_modules)]
    for path in chosen:
        parent, _, attribute = path.rpartition(".")
        setattr(model.get_submodule(parent), attribute, LoraLinear(linear[path], r, alpha, dropout))
    return chosen


def adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trained parameters by PEFT's names, sorted."""
    found = {}
    for path, module in model.named_modules():
        if isinstance(module, LoraLinear):
            found[f"{PREFIX}{path}{LORA_A}"] = module.lora_a
            found[f"{PREFIX}{path}{LORA_B}"] = module.lora_b
    return dict(sorted(found.items()))


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the adapter on the CPU, by PEFT's names. A is (r, in), B (out, r)."""
    return {name: tensor.detach().cpu().clone() for name, tensor in adapter_parameters(model).items()}


def load_adapter_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Set the adapter to what `adapter_state` gave.

    Raises:
        WorkerFailed: names or shapes are not those of the attached adapter.
    """
    parameters = adapter_parameters(model)
    wanted = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if wanted != given:
        odd = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
        raise WorkerFailed(
            "refused", f"The adapter does not fit the model: {odd[0]} and {len(odd) - 1} more differ.", "Train it anew."
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state[name])


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Inside, the model computes what the base model does."""
    layers = [module for module in model.modules() if isinstance(module, LoraLinear)]
    for layer in layers:
        layer.enabled = False
    try:
        yield
    finally:
        for layer in layers:
            layer.enabled = True


def adapter_config(
    model: nn.Module, model_path: str, target_modules: Sequence[str], r: int, alpha: float, dropout: float
) -> dict[str, Any]:
    """The content of PEFT's adapter_config.json for the adapter attached to `model`."""
    layers = [module.base for module in model.modules() if isinstance(module, LoraLinear)]
    return {
        "base_model_name_or_path": model_path,
        "bias": "none",
        "fan_in_fan_out": any(isinstance(layer, Conv1D) for layer in layers),
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": int(alpha) if float(alpha).is_integer() else alpha,
        "lora_dropout": dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": r,
        "target_modules": sorted(target_modules),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }


def _matches(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")


def _features(base: nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a linear layer. `Conv1D` keeps its weight as (in, out), `nn.Linear` as (out, in)."""
    first, second = base.get_parameter("weight").shape
    return (first, second) if isinstance(base, Conv1D) else (second, first)
