"""Frozen base weights in 4 or 8 bits (QLoRA, Dettmers et al. 2023, arXiv:2305.14314), packed by bitsandbytes.

Only how weights are packed is taken from bitsandbytes: NF4 with double quantisation, or the int8 rows of LLM.int8
(Dettmers et al. 2022, arXiv:2208.07339). How they are multiplied is not. Its 8-bit product rounds the activations, too,
but for columns in which any row of the batch has an outlier, so that an example's loss depends on its neighbours'. Its
4-bit product has no gradient any more, on CPUs that compute in bf16, once the model was evaluated. Here a weight is
made whole, multiplied in the model's dtype, and forgotten; the backward pass makes it again.
"""

from __future__ import annotations

import logging
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

Quantization = Literal["4bit", "8bit"]


class QuantizedLinear(nn.Module):
    """y = x W^T + b, with W packed and frozen.

    `was_conv1d`: whether the model's own layer is GPT-2's `Conv1D`, which keeps its weight transposed.
    """

    packed: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        """layer: a `Linear4bit` or `Linear8bitLt` of bitsandbytes, as transformers puts them into a model.
        dtype: of `weight`.
        """
        super().__init__()
        self.dtype = dtype
        self.in_features: int = layer.in_features
        self.out_features: int = layer.out_features
        self.was_conv1d = issubclass(layer.source_cls, Conv1D)
        self.packed = layer.weight
        self.bias = layer.bias
        state = getattr(layer.weight, "quant_state", None)  # of 4 bits
        if state is not None and layer.in_features % state.blocksize:
            # Blocks run on from row to row; bitsandbytes' kernel for CPUs would begin a new one with each row.
            state.shape = torch.Size([layer.out_features * layer.in_features])

    def whole(self, dtype: torch.dtype) -> Tensor:
        """W, made anew by each call: (out, in)."""
        packed: Any = self.packed
        if packed.dtype == torch.int8:
            scale: Tensor = packed.SCB / 127  # (out,): the largest magnitude of each row is 127
            rows: Tensor = packed.detach().to(dtype)
            return rows.mul_(scale[:, None])
        from bitsandbytes.functional import dequantize_4bit  # type: ignore[import-not-found, unused-ignore]

        weight: Tensor = dequantize_4bit(packed.detach(), packed.quant_state)
        return weight.view(self.out_features, self.in_features).to(dtype)

    @property
    def weight(self) -> Tensor:
        """W for models whose code reads it: (out, in)."""
        return self.whole(self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """x: (…, in) → (…, out), in the dtype of x."""
        product: Tensor = _Product.apply(x, self)  # type: ignore[no-untyped-call]
        return product if self.bias is None else product + self.bias.to(x.dtype)


class _Product(torch.autograd.Function):
    """x W^T, and dL/dx = dL/dy W. Autograd would keep the whole W until then."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer = layer
        return x @ layer.whole(x.dtype).t()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (g,) = gradients  # (…, out)
        return g @ ctx.layer.whole(g.dtype), None


def loading_options(quantization: Quantization, dtype: torch.dtype) -> dict[str, Any]:
    """What `from_pretrained` is told so that each weight is packed as soon as it is read, on the device that computes.

    Raises:
        ImportError: bitsandbytes or accelerate is not installed, or too old.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it asks for kernels that are not used here
    config = BitsAndBytesConfig(
        load_in_4bit=quantization == "4bit",
        load_in_8bit=quantization == "8bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": config, "device_map": {"": "cuda" if torch.cuda.is_available() else "cpu"}}


def multiply_whole(model: nn.Module, dtype: torch.dtype) -> None:
    """Put a `QuantizedLinear` in the place of every layer that transformers has packed, and copy what it has not: on a
    CPU that still is a part of the file, all of which would stay in memory with it."""
    for parameter in model.parameters():
        if parameter.is_floating_point() and parameter.device.type == "cpu":
            parameter.data = parameter.data.clone()
    for path, module in list(model.named_modules()):
        if hasattr(module, "source_cls"):  # transformers' mark of what it replaced
            model.set_submodule(path, QuantizedLinear(module, dtype))
