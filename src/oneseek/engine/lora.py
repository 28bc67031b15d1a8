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
from oneseek.engine.quantization import QuantizedLinear
from oneseek.errors import WorkerFailed

LINEAR = (nn.Linear, Conv1D, QuantizedLinear)


class LoraLinear(nn.Module):
    """y = base(x) + scaling · B A dropout(x), where only A and B are trained.

    `scaling` is alpha / r, or alpha / sqrt(r) where it is rank-stabilised (Kalajdzievski 2023, arXiv:2312.03732).
    `base` is an `nn.Linear`, a `Conv1D` (GPT-2's linear layer, its weight transposed) or a quantised one. A and B are
    fp32.
    """

    lora_a: nn.Parameter  # (r, in)
    lora_b: nn.Parameter  # (out, r)

    def __init__(self, base: nn.Module, r: int, alpha: float, dropout: float, *, rslora: bool = False) -> None:
        super().__init__()
        inputs, outputs = _features(base)
        self.base = base
        self.scaling = alpha / math.sqrt(r) if rslora else alpha / r
        self.dropout = nn.Dropout(dropout)
        self.enabled = True
        self.lora_a = nn.Parameter(torch.empty(r, inputs, dtype=torch.float32))
        self.lora_b = nn.Parameter(torch.zeros(outputs, r, dtype=torch.float32))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    @property
    def weight(self) -> Any:
        """The base layer's, for models whose code reads it (Mamba's dt_proj): past the adapter, as the code does."""
        return self.base.weight

    @property
    def bias(self) -> Any:
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        """x: (…, in) → (…, out), in the base layer's dtype."""
        if not self.enabled:
            base: Tensor = self.base(x)
            return base
        drop = self.dropout.p if self.training else 0.0
        adapted: Tensor = _Adapted.apply(x, self.base, self.lora_a, self.lora_b, self.scaling, drop)  # type: ignore[no-untyped-call]
        return adapted


class _Adapted(torch.autograd.Function):
    """y = x W + b + s · (d(x) A^T) B^T in one step, and its gradients for x, A and B; W and b are frozen.

    Autograd's own graph of the same has four nodes more per layer and keeps the sum's parts. With g = dL/dy, the
    dropout d(x) = m ∘ x (m is 0 or 1/(1 - p); all 1 without dropout) and h = d(x) A^T: dL/dx = g W^T + m ∘ s (g B) A,
    dL/dA = s (g B)^T d(x), dL/dB = s g^T h. Shapes: x (…, in), W (in, out), b (out,) or None, A (r, in), B (out, r).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, base: Any, a: Tensor, lora_b: Tensor, scaling: float, drop: float) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])  # (n, in)
        dropped, kept = torch.native_dropout(rows, drop, train=True) if drop else (rows, None)
        low = dropped @ a.to(x.dtype).t()  # (n, r)
        w, b = _matrix(base, x.dtype), base.bias
        y = x.new_empty(*x.shape[:-1], w.shape[1])
        out = y.view(-1, w.shape[1])  # y itself is no view: models may change it in place
        torch.mm(rows, w, out=out) if b is None else torch.addmm(b.to(x.dtype), rows, w, out=out)
        out.addmm_(low, lora_b.to(x.dtype).t(), alpha=scaling)
        ctx.save_for_backward(rows, kept, low, a, lora_b)
        ctx.base, ctx.scaling, ctx.drop = base, scaling, drop
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, kept, low, full_a, full_b = ctx.saved_tensors
        shape = gradients[0].shape
        g = gradients[0].reshape(-1, shape[-1])  # (n, out)
        a, lora_b = full_a.to(g.dtype), full_b.to(g.dtype)
        through_b = (g @ lora_b).mul_(ctx.scaling)  # (n, r)
        mask = None if kept is None else kept.to(g.dtype).div_(1.0 - ctx.drop)  # (n, in)
        da = through_b.t() @ (rows if mask is None else rows * mask)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = g @ _matrix(ctx.base, g.dtype).t()
            dx = dx.addmm_(through_b, a) if mask is None else dx.addcmul_(through_b @ a, mask)
            dx = dx.view(*shape[:-1], a.shape[1])
        db = (g.t() @ low).mul_(ctx.scaling)
        return dx, None, da.to(full_a.dtype), db.to(full_b.dtype), None, None


def _matrix(base: nn.Module, dtype: torch.dtype) -> Tensor:
    """W of x W, (in, out). A quantised one is made whole by each call, so that none is kept for the backward pass."""
    if isinstance(base, QuantizedLinear):
        return base.whole(dtype).t()
    w = base.get_parameter("weight")
    return (w if isinstance(base, Conv1D) else w.t()).to(dtype)


def attach(
    model: nn.Module, target_modules: Sequence[str], r: int, alpha: float, dropout: float, *, rslora: bool = False
) -> list[str]:
    """Freeze `model` and wrap its target layers in LoRA; their paths, in the model's order.

    A name means, as in PEFT, the layer of that path and every layer whose path ends in `.name`. A's first values are
    drawn from torch's global generator: seed it before.

    Raises:
        WorkerFailed: a name matches no linear layer.
    """
    linear = {path: module for path, module in model.named_modules() if isinstance(module, LINEAR)}
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
        setattr(model.get_submodule(parent), attribute, LoraLinear(linear[path], r, alpha, dropout, rslora=rslora))
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
    model: nn.Module,
    base_model: str,
    target_modules: Sequence[str],
    r: int,
    alpha: float,
    dropout: float,
    *,
    revision: str | None = None,
    rslora: bool = False,
) -> dict[str, Any]:
    """The content of PEFT's adapter_config.json for the adapter attached to `model`.

    base_model: its id on the hub, with the commit as `revision`; or its directory.
    """
    layers = [module.base for module in model.modules() if isinstance(module, LoraLinear)]
    return {
        "base_model_name_or_path": base_model,
        **({} if revision is None else {"revision": revision}),
        "bias": "none",
        "fan_in_fan_out": any(isinstance(layer, Conv1D) or getattr(layer, "was_conv1d", False) for layer in layers),
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
        "use_rslora": rslora,
    }


def _matches(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")


def _features(base: nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a linear layer. `Conv1D` keeps its weight as (in, out), `nn.Linear` as (out, in)."""
    if isinstance(base, QuantizedLinear):
        return base.in_features, base.out_features
    first, second = base.get_parameter("weight").shape
    return (first, second) if isinstance(base, Conv1D) else (second, first)
