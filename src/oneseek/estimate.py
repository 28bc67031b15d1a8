"""What a plan needs: memory and disk of one model's training, and how many tokens and models are computed at once.

Estimates are for fp32 on the CPU, and err high; everything is in bytes unless it says tokens. Where constants were
measured is told in docs/decisions/2026-11-21-memory.md.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from oneseek.config.schema import TrainingConfig
from oneseek.events import MemoryNeed
from oneseek.registry.capabilities import ModelInfo, lora_targets
from oneseek.registry.modules import LinearModule

FP32 = 4  # bytes of one number

RUNTIME = 400 * 2**20
"""Resident size of a Python process that has imported torch, transformers and one architecture, and has read a dataset;
measured 335 MiB after the imports, 30 to 80 more once prepared."""

STACK = 8 * 2**20
"""Each thread has one of this size, the usual limit."""

BYTES_OF_WEIGHT = {None: FP32, "4bit": 0.52, "8bit": 1.01}
"""A frozen weight of a linear module. NF4 with double quantisation adds 0.127 bits a weight for its scales (Dettmers et
al. 2023, arXiv:2305.14314), int8 a scale for each row."""

HEAD_CHUNK = 256
"""Tokens whose logits `engine.head` makes at once."""

PEAK_OVER_KEPT = 1.6
"""Peak of a step over the activations that it keeps: a layer's gradients, and freed blocks that the allocator holds
back. Measured 1.2 (512 tokens) to 1.6 (4,096 tokens) on Llama and GPT-2 shapes of 256 to 768 channels."""

PEAK_OVER_KEPT_CHECKPOINTED = 4.5
"""The same where activations are computed twice. What is kept is little, but small blocks that live long are put into
freed large ones, which then can't be used again. Measured 2.4 to 4.7."""

FEWEST_TOKENS, MOST_TOKENS = 256, 1024
"""Tokens computed at once between which throughput hardly changes on a CPU. Measured on one thread, 256 and 576
channels: fastest at 512 and 1,024; 5 % slower at 256, 3 % at 2,048, 5 % at 4,096, 13 % at 8,192, which outgrow
every cache."""

SHARE_OF_FREE_MEMORY = 0.8
"""The rest is for the file cache, the coordinator and whatever else the machine does."""

Checkpointing = Literal["auto", "always", "never"]


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
        return sum(msgspec.structs.astuple(self))


class TokenBudget(msgspec.Struct, frozen=True, kw_only=True):
    """At most `tokens` are computed at once, with activations kept or computed again (`checkpointing`)."""

    tokens: int
    checkpointing: bool


class Sharing(msgspec.Struct, frozen=True, kw_only=True):
    """How models share a memory: how many are loaded at once, and what each may compute at once, in their order."""

    at_once: int
    budgets: tuple[TokenBudget, ...]


# -- one model -----------------------------------------------------------------------------------------------------


def memory(
    info: ModelInfo,
    *,
    lora_r: int,
    targets: Sequence[str],
    tokens: int,
    threads: int = 1,
    quantization: Literal["4bit", "8bit"] | None = None,
    checkpointing: bool = False,
    own_head: bool = False,
) -> MemoryEstimate:
    """What one model's worker needs at its peak when it computes `tokens` tokens at once, whichever rows they are of.

    weights: what is stored, in fp32; those of linear modules packed where `quantization` says so.
    adapter: LoRA's two matrices of every adapted place, A (r, in) and B (out, r), their gradients and first values.
    optimizer: AdamW's two moments of them.
    activations: what the backward pass needs, as `kept_numbers` counts it, times the measured overhead. checkpointing:
        the input of every layer, and all of one layer.
    logits: of a chunk of tokens its logits, their exponentials and the product with the head; and for each token the
        hidden state and its gradient. own_head: the model makes its logits itself, for all tokens.
    """
    trainable = adapter_parameters(info, lora_r, targets) * FP32
    kept, overhead = kept_numbers(info, lora_r, targets), PEAK_OVER_KEPT
    if checkpointing:
        layers = max(1, info.layers)
        kept, overhead = info.hidden_size * layers + kept // layers, PEAK_OVER_KEPT_CHECKPOINTED
    linear = sum(module.count * module.in_features * module.out_features for module in info.linear_modules)
    return MemoryEstimate(
        runtime=RUNTIME + threads * STACK,
        weights=int((info.parameters - linear) * FP32 + linear * BYTES_OF_WEIGHT[quantization]),
        adapter=3 * trainable,
        optimizer=2 * trainable,
        activations=tokens * int(kept * overhead * FP32),
        logits=(3 * info.vocab_size * (tokens if own_head else HEAD_CHUNK) + 2 * tokens * info.hidden_size) * FP32,
    )


def kept_numbers(info: ModelInfo, lora_r: int, targets: Sequence[str]) -> int:
    """Numbers that the backward pass needs of one token, counted from the shapes of the linear modules.

    In a layer of transformers these are: input and output of both norms; what attention is given, what it gives, and a
    copy of that in the model's order; in the MLP, of its width, four where one half gates the other (both halves, the
    activation, the product) and five where GELU is composed of other functions, as in GPT-2. Input and output of every
    linear module together are as many, within 4 %, but for the MLP that is not gated, which has two and keeps five.
    And the r numbers between A and B of each adapted module.
    """
    shapes = info.linear_modules
    inner = max((module.in_features for module in shapes), default=0)
    widening = sum(module.count for module in shapes if module.out_features == inner)
    narrowing = sum(module.count for module in shapes if module.in_features == inner)
    gated = widening != narrowing
    return (
        sum(module.count * (module.in_features + module.out_features) for module in shapes)
        + (0 if gated else 3 * inner * narrowing)
        + sum(module.count * lora_r for module in _adapted(info, targets))
    )


