"""What the models are trained on."""

from __future__ import annotations

from collections.abc import Iterator

from oneseek.config.schema import TrainingConfig
from oneseek.datasets.formats import STRATEGY_OF
from oneseek.preflight.facts import Facts
from oneseek.preflight.finding import Finding, rule

FIELD = "data.dataset"
FEWEST_EXAMPLES = 10
LINES_SHOWN = 10

_FIELDS_OF_FORMAT = {"messages": "`messages`", "text": "`text`", "prompt_completion": "`prompt` and `completion`"}


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
        needed = "`messages`" if config.data.strategy == "chat" else "`text`, or `prompt` and `completion`"
        yield Finding(
            severity="error",
            field="data.strategy",
            problem=f"The dataset has {_FIELDS_OF_FORMAT[facts.dataset.format]}, but data.strategy is "
            f"'{config.data.strategy}'.",
            fix=f"Set data.strategy to '{fitting}', or give a dataset whose rows have {needed}.",
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
    if facts.dataset is None:
        return
    different = len(set(facts.dataset.digests))
    if different < 2:
        yield Finding(
            severity="error",
            field=FIELD,
            problem=f"The dataset has {len(facts.dataset.rows)} usable row(s), {different} of them different; training "
            "and validation need at least one each.",
            fix="Add rows that differ.",
        )
