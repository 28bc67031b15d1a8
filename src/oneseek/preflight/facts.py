"""What the rules judge a configuration by. Gathered once, before any rule; nothing here touches the disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from oneseek.config.parse import ConfigProblem
from oneseek.datasets.formats import Format
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


class RowTrouble(Protocol):
    """A row that cannot be used. Lines are counted from 1."""

    @property
    def line(self) -> int: ...
    @property
    def reason(self) -> str: ...


class Rows(Protocol):
    """What the rules ask of a dataset that was read: `datasets.read.Dataset`."""

    @property
    def path(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    @property
    def format(self) -> Format | None: ...
    @property
    def rows(self) -> Sequence[Mapping[str, Any]]: ...
    @property
    def lines(self) -> Sequence[int]: ...
    @property
    def digests(self) -> Sequence[bytes]: ...
    @property
    def problems(self) -> Sequence[RowTrouble]: ...


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a run would meet.

    `models` are the selected base models, each once; `available` the keys of all that were found. What is None was
    not asked for, or has no trouble. `free_*` are bytes; None where they are not known. `missing_packages` are those
    that only some settings need, and that are not installed.
    """

    config_problems: tuple[ConfigProblem, ...] = ()
    wanted: tuple[Wanted, ...] = ()
    models: tuple[ModelInfo, ...] = ()
    available: tuple[str, ...] = ()
    models_error: Trouble | None = None
    dataset: Rows | None = None
    dataset_error: Trouble | None = None
    output_error: Trouble | None = None
    versions: tuple[str, ...] = ()
    free_memory_bytes: int | None = None
    free_disk_bytes: int | None = None
    missing_packages: tuple[str, ...] = ()

    def was_refused(self, field: str) -> bool:
        """Whether a value was given for `field` or the section around it, and could not be taken."""
        return any(f"{field}.".startswith(f"{problem.field}.") for problem in self.config_problems)