def memory_of(info: ModelInfo, config: TrainingConfig, tokens: int, *, checkpointing: bool = False) -> MemoryEstimate:
    """`memory` of a model as a configuration would train it."""
    lora = config.lora_for(info.key)
    return memory(
        info,
        lora_r=lora.r,
        targets=lora_targets(info, lora.target_modules),
        tokens=tokens,
        threads=config.execution.threads or 1,
        quantization=config.model.quantization,
        checkpointing=checkpointing,
        own_head=info.scaled_logits,
    )


def memory_need(info: ModelInfo, config: TrainingConfig, longest_row: int | None) -> MemoryNeed:
    """`memory_of` as the two lines that it is, and how many tokens a row and an optimiser step have at most.

    longest_row: what `longest_row_bound` says of the dataset, None where that is not known.
    """
    fixed = memory_of(info, config, 0).total
    training = config.training_for(info.key)
    answers = 2 if training.method == "dpo" else 1  # a pair is computed at once
    longest = row_length(info, config.data.max_length, None) * answers
    row = longest if longest_row is None else min(longest, longest_row)
    return MemoryNeed(
        fixed=fixed,
        per_token=memory_of(info, config, 1).total - fixed,
        per_token_checkpointed=memory_of(info, config, 1, checkpointing=True).total - fixed,
        longest_row=row,
        longest_step=row * training.batch_size * training.gradient_accumulation_steps,
    )


# -- several models ------------------------------------------------------------------------------------------------


def share_memory(needs: Sequence[MemoryNeed], free_bytes: int, checkpointing: Checkpointing, at_most: int) -> Sharing:
    """As many models side by side as four fifths of the free memory hold, each with as many tokens at once.

    A smaller budget costs little, and a model that waits for its turn is loaded anew each epoch: so models take turns
    only where FEWEST_TOKENS of all of them do not fit. Any `at_once` of them fit together. Cores are no limit: a worker
    that has to wait for one is slower, one that has to be loaded is slower still. Activations are computed twice, when
    that is left to us, only by a model whose longest row does not fit without. One model alone is given its longest
    row, whether it fits or not.

    needs: at least one model's. at_most: how many may be loaded at once for another reason, at least 1.
    """
    room = int(free_bytes * SHARE_OF_FREE_MEMORY)
    twice = [checkpointing == "always" or (checkpointing == "auto" and _saves(need, room)) for need in needs]

    def budgets(most: int) -> list[int]:
        return [max(need.longest_row, min(most, need.longest_step)) for need in needs]

    def of_the_largest(count: int, most: int) -> int:
        """Bytes that the `count` most demanding models need together, where all compute at most so many tokens."""
        each = (
            need.fixed + tokens * (need.per_token_checkpointed if again else need.per_token)
            for need, tokens, again in zip(needs, budgets(most), twice, strict=True)
        )
        return sum(sorted(each, reverse=True)[:count])

    fitting = (
        count for count in range(min(len(needs), at_most), 1, -1) if of_the_largest(count, FEWEST_TOKENS) <= room
    )
    at_once = next(fitting, 1)
    most = bisect_right(range(MOST_TOKENS), room, key=lambda least: of_the_largest(at_once, least + 1))
    return Sharing(
        at_once=at_once,
        budgets=tuple(
            TokenBudget(tokens=tokens, checkpointing=again) for tokens, again in zip(budgets(most), twice, strict=True)
        ),
    )


def _saves(need: MemoryNeed, room: int) -> bool:
    """Whether computing activations twice helps a longest row that does not fit otherwise."""
    return need.fixed + need.per_token * need.longest_row > room and need.per_token_checkpointed < need.per_token


# -- rows, and the disk --------------------------------------------------------------------------------------------


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


def disk(info: ModelInfo, lora_r: int, targets: Sequence[str], *, inside_epochs: bool = False) -> int:
    """Bytes that one model's training has on disk at most.

    Checkpoints of adapter and both AdamW moments: those of the best epoch and the last two, the one being written, and
    two more where there are some inside epochs. And four copies of the adapter: the export, its .pth, the versioned
    directory and the certified one.
    """
    checkpoints = 6 if inside_epochs else 4
    return (3 * checkpoints + 4) * adapter_parameters(info, lora_r, targets) * FP32


def adapter_parameters(info: ModelInfo, lora_r: int, targets: Sequence[str]) -> int:
    """Trainable parameters of LoRA at rank `lora_r` on the modules that `targets` name."""
    return sum(module.parameters_at(lora_r) for module in _adapted(info, targets))


def _adapted(info: ModelInfo, targets: Sequence[str]) -> list[LinearModule]:
    # A target may be the end of a path (`attn.c_proj`); modules are counted by their last segment.
    names = {target.rpartition(".")[2] for target in targets}
    return [module for module in info.linear_modules if module.name in names]
