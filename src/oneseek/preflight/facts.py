"""What the rules judge a configuration by. Gathered once, before any rule; nothing here touches the disk."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from oneseek.chat.probe import TemplateTraits
from oneseek.config.parse import ConfigProblem
from oneseek.datasets.scan import Scan
from oneseek.registry.capabilities import ModelInfo


class Trouble(msgspec.Struct, frozen=True):
    """Why something cannot be used, and the fix to type."""

    problem: str
    fix: str


class Wanted(msgspec.Struct, frozen=True):
    """One name of the selection: the key that it means, or why it means none."""

    name: str
    key: str | None = None
    trouble: Trouble | None = None


class RowRefusal(msgspec.Struct, frozen=True):
    """A row of the dataset, by its line, that a model cannot take."""

    line: int
    problem: str
    fix: str


class ModelTokens(msgspec.Struct, frozen=True, kw_only=True):
    """What one model makes of the sampled rows and of the prompts.

    `rows` were looked at, which are `all_rows` of the file or a sample. `refused` are those that it cannot take;
    `unlearnable` the lines of those of which nothing is left to learn, `truncated` the number of those that are cut;
    `comparable` those that bits per byte can be told of. `longest` is the tokens of the longest row before
    it is cut, `mean` those of a row after.
    Of the sample prompts, by number from 1: the tokens of each, or why it cannot be asked.
    `trouble` is why no row could be looked at.
    """

    traits: TemplateTraits | None = None
    trouble: Trouble | None = None
    rows: int = 0
    all_rows: bool = False
    refused: tuple[RowRefusal, ...] = ()
    unlearnable: tuple[int, ...] = ()
    truncated: int = 0
    comparable: int = 0
    longest: int = 0
    mean: float = 0.0
    prompts: Mapping[int, int] = {}
    refused_prompts: Mapping[int, str] = {}


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a run would meet.

    `models` are the selected base models, each once; `available` the keys of all that were found. What is None was
    not asked for, or has no trouble. `tokens` (of the dataset) and `validation_tokens` (of
    the validation dataset) are by model key, for those whose files are here. `free_*` are bytes; None
    where they are not known. `missing_packages` are those that only some settings need, and that are not installed.
    """

    config_problems: tuple[ConfigProblem, ...] = ()
    wanted: tuple[Wanted, ...] = ()
    models: tuple[ModelInfo, ...] = ()
    available: tuple[str, ...] = ()
    models_error: Trouble | None = None
    dataset: Scan | None = None
    dataset_error: Trouble | None = None
    validation: Scan | None = None
    validation_error: Trouble | None = None
    tokens: Mapping[str, ModelTokens] = {}
    validation_tokens: Mapping[str, ModelTokens] = {}
    output_error: Trouble | None = None
    key_error: Trouble | None = None
    ledger_url_error: Trouble | None = None
    ledger_error: Trouble | None = None
    versions: tuple[str, ...] = ()
    free_memory_bytes: int | None = None
    free_disk_bytes: int | None = None
    missing_packages: tuple[str, ...] = ()

    def was_refused(self, field: str) -> bool:
        """Whether a value was given for `field` or the section around it, and could not be taken."""
        return any(f"{field}.".startswith(f"{problem.field}.") for problem in self.config_problems)

    def longest_row(self, key: str) -> int | None:
        """Tokens of the longest row for a model, before it is cut; where nobody counted them, its bytes, which are no
        fewer. None where there is no row."""
        counted = [tokens[key] for tokens in (self.tokens, self.validation_tokens) if key in tokens]
        if counted and all(tokens.rows > len(tokens.refused) for tokens in counted):
            return max(tokens.longest for tokens in counted)
        known = (dataset.longest_row for dataset in (self.dataset, self.validation) if dataset is not None)
        return max((longest for longest in known if longest is not None), default=None)
