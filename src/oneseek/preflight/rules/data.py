"""What the models are trained on, and validated on: the files themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from oneseek.config.schema import TrainingConfig
from oneseek.datasets.formats import METHOD_OF, STRATEGY_OF, USED_AS, Format, Method, Strategy
from oneseek.datasets.scan import Scan
from oneseek.datasets.split import split
from oneseek.preflight.facts import Facts, Trouble
from oneseek.preflight.finding import Change, Finding, Severity, rule

FIELD, VALIDATION_FIELD = "data.dataset", "data.validation_dataset"
FEWEST_EXAMPLES = 10

_FIELDS_OF_FORMAT: Mapping[Format, str] = {
    "messages": "`messages`",
    "sharegpt": "`conversations`",
    "text": "`text`",
    "prompt_completion": "`prompt` and `completion`",
    "alpaca": "`instruction` and `output`",
    "preference": "`prompt`, `chosen` and `rejected` as text",
    "preference_chat": "`prompt`, `chosen` and `rejected` as messages",
    "preference_sharegpt": "`conversations`, `chosen` and `rejected`",
}


@rule
def dataset_given(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """Without a dataset there is nothing to learn."""
    if not config.data.dataset and not facts.was_refused(FIELD):
        yield Finding(
            severity="error",
            field=FIELD,
            problem="No dataset is given.",
            fix="Name a JSONL, JSON, CSV or Parquet file with --dataset, or as data.dataset in the configuration file.",
        )


@rule
def dataset_readable(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """The datasets are files of rows."""
    for field, trouble in ((FIELD, facts.dataset_error), (VALIDATION_FIELD, facts.validation_error)):
        if trouble is not None:
            yield _refused(field, trouble)


@rule
def dataset_rows_are_good(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """A row that cannot be used refuses the run, unless it is to be quarantined: none is dropped silently."""
    severity: Severity = "error" if config.data.bad_rows == "refuse" else "warning"
    for field, dataset in _datasets(facts):
        if not dataset.bad_rows:
            continue
        count = f"{dataset.bad_rows:,} of {dataset.bad_rows + dataset.rows:,} rows"
        those = "it" if dataset.bad_rows == 1 else "them"
        fix = f"Correct or remove {those}, or set data.bad_rows to 'quarantine' to train without {those}."
        if severity == "warning":
            fix = f"The run keeps {those} in its quarantine.jsonl and trains without {those}."
        changes = (Change("data.bad_rows", "quarantine"),) if severity == "error" else ()
        yield Finding(
            severity=severity,
            field=field,
            problem="\n".join([f"{count} of {dataset.path} cannot be used:", *_listed(dataset)]),
            fix=fix,
            changes=changes,
            meant=True,
        )


@rule
def dataset_rows_differ(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """A row that is there twice counts twice; it is rarely meant."""
    for field, dataset in _datasets(facts):
        found = dataset.duplicates
        if found.count:
            pairs = ", ".join(f"line {line} is line {first} again" for line, first in found.examples)
            yield Finding(
                severity="warning",
                field=field,
                problem=f"{found.count:,} of {dataset.rows:,} rows of {dataset.path} are there before: {pairs}"
                f"{', …' if found.count > len(found.examples) else ''}.",
                fix="Remove them, unless they are to count twice.",
            )


@rule
def dataset_fits_strategy(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """`chat` needs messages, `standard` needs text."""
    if facts.dataset is None or config.data.strategy is None:
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
            changes=(Change("data.strategy", fitting),),
        )


@rule
def dataset_fits_method(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """`dpo` learns from a chosen and a rejected answer side by side, `sft` from one answer."""
    if facts.dataset is None or facts.was_refused("training.method"):
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
            fix=f"Set training.method to '{fitting}', or {way}.",
            changes=(Change("training.method", fitting),),
        )


@rule
def enough_examples(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """Fewer than ten examples teach a model to repeat them."""
    if facts.dataset is not None and 0 < facts.dataset.rows < FEWEST_EXAMPLES:
        yield Finding(
            severity="warning",
            field=FIELD,
            problem=f"The dataset has {facts.dataset.rows} usable row(s); fewer than {FEWEST_EXAMPLES} rarely help.",
            fix="Add examples.",
        )


@rule
def some_row_is_left(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """Quarantine leaves rows out; it can't leave out all of them."""
    if config.data.bad_rows == "quarantine" and facts.dataset is not None and not facts.dataset.rows:
        yield Finding(
            severity="error",
            field=FIELD,
            problem=f"None of the {facts.dataset.bad_rows:,} rows of {facts.dataset.path} can be used.",
            fix="Correct the rows, or name another file.",
        )


