"""What a plan needs: memory, disk and time of a training, and how many tokens and models are computed at once.

Estimates are for fp32 on the CPU, and err high; everything is in bytes unless it says tokens or seconds. Where
constants were measured is told in docs/decisions/2026-11-21-memory.md.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import heapreplace
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

PEAK_OVER_KEPT = 2.0
"""Peak of a step over the activations that it keeps. Alive at once is 1.04 times that; the rest is freed blocks that
glibc can't hand out again, since an aligned block needs a hole larger than itself. Measured 1.9 to 2.0."""

PEAK_OVER_INPUTS, PEAK_OVER_LAYER = 10, 4
"""Where activations are computed twice, the peak over the inputs of all layers, which are kept, and over what one layer
keeps while it is computed again. Each input comes to lie in a large block that was freed, which then can't be used
again. Fitted to three shapes, each within 5 %."""

FEWEST_TOKENS, MOST_TOKENS = 256, 1024
"""Tokens computed at once between which throughput hardly changes on a CPU. Measured on one thread, 256 and 576
channels: fastest at 512 and 1,024; 5 % slower at 256, 3 % at 2,048, 5 % at 4,096, 13 % at 8,192, which outgrow
every cache."""

FLOPS_OF_A_CORE = 30e9
"""Floating-point operations a second that a step gets out of a core. Measured 50 (tiny) to 85 billion (small) with
AVX-512; older cores have half of it or less, so that projected times may be three times too long."""

LOADING_SECONDS, LOADED_IN_A_SECOND = 10, 200 * 2**20
"""A worker's start with all that it imports, and how fast it then reads and tries its model."""

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


class DiskEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes that one model's training has on disk when it has most: in checkpoints, and in copies of the adapter."""

    checkpoints: int
    adapters: int

    @property
    def total(self) -> int:
        return sum(msgspec.structs.astuple(self))


class Reading(msgspec.Struct, frozen=True):
    """What a model reads in an epoch: rows to train and to validate on, and how many tokens they have on average."""

    training_rows: int
    validation_rows: int
    tokens_of_a_row: float


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds that one model's training takes: to load it, for what is done once, and for an epoch with its
    evaluation."""

    load: float
    once: float
    epoch: float


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What the training of one model needs. What is told of its time is rough; None where its rows are not known."""

    key: str
    memory: MemoryEstimate
    disk: DiskEstimate
    tokens_at_once: int
    gradient_checkpointing: bool
    tokens_per_epoch: int | None
    seconds: float | None


class RunEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """What a run needs: `at_once` of its models are loaded at a time, each with `threads` cores. `seconds` is rough,
    and None where those of a model are."""

    models: tuple[Estimate, ...]
    at_once: int
    threads: int
    seconds: float | None

    def wire(self) -> dict[str, Any]:
        """The same as JSON has it, with the totals of memory and disk."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        for written, model in zip(plain["models"], self.models, strict=True):
            written["memory"]["total"], written["disk"]["total"] = model.memory.total, model.disk.total
        return plain


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
    activations: what the backward pass needs, as `kept_numbers` counts it, times the measured overhead; with
        checkpointing the input of every layer, and all of one layer.
    logits: of a chunk of tokens its logits, their exponentials and the product with the head; and for each token the
        hidden state and its gradient. own_head: the model makes its logits itself, for all tokens.
    """
    trainable = adapter_parameters(info, lora_r, targets) * FP32
    kept = kept_numbers(info, lora_r, targets)
    peak = PEAK_OVER_KEPT * kept
    if checkpointing:
        layers = max(1, info.layers)
        peak = PEAK_OVER_INPUTS * info.hidden_size * layers + PEAK_OVER_LAYER * kept / layers
    linear = sum(module.count * module.in_features * module.out_features for module in info.linear_modules)
    return MemoryEstimate(
        runtime=RUNTIME + threads * STACK,
        weights=int((info.parameters - linear) * FP32 + linear * BYTES_OF_WEIGHT[quantization]),
        adapter=3 * trainable,
        optimizer=2 * trainable,
        activations=tokens * int(peak * FP32),
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


def run_estimate(
    config: TrainingConfig,
    models: Sequence[ModelInfo],
    *,
    free_bytes: int,
    cores: int,
    longest_row: Callable[[str], int | None],
    reading: Mapping[str, Reading],
) -> RunEstimate:
    """What a run of these models, at least one, would need on a machine with so much free memory and so many cores.

    longest_row: for a model's key what `memory_need` takes. reading: by key, of the models whose rows are known.
    """
    inline = config.execution.executor == "inline"
    needs = [memory_need(model, config, longest_row(model.key)) for model in models]
    sharing = share_memory(needs, free_bytes, config.execution.gradient_checkpointing, 1 if inline else len(models))
    threads = max(1, cores // sharing.at_once)
    estimates, paces = [], []
    for model, budget in zip(models, sharing.budgets, strict=True):
        read, seconds = reading.get(model.key), None
        if read is not None:
            paces.append(pace(model, config, read, threads=threads, checkpointing=budget.checkpointing))
            seconds = run_seconds(paces[-1:], config.training.num_epochs, 1)
        estimates.append(
            Estimate(
                key=model.key,
                memory=memory_of(model, config, budget.tokens, checkpointing=budget.checkpointing),
                disk=disk_of(model, config),
                tokens_at_once=budget.tokens,
                gradient_checkpointing=budget.checkpointing,
                tokens_per_epoch=None
                if read is None
                else round(read.training_rows * _tokens_of_a_row(model, config, read)),
                seconds=seconds,
            )
        )
    slower = max(1.0, sharing.at_once * threads / cores)
    whole = len(paces) == len(models)
    return RunEstimate(
        models=tuple(estimates),
        at_once=sharing.at_once,
        threads=threads,
        seconds=run_seconds(paces, config.training.num_epochs, sharing.at_once, slower) if whole else None,
    )


def _saves(need: MemoryNeed, room: int) -> bool:
    """Whether computing activations twice helps a longest row that does not fit otherwise."""
    return need.fixed + need.per_token * need.longest_row > room and need.per_token_checkpointed < need.per_token


# -- time ----------------------------------------------------------------------------------------------------------


def pace(info: ModelInfo, config: TrainingConfig, read: Reading, *, threads: int, checkpointing: bool) -> Pace:
    """How fast a model would be trained, before anything is measured: rough, see FLOPS_OF_A_CORE.

    With n tokens a row, a token that is trained costs 4 operations for each frozen weight of a linear module (forward,
    and backward with respect to activations), 6 for each weight of the adapter, 6 n channels a layer in causal
    attention, and 4 for each weight of the head, as if every token were learned; one that is only looked at costs
    `forward_share` of it. Experts that are fused are not counted.
    """
    length = _tokens_of_a_row(info, config, read)
    lora, training = config.lora_for(info.key), config.training_for(info.key)
    frozen = sum(module.count * module.in_features * module.out_features for module in info.linear_modules)
    adapter = adapter_parameters(info, lora.r, lora_targets(info, lora.target_modules))
    forward = (
        2 * frozen + 2 * adapter + 2 * length * info.hidden_size * info.layers + 2 * info.hidden_size * info.vocab_size
    )
    share = forward_share(checkpointing=checkpointing)
    trained = (forward / share + 2 * adapter) / (threads * FLOPS_OF_A_CORE)  # seconds a token
    looked_at = trained * share
    training_tokens, validation_tokens = read.training_rows * length, read.validation_rows * length
    return Pace(
        load=LOADING_SECONDS + info.size_bytes / LOADED_IN_A_SECOND,
        once=(training_tokens + validation_tokens) * looked_at if training.method == "dpo" else 0.0,
        epoch=training_tokens * trained + validation_tokens * looked_at,
    )


def forward_share(*, checkpointing: bool) -> float:
    """What a token costs without a backward pass, over what it costs to be trained. Weights that are frozen have no
    gradient, so the backward pass is as long as the forward; with checkpointing the forward is done twice."""
    return 1 / 3 if checkpointing else 1 / 2


def run_seconds(paces: Sequence[Pace], epochs: int, at_once: int, slower: float = 1.0) -> float:
    """How long a run takes whose models, at least one, go through each epoch `at_once` at a time, all before any begins
    the next. Where not all stay loaded, the others are loaded anew in each epoch.

    slower: how much so all are for want of cores.
    """
    again = max(0, len(paces) - at_once) / len(paces)
    rounds = (
        _together([pace.load + pace.once for pace in paces], at_once),
        _together([pace.epoch + again * pace.load for pace in paces], at_once) * epochs,
    )
    return slower * sum(rounds)


def _together(seconds: Sequence[float], at_once: int) -> float:
    """How long tasks take when each waits, in their order, for a place."""
    ends = [0.0] * at_once
    for each in seconds:
        heapreplace(ends, ends[0] + each)
    return max(ends)


def _tokens_of_a_row(info: ModelInfo, config: TrainingConfig, read: Reading) -> float:
    return min(read.tokens_of_a_row, row_length(info, config.data.max_length, None))


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


def disk(info: ModelInfo, lora_r: int, targets: Sequence[str], *, inside_epochs: bool = False) -> DiskEstimate:
    """What one model's training has on disk at most: in an epoch or at the end, whichever is more.

    A checkpoint is the adapter and both AdamW moments. In an epoch there are those of the best and the last two epochs,
    the one being written, and two more where some are written inside epochs. At the end there are those of the best
    and the last two epochs, and five copies of the adapter: export, certified and versioned directory, two .pth.
    """
    adapter = adapter_parameters(info, lora_r, targets) * FP32
    in_an_epoch = DiskEstimate(checkpoints=3 * adapter * (6 if inside_epochs else 4), adapters=0)
    at_the_end = DiskEstimate(checkpoints=3 * adapter * 3, adapters=5 * adapter)
    return max(in_an_epoch, at_the_end, key=lambda moment: moment.total)


def disk_of(info: ModelInfo, config: TrainingConfig) -> DiskEstimate:
    """`disk` of a model as a configuration would train it."""
    lora = config.lora_for(info.key)
    inside = config.training.checkpoint_every is not None
    return disk(info, lora.r, lora_targets(info, lora.target_modules), inside_epochs=inside)


def adapter_parameters(info: ModelInfo, lora_r: int, targets: Sequence[str]) -> int:
    """Trainable parameters of LoRA at rank `lora_r` on the modules that `targets` name."""
    return sum(module.parameters_at(lora_r) for module in _adapted(info, targets))


def _adapted(info: ModelInfo, targets: Sequence[str]) -> list[LinearModule]:
    # A target may be the end of a path (`attn.c_proj`); modules are counted by their last segment.
    names = {target.rpartition(".")[2] for target in targets}
    return [module for module in info.linear_modules if module.name in names]
