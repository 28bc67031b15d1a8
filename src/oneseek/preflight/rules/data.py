"""What the models are trained on."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from typing import Any

from oneseek.chat.render import render_preference, render_row
from oneseek.chat.template import ChatTemplate
from oneseek.config.schema import TrainingConfig
from oneseek.datasets.formats import METHOD_OF, STRATEGY_OF, Format, Method, Strategy
from oneseek.datasets.split import split
from oneseek.errors import DatasetError, ModelError
from oneseek.preflight.facts import Facts, Rows
from oneseek.preflight.finding import Finding, rule
from oneseek.registry.capabilities import ModelInfo

FIELD = "data.dataset"
FEWEST_EXAMPLES = 10
LINES_SHOWN = 10
FIRST_RENDERED, LONGEST_RENDERED = 20, 5

_FIELDS_OF_FORMAT: Mapping[Format, str] = {
    "messages": "`messages`",
    "text": "`text`",
    "prompt_completion": "`prompt` and `completion`",
    "preference": "`prompt`, `chosen` and `rejected` as text",
    "preference_chat": "`prompt`, `chosen` and `rejected` as messages",
}


@rule
def dataset_given(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """Without a dataset there is nothing to learn."""
    if not config.data.dataset and not facts.was_refused(FIELD):
        yield Finding(
            severity="error",
            field=FIELD,
            problem="No dataset is given.",
            fix="Name a JSONL file with --dataset, or as data.dataset in the configuration file.",
        )


@rule
def dataset_readable(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """The dataset is a file of rows."""
    if facts.dataset_error is not None:
        yield Finding(severity="error", field=FIELD, problem=facts.dataset_error.problem, fix=facts.dataset_error.fix)


@rule
def dataset_rows_are_good(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """A row that cannot be used refuses the run: none is dropped silently."""
    if facts.dataset is None or not facts.dataset.problems:
        return
    bad = facts.dataset.problems
    lines = [f"line {trouble.line}: {trouble.reason}" for trouble in bad[:LINES_SHOWN]]
    if len(bad) > LINES_SHOWN:
        lines.append(f"and {len(bad) - LINES_SHOWN} more")
    count = "1 row" if len(bad) == 1 else f"{len(bad)} rows"
    yield Finding(
        severity="error",
        field=FIELD,
        problem="\n".join([f"{count} of {facts.dataset.path} cannot be used:", *lines]),
        fix="Correct or remove these lines.",
    )


@rule
def dataset_fits_strategy(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """`chat` needs messages, `standard` needs text."""
    if facts.dataset is None or facts.dataset.format is None or config.data.strategy is None:
        return
    fitting = STRATEGY_OF[facts.dataset.format]
    if config.data.strategy != fitting:
        needed = _fields_for(config.training.method, config.data.strategy)
        yield Finding(
            severity="error",
            field="data.strategy",
            problem=f"The dataset has {_FIELDS_OF_FORMAT[facts.dataset.format]}, but data.strategy is "
            f"'{config.data.strategy}'.",
            fix=f"Set data.strategy to '{fitting}', or give a dataset whose rows have {needed}.",
        )


@rule
def dataset_fits_method(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """`dpo` learns from a chosen and a rejected answer side by side, `sft` from one answer."""
    if facts.dataset is None or facts.dataset.format is None or facts.was_refused("training.method"):
        return
    fitting = METHOD_OF[facts.dataset.format]
    if config.training.method != fitting:
        needed = _fields_for(config.training.method, config.data.strategy)
        # Rows may have `messages` too, which only count where nothing beside them makes a preference.
        way = f"keep only {needed} in the rows" if fitting == "dpo" else f"give a dataset whose rows have {needed}"
        yield Finding(
            severity="error",
            field="training.method",
            problem=f"The dataset has {_FIELDS_OF_FORMAT[facts.dataset.format]}, but training.method is "
            f"'{config.training.method}'.",
            fix=f"Set training.method: {fitting}, or {way}.",
        )


@rule
def enough_examples(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """Fewer than ten examples teach a model to repeat them."""
    if facts.dataset is not None and 0 < len(facts.dataset.rows) < FEWEST_EXAMPLES:
        yield Finding(
            severity="warning",
            field=FIELD,
            problem=f"The dataset has {len(facts.dataset.rows)} usable row(s); fewer than {FEWEST_EXAMPLES} rarely "
            "help.",
            fix="Add examples.",
        )


@rule
def split_possible(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """Identical rows stay on one side, so training and validation need two different rows between them."""
    if facts.dataset is None or (facts.dataset.problems and not facts.dataset.rows):
        return  # where every row is refused, more rows are not what is missing
    different = len(set(facts.dataset.digests))
    if different < 2:
        yield Finding(
            severity="error",
            field=FIELD,
            problem=f"The dataset has {len(facts.dataset.rows)} usable row(s), {different} of them different; training "
            "and validation need at least one each.",
            fix="Add rows that differ.",
        )


@rule
def validation_has_its_share(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """Identical rows stay on one side: large groups of them can leave validation far from the share asked for."""
    if facts.dataset is None or len(set(facts.dataset.digests)) < 2:
        return
    share, rows = config.data.validation_split, len(facts.dataset.rows)
    aside = len(split(facts.dataset.digests, share, config.training.seed).validation)
    wanted = max(1.0, share * rows)
    if not wanted / 2 <= aside <= wanted * 2:
        yield Finding(
            severity="warning",
            field="data.validation_split",
            problem=f"{aside} of {rows} rows are set aside for validation, where data.validation_split "
            f"{share:g} asks for {wanted:.0f}: identical rows stay on one side.",
            fix="Remove duplicate rows.",
        )


@rule
def chat_template_takes_the_rows(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """A template may refuse roles or tool calls, or hide where its answers are. The first and the longest rows tell
    most of it before compute is spent; the rest is told by the worker, which renders all of them."""
    if facts.dataset is None or facts.dataset.format is None or STRATEGY_OF[facts.dataset.format] != "chat":
        return
    samples = _samples(facts.dataset)
    for model in facts.models:
        refused = _refused(model, facts.dataset, facts.dataset.format, samples)
        if refused is not None:
            problem, fix = refused
            yield Finding(severity="error", field=FIELD, model=model.key, problem=problem, fix=fix)


def _fields_for(method: Method, strategy: Strategy | None) -> str:
    """What rows may have for this method, and for this strategy where one is set."""
    fitting = (form for form in STRATEGY_OF if METHOD_OF[form] == method and strategy in (STRATEGY_OF[form], None))
    return ", or ".join(_FIELDS_OF_FORMAT[form] for form in fitting)


def _samples(dataset: Rows) -> list[int]:
    """Indices of the first rows and of the longest, ascending."""
    longest = heapq.nlargest(LONGEST_RENDERED, range(len(dataset.rows)), key=lambda row: _length(dataset.rows[row]))
    return sorted({*range(min(FIRST_RENDERED, len(dataset.rows))), *longest})


def _length(row: Mapping[str, Any]) -> int:
    return sum(len(message["content"]) for messages in row.values() for message in messages)


def _refused(model: ModelInfo, dataset: Rows, form: Format, samples: list[int]) -> tuple[str, str] | None:
    """Problem and fix of the first of these rows that a model's template does not take."""
    if model.chat_template is None:
        return None
    try:
        template = ChatTemplate(model.chat_template, model.special_tokens)
    except ModelError as error:
        return f"{model.display_name}: {error.problem}", error.fix
    render = render_preference if METHOD_OF[form] == "dpo" else render_row
    for row in samples:
        try:
            render(dataset.rows[row], form, template, template.eos_token)
        except (DatasetError, ModelError) as error:
            return f"{model.display_name}, line {dataset.lines[row]} of {dataset.path}: {error.problem}", error.fix
    return None
