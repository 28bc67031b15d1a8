"""What the selected models make of the rows: rendered by their own templates, in their own tokens.

Judged by the longest rows and a sample of the others, or by all where there are no more; each finding says which.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from oneseek.config.schema import TrainingConfig
from oneseek.datasets.scan import Scan
from oneseek.datasets.split import split
from oneseek.preflight.facts import Facts, ModelTokens
from oneseek.preflight.finding import Change, Finding, rule
from oneseek.preflight.rules.data import FIELD, VALIDATION_FIELD
from oneseek.registry.capabilities import ModelInfo

LINES_SHOWN = 3
MANY_TRUNCATED = 0.1
"""Share of cut rows from which on it is said."""


@rule
def template_takes_the_rows(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """A chat template may refuse roles or tool calls, hide where its answers are, or run for ever."""
    for field, dataset, model, tokens in _judged(facts):
        if tokens.trouble is not None:
            yield Finding(
                severity="error",
                field="model.base_models",
                problem=tokens.trouble.problem,
                fix=tokens.trouble.fix,
                model=model.key,
            )
        elif tokens.refused:
            first = tokens.refused[0]
            more = f" So it is with {len(tokens.refused):,} of {_looked_at(tokens)}." if len(tokens.refused) > 1 else ""
            yield Finding(
                severity="error",
                field=field,
                problem=f"{model.display_name}, line {first.line} of {dataset.path}: {first.problem}{more}",
                fix=first.fix,
                model=model.key,
            )


@rule
def rows_leave_something_to_learn(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """A row of which no learned token is left, because it was cut before its answer, teaches nothing."""
    for field, dataset, model, tokens in _judged(facts):
        if not tokens.unlearnable:
            continue
        side = _side_without(config, facts, dataset, tokens)
        lost = f"{len(tokens.unlearnable):,} of {_looked_at(tokens)} of {dataset.path}"
        yield Finding(
            severity="error" if side else "warning",
            field=field,
            problem=f"{model.display_name}: once rows are cut to {_limit(config, model):,} tokens, nothing is left to "
            f"learn in {lost} ({_lines(tokens.unlearnable)}){f', among them all rows {side}' if side else ''}.",
            fix=_give_room(config, model, tokens.longest),
            model=model.key,
            changes=_room(config, model, tokens.longest),
        )


@rule
def rows_survive_for_every_model(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """Models are compared on the same rows: one that loses rows which another one keeps learns from less."""
    lost = {model.key: set(facts.tokens[model.key].unlearnable) for model in facts.models if model.key in facts.tokens}
    for model in facts.models:
        alone = lost.get(model.key, set()).difference(*(lines for key, lines in lost.items() if key != model.key))
        keeping = [other.display_name for other in facts.models if other.key in lost and other.key != model.key]
        if alone and keeping:
            yield Finding(
                severity="warning",
                field=FIELD,
                problem=f"{model.display_name} can't learn from {_some(sorted(alone))} that {_listed(keeping)} can "
                f"({_lines(sorted(alone))}).",
                fix="Shorten these rows, so that every model learns from the same ones.",
                model=model.key,
            )


@rule
def rows_fit_max_length(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """What is cut off is not learned."""
    for field, dataset, model, tokens in _judged(facts):
        taken = tokens.rows - len(tokens.refused)
        if taken and tokens.truncated >= MANY_TRUNCATED * taken:
            yield Finding(
                severity="warning",
                field=field,
                problem=f"{model.display_name} cuts {tokens.truncated:,} of {_looked_at(tokens)} of {dataset.path} to "
                f"{_limit(config, model):,} tokens; the longest has {tokens.longest:,}.",
                fix=_give_room(config, model, tokens.longest),
                model=model.key,
                changes=_room(config, model, tokens.longest),
                meant=True,
            )


@rule
def max_length_fits_the_context(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """A model reads no more than its context, whatever data.max_length says."""
    given = config.data.max_length
    usual = type(config.data).model_fields["max_length"].default
    for model in facts.models:
        context = model.context_length
        cut = any(tokens.truncated for _, _, each, tokens in _judged(facts) if each.key == model.key)
        # Nobody chose the default: it is worth a word only where it misleads about what is cut.
        if context is not None and given > context and (given != usual or cut):
            yield Finding(
                severity="warning",
                field="data.max_length",
                problem=f"data.max_length is {given:,}, the context of {model.display_name} {context:,}: its rows are "
                f"cut to {context:,} tokens.",
                fix=f"Set data.max_length to {context}, so that every model learns from the same text.",
                model=model.key,
                changes=(Change("data.max_length", context),),
            )


@rule
def answers_can_be_compared(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """Bits per byte compares models over the same bytes; where a model's rows have none, the loss has to do."""
    if config.training.method != "sft" or config.training.rank_by != "bits_per_byte":
        return
    for _, _, model, tokens in _judged(facts):
        taken = tokens.rows - len(tokens.refused)
        if taken and not tokens.comparable:
            yield Finding(
                severity="warning",
                field="training.rank_by",
                problem=f"{model.display_name}: none of {_looked_at(tokens)} has bits per byte, because each is cut or "
                "its answer is rewritten by the chat template. Models would be ranked by their validation loss.",
                fix=_give_room(config, model, tokens.longest)
                if tokens.truncated
                else "Set training.rank_by to 'val_loss', or select models that write the answers as they are.",
                model=model.key,
                changes=_room(config, model, tokens.longest)
                if tokens.truncated
                else (Change("training.rank_by", "val_loss"),),
                meant=True,
            )