@rule
def split_possible(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """Identical rows stay on one side, so training and validation need two different rows between them."""
    dataset = facts.dataset
    if dataset is None or config.data.validation_dataset or not dataset.rows:
        return
    different = len(np.unique(dataset.digests))
    if different < 2:
        yield Finding(
            severity="error",
            field=FIELD,
            problem=f"The dataset has {dataset.rows} usable row(s), {different} of them different; training and "
            "validation need at least one each.",
            fix="Add rows that differ, or name data.validation_dataset.",
        )


@rule
def validation_has_its_share(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """Identical rows stay on one side: large groups of them can leave validation far from the share asked for."""
    dataset = facts.dataset
    if dataset is None or config.data.validation_dataset or len(np.unique(dataset.digests)) < 2:
        return
    share, rows = config.data.validation_split, dataset.rows
    aside = len(split(dataset.digests, share, config.training.seed).validation)
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
def validation_dataset_fits(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """Validation rows are of the same kind as those that are trained on, and none of them."""
    dataset, validation = facts.dataset, facts.validation
    if dataset is None or validation is None:
        return
    if USED_AS[validation.format] != USED_AS[dataset.format]:
        yield Finding(
            severity="error",
            field=VALIDATION_FIELD,
            problem=f"The validation dataset has {_FIELDS_OF_FORMAT[validation.format]}, the dataset has "
            f"{_FIELDS_OF_FORMAT[dataset.format]}.",
            fix="Give both the same format; `oneseek data convert` converts where nothing is lost.",
        )
        return
    shared = int(np.isin(validation.digests, dataset.digests).sum())
    if not validation.rows or shared == validation.rows:
        none = "has no usable row" if not validation.rows else "holds nothing but rows of the dataset"
        yield Finding(
            severity="error",
            field=VALIDATION_FIELD,
            problem=f"The validation dataset {none}.",
            fix="Give rows that are not trained on, or remove data.validation_dataset.",
            changes=(Change(VALIDATION_FIELD, None),),
            meant=True,
        )
    elif shared:
        yield Finding(
            severity="warning",
            field=VALIDATION_FIELD,
            problem=f"{shared:,} of {validation.rows:,} validation rows are in the dataset, too: what was learned by "
            "heart looks like skill.",
            fix="Remove them from one of the two.",
        )


def _datasets(facts: Facts) -> Iterator[tuple[str, Scan]]:
    for field, dataset in ((FIELD, facts.dataset), (VALIDATION_FIELD, facts.validation)):
        if dataset is not None:
            yield field, dataset


def _listed(dataset: Scan) -> Iterator[str]:
    """A line for each example of every kind, and how many more there are of it."""
    for group in dataset.problems:
        for row in group.examples:
            yield f"  line {row.line}: {row.reason}"
        if more := group.count - len(group.examples):
            yield f"  and {more:,} more: {group.kind}"


def _refused(field: str, trouble: Trouble) -> Finding:
    return Finding(severity="error", field=field, problem=trouble.problem, fix=trouble.fix)


def _fields_for(method: Method, strategy: Strategy | None) -> str:
    """What rows may have for this method, and for this strategy where one is set."""
    fitting = (
        form
        for form, used in USED_AS.items()
        if form == used and METHOD_OF[form] == method and strategy in (STRATEGY_OF[form], None)
    )
    return ", or ".join(_FIELDS_OF_FORMAT[form] for form in fitting)
