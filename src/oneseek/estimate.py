"""What a plan needs: memory and disk of one model's training, and how many models fit side by side.

Estimates for fp32 on the CPU with plain padded batches and no checkpointing of activations. Everything is in bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from oneseek.registry.capabilities import ModelInfo
from oneseek.registry.modules import LinearModule

FP32 = 4  # bytes of one number

RUNTIME = 350 * 2**20
"""Resident size of a Python process that has imported torch and transformers; measured 341 MiB."""

PEAK_OVER_KEPT = 2.25
"""Peak of a training step over the activations that its linear modules keep: backward's own temporaries, norms and
attention, and blocks that the allocator holds back. Measured 2.1 to 2.3 on four Llama shapes of 256 and 512 channels,
1,024 to 4,096 tokens, LoRA on every linear module."""

SHARE_OF_FREE_MEMORY = 0.8
"""The rest is for the file cache, the coordinator and whatever else the machine does."""


class MemoryEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes at the peak of one training step. `runtime` is the process itself before it holds a model."""

    runtime: int
    weights: int
    adapter: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        return self.runtime + self.weights + self.adapter + self.optimizer + self.activations + self.logits


def memory(
    info: ModelInfo, lora_r: int, targets: Sequence[str], batch_size: int, length: int, threads: int = 1
) -> MemoryEstimate:
    """What one model's worker needs at its peak, with rows of `length` tokens, `batch_size` at a time.

    weights: every parameter in fp32, whatever it is stored in.
    adapter: LoRA's two matrices of every adapted place, A (r, in) and B (out, r), and their gradients.
    optimizer: AdamW's two moments of them.
    activations: for each token, the input and output of every linear module of the decoder, the r values between A
        and B, and four vectors a layer for norms and residual sums; times PEAK_OVER_KEPT.
    logits: for each token the vocabulary three times: logits, their log-softmax, its gradient.
    threads: each has a stack of 8 MiB, the usual limit.
    """
    tokens = batch_size * length
    trainable = adapter_parameters(info, lora_r, targets)
    channels = sum(module.count * (module.in_features + module.out_features) for module in info.linear_modules)
    between = sum(module.count * lora_r for module in _adapted(info, targets))
    kept = tokens * FP32 * (channels + between + 4 * info.hidden_size * info.layers)
    return MemoryEstimate(
        runtime=RUNTIME + threads * 8 * 2**20,
        weights=info.parameters * FP32,
        adapter=2 * trainable * FP32,
        optimizer=2 * trainable * FP32,
        activations=int(kept * PEAK_OVER_KEPT),
        logits=3 * tokens * info.vocab_size * FP32,
    )


def longest_row_bound(rows: Iterable[Mapping[str, Any]]) -> int | None:
    """Bytes of the longest row as JSON, which it has no more tokens than; None where there is no row.

    A token covers at least a byte, and the names of fields and roles stand in for what a template adds.
    """
    return max((len(msgspec.json.encode(row)) for row in rows), default=None)


def row_length(info: ModelInfo, max_length: int, longest_row: int | None) -> int:
    """Tokens of the longest row that `info` can meet: none is longer than `max_length`, its context, or its bytes.

    longest_row: what `longest_row_bound` says of the dataset, None where that is not known.
    """
    return min(limit for limit in (max_length, info.context_length, longest_row) if limit is not None)


def disk(info: ModelInfo, lora_r: int, targets: Sequence[str]) -> int:
    """Bytes that one model's training has on disk at most.

    Three checkpoints (two kept and the one being written) of adapter and both AdamW moments, and four copies of the
    adapter: the export, its .pth, the versioned directory and the certified one.
    """
    return (3 * 3 + 4) * adapter_parameters(info, lora_r, targets) * FP32


def adapter_parameters(info: ModelInfo, lora_r: int, targets: Sequence[str]) -> int:
    """Trainable parameters of LoRA at rank `lora_r` on the modules that `targets` name."""
    return sum(module.parameters_at(lora_r) for module in _adapted(info, targets))


def models_at_once(estimates: Sequence[int], free_bytes: int) -> int:
    """How many workers may run side by side: any so many of them fit in 80 % of the free memory, and at least 1.

    Cores are no limit: a worker that has to wait for one is slower, one that has to load its model anew each epoch is
    slower still. estimates: bytes of each model.
    """
    room = free_bytes * SHARE_OF_FREE_MEMORY
    fitting = 0
    needed = 0
    for estimate in sorted(estimates, reverse=True):
        needed += estimate
        if needed > room:
            break
        fitting += 1
    return max(1, fitting)


def _adapted(info: ModelInfo, targets: Sequence[str]) -> list[LinearModule]:
    # A target may be the end of a path (`attn.c_proj`); modules are counted by their last segment.
    names = {target.rpartition(".")[2] for target in targets}
    return [module for module in info.linear_modules if module.name in names]