@rule
def template_ends_the_answer(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """What a template writes after an answer, an end-of-turn token, is how a model learns to stop."""
    for model in facts.models:
        traits = facts.tokens[model.key].traits if model.key in facts.tokens else None
        if traits is not None and traits.renders and traits.answers != "hidden" and not traits.ends_with.strip():
            yield Finding(
                severity="warning",
                field="model.base_models",
                problem=f"The chat template of {model.display_name} writes nothing after an answer that is learned: "
                "the model can't learn to stop.",
                fix="Let the template write an end-of-turn token after each answer, inside its generation tags if it "
                "has some, or select another base model.",
                model=model.key,
            )


def _side_without(config: TrainingConfig, facts: Facts, dataset: Scan, tokens: ModelTokens) -> str:
    """Which side of a run would have no row to learn from, in words; "" where none is known to.

    Of a sample only that is known which holds for all of it.
    """
    gone = set(tokens.unlearnable) | {refused.line for refused in tokens.refused}
    if len(gone) == tokens.rows:
        return "to validate on" if dataset is facts.validation else "to train on"
    if facts.validation is not None or config.data.validation_dataset or not tokens.all_rows:
        return ""
    if len(np.unique(dataset.digests)) < 2:
        return ""
    sides = split(dataset.digests, config.data.validation_split, config.training.seed)
    for side, words in ((sides.training, "to train on"), (sides.validation, "to validate on")):
        if gone.issuperset(dataset.lines[side].tolist()):
            return words
    return ""


def _judged(facts: Facts) -> Iterator[tuple[str, Scan, ModelInfo, ModelTokens]]:
    """Each model with each file: the field to change, the file, the model and what it makes of it."""
    files = ((FIELD, facts.dataset, facts.tokens), (VALIDATION_FIELD, facts.validation, facts.validation_tokens))
    for field, dataset, by_model in files:
        for model in facts.models:
            if dataset is not None and (tokens := by_model.get(model.key)) is not None:
                yield field, dataset, model, tokens


def _looked_at(tokens: ModelTokens) -> str:
    rows = "1 row" if tokens.rows == 1 else f"{tokens.rows:,} rows"
    return rows if tokens.all_rows else f"{rows} (sampled)"


def _limit(config: TrainingConfig, model: ModelInfo) -> int:
    return min(config.data.max_length, model.context_length or config.data.max_length)


def _give_room(config: TrainingConfig, model: ModelInfo, longest: int) -> str:
    room = _room(config, model, longest)
    if not room:
        return f"Shorten the rows, or select a base model with a context of more than {model.context_length:,} tokens."
    return f"Set data.max_length to {room[0].value} or shorten the rows."


def _room(config: TrainingConfig, model: ModelInfo, longest: int) -> tuple[Change, ...]:
    """The change by which the longest row fits; none where the model's context is in its way."""
    most = model.context_length
    if most is not None and config.data.max_length >= most:
        return ()
    return (Change("data.max_length", min(longest, most or longest)),)


def _some(lines: Sequence[int]) -> str:
    return "1 row" if len(lines) == 1 else f"{len(lines):,} rows"


def _lines(lines: Sequence[int]) -> str:
    shown = ", ".join(map(str, lines[:LINES_SHOWN]))
    return f"line {shown}" if len(lines) == 1 else f"lines {shown}{', …' if len(lines) > LINES_SHOWN else ''}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
