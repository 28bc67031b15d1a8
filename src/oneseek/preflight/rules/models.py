"""What the selected base models can do."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from oneseek import estimate
from oneseek.config.schema import TrainingConfig
from oneseek.datasets.formats import STRATEGY_OF, Strategy
from oneseek.events import MemoryNeed
from oneseek.names import size
from oneseek.preflight.facts import Facts
from oneseek.preflight.finding import Change, Finding, rule
from oneseek.preflight.rules.selection import FIELD
from oneseek.registry.capabilities import ModelInfo


@rule
def base_models_usable(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """Every selected directory holds a whole model of a kind that can be trained, and a key of its own."""
    if facts.models_error is not None:
        yield Finding(severity="error", field=FIELD, problem=facts.models_error.problem, fix=facts.models_error.fix)
    for model in facts.models:
        for trouble in model.problems:
            yield Finding(
                severity="error",
                field=FIELD,
                problem=f"{model.display_name} ({model.path}): {trouble.problem}",
                fix=trouble.fix,
                model=model.key,
            )


LARGE_DOWNLOAD = 10 * 10**9  # bytes


@rule
def downloads_are_expected(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """A model that is not here is fetched before the training begins; who waits should know for what."""
    for model in facts.models:
        if model.missing_bytes:
            large = " That is a large download." if model.missing_bytes >= LARGE_DOWNLOAD else ""
            yield Finding(
                severity="warning",
                field=FIELD,
                problem=f"{model.display_name} is not here yet: {size(model.missing_bytes)} are downloaded "
                f"before the training begins, and only then can it be tried on the rows.{large}",
                fix=f"To have it here beforehand, download it on its card, or with oneseek models pull {model.hub_id}",
                model=model.key,
            )


@rule
def chat_needs_a_template(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """`chat` renders messages through the model's own template; a model without one cannot do it."""
    if strategy_of(config, facts) != "chat":
        return
    rows = None if facts.dataset is None else STRATEGY_OF[facts.dataset.format]  # which no setting alone can change
    for model in facts.models:
        unknown = any(trouble.kind in ("broken-tokenizer", "unreadable") for trouble in model.problems)
        if model.chat_template is None and not unknown:
            yield Finding(
                severity="error",
                field="data.strategy",
                problem=f"{model.display_name} has no chat template.",
                fix="Set data.strategy to 'standard' with a dataset of text, or select a model with a template.",
                model=model.key,
                changes=() if rows == "chat" else (Change("data.strategy", "standard"),),
            )


@rule
def tokenizer_has_an_eos(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """Text and completions end in the tokenizer's end-of-text token, which is how a model learns to stop; a chat ends
    as its template says."""
    if strategy_of(config, facts) != "standard":
        return
    for model in facts.models:
        unknown = any(trouble.kind in _WITHOUT_TOKENS for trouble in model.problems)
        if not model.special_tokens.get("eos_token") and not unknown:
            yield Finding(
                severity="warning",
                field=FIELD,
                problem=f"The tokenizer of {model.display_name} names no eos_token: completions can't learn to stop.",
                fix=f'Write its end-of-text token into {model.path}/tokenizer_config.json, as "eos_token": "</s>".',
                model=model.key,
            )


@rule
def token_ids_fit_the_embedding(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """A token whose id has no row in the embedding cannot be trained; a tokenizer with tokens added may have such."""
    for model in facts.models:
        highest, rows = model.highest_token_id, model.embedding_rows
        if highest is not None and 0 < rows <= highest:
            yield Finding(
                severity="warning",
                field=FIELD,
                problem=f"The tokenizer of {model.display_name} has token ids up to {highest}, its embedding has rows "
                f"for ids below {rows}: a row of data with such a token can't be trained.",
                fix="Use the tokenizer.json that came with these weights, or enlarge the embedding with "
                "resize_token_embeddings of transformers and save the model again.",
                model=model.key,
            )


@rule
def enough_memory(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """A model that does not fit even alone, with activations computed twice where the settings allow it, is refused if
    a short row would not fit, and warned of if the longest might not."""
    free = facts.free_memory_bytes
    if free is None:
        return
    setting = config.execution.gradient_checkpointing
    ways = {"auto": (False, True), "always": (True,), "never": (False,)}[setting]
    for model in facts.models:
        need = estimate.memory_need(model, config, facts.longest_row(model.key))
        row = need.longest_row
        least, most = (
            min(
                (estimate.memory_of(model, config, tokens, checkpointing=again) for again in ways),
                key=lambda needed: needed.total,
            )
            for tokens in (min(row, estimate.FEWEST_TOKENS), row)
        )
        if most.total > free:
            refused = least.total > free
            less, changes = "Select a smaller base model", tuple[Change, ...]()
            if setting == "never":
                less = "Set execution.gradient_checkpointing to 'auto'"
                changes = (Change("execution.gradient_checkpointing", "auto"),)
            elif not refused:
                fitting = _fitting(need, free, config, model)
                less, changes = f"Set data.max_length to {fitting}", (Change("data.max_length", fitting),)
            needed = least if refused else most
            yield Finding(
                severity="error" if refused else "warning",
                field="execution.gradient_checkpointing" if setting == "never" else FIELD,
                problem=f"{model.display_name} {'needs' if refused else 'may need'} {gib(needed.total)} of memory "
                f"({_parts(needed)}), and {gib(free)} are free.",
                fix=f"{less}, or close other programs.",
                model=model.key,
                changes=changes,
                meant=True,
            )


def _fitting(need: MemoryNeed, free: int, config: TrainingConfig, model: ModelInfo) -> int:
    """The longest row, in tokens, that fits into so much free memory where activations may be computed twice."""
    per_token = min(need.per_token, need.per_token_checkpointed)
    answers = 2 if config.training_for(model.key).method == "dpo" else 1  # a pair is computed at once
    return (free - need.fixed) // per_token // answers


@rule
def quantization_has_its_packages(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """Weights in 4 or 8 bits are packed by bitsandbytes, through accelerate, on a GPU or not; neither is needed
    otherwise."""
    if config.model.quantization is not None and facts.missing_packages:
        are = "is" if len(facts.missing_packages) == 1 else "are"
        yield Finding(
            severity="error",
            field="model.quantization",
            problem=f"Loading base models in {config.model.quantization} needs {' and '.join(facts.missing_packages)}, "
            f"which {are} not installed.",
            fix="Run pip install 'oneseek[quantization]', or remove model.quantization.",
            changes=(Change("model.quantization", None),),
            meant=True,
        )


def strategy_of(config: TrainingConfig, facts: Facts) -> Strategy | None:
    """The strategy that the run would use: the one that is set, else that of the dataset's format."""
    if config.data.strategy is not None or facts.dataset is None or facts.dataset.format is None:
        return config.data.strategy
    return STRATEGY_OF[facts.dataset.format]


def gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def _parts(needed: estimate.MemoryEstimate) -> str:
    """`weights 26.1 GiB, activations 1.2 GiB`: the parts of at least a tenth of a GiB, the largest first."""
    parts = sorted(msgspec.structs.asdict(needed).items(), key=lambda part: -part[1])
    return ", ".join(f"{name} {gib(count)}" for name, count in parts if count >= 2**30 / 10)


_WITHOUT_TOKENS = ("broken-config", "broken-tokenizer", "no-config", "no-tokenizer", "unreadable")
