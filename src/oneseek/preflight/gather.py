"""Gather the facts that the rules judge by: base models, dataset, output directory, memory, disk, packages."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path

import psutil

from oneseek.config.parse import ConfigProblem
from oneseek.config.schema import TrainingConfig
from oneseek.datasets.read import scan
from oneseek.datasets.scan import Scan
from oneseek.datasets.store import find
from oneseek.errors import DatasetError, ModelError, OneSeekError, SelectionError, StorageError
from oneseek.files.durable import storage_errors
from oneseek.files.layout import Home, Results
from oneseek.files.versions import versions_taken
from oneseek.names import format_version, match_selection
from oneseek.preflight.facts import Facts, Trouble, Wanted
from oneseek.preflight.tokens import tokens_of
from oneseek.registry.capabilities import ModelInfo
from oneseek.registry.discover import Discovery, discover, with_highest_token_id
from oneseek.registry.hub import locate

OPTIONAL_PACKAGES = ("accelerate", "bitsandbytes")

_KEY_BYTES = 1 << 16  # far more than any key has


def gather(config: TrainingConfig, problems: Iterable[ConfigProblem], home: Home, output: Path) -> Facts:
    """The facts for one configuration. What cannot be used becomes a fact, so that all findings come at once.

    problems: what `config.parse` or `config.sources` found. output: the directory that results would go to.
    """
    found, models_error = _discover(home)
    selected = [] if models_error else [_find(name, found, home.cache) for name in config.model.selection]
    models = _complete(info for _, info in selected if info is not None)
    dataset, dataset_error = _scan(config.data.dataset, home, config.training.seed)
    validation, validation_error = _scan(config.data.validation_dataset, home, config.training.seed)
    tokens, validation_tokens = tokens_of(models, dataset, validation, config) if dataset is not None else ({}, {})
    output_error, versions, free_disk = _look_at(output)
    return Facts(
        config_problems=tuple(problems),
        wanted=tuple(wanted for wanted, _ in selected),
        models=models,
        available=tuple(sorted({info.key for info in found.models})),
        models_error=models_error,
        dataset=dataset,
        dataset_error=dataset_error,
        validation=validation,
        validation_error=validation_error,
        tokens=tokens,
        validation_tokens=validation_tokens,
        output_error=output_error,
        key_error=_look_at_key(os.environ.get("LEDGER_PRIVATE_KEY_PATH")),
        versions=versions,
        free_memory_bytes=psutil.virtual_memory().available,
        free_disk_bytes=free_disk,
        missing_packages=tuple(name for name in OPTIONAL_PACKAGES if importlib.util.find_spec(name) is None),
    )


def dataset_path(given: str, home: Home) -> Path:
    """The file that `data.dataset` means: as given, else the dataset that is stored under this name or hash."""
    path = Path(given)
    return path if _is_there(path) else find(home, given) or path


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except (OSError, ValueError):
        return False  # whatever the reason is, reading the file says it
    return True


def _discover(home: Home) -> tuple[Discovery, Trouble | None]:
    try:
        return discover(home.models, home.cache), None
    except ModelError as error:
        return Discovery(models=(), collisions={}), _trouble(error)


def _find(name: str, found: Discovery, cache: Path | None) -> tuple[Wanted, ModelInfo | None]:
    """The base model that a name of the selection means: one that is here, else one on the hub."""
    known = {info.key: info for info in found.models}  # of two with one key, each has a problem that names the other
    try:
        info = known[match_selection(name, known)] if cache is None else locate(name, found, cache)
    except (SelectionError, ModelError) as error:
        return Wanted(name, trouble=_trouble(error)), None
    return Wanted(name, key=info.key), info


def _complete(found: Iterable[ModelInfo]) -> tuple[ModelInfo, ...]:
    once = {info.key: info for info in found}
    return tuple(info if info.source == "hub" else with_highest_token_id(info) for info in once.values())


def _scan(given: str | None, home: Home, seed: int) -> tuple[Scan | None, Trouble | None]:
    if not given:
        return None, None
    try:
        return scan(dataset_path(given, home), seed=seed), None
    except DatasetError as error:
        return None, _trouble(error)


def _look_at(output: Path) -> tuple[Trouble | None, tuple[str, ...], int | None]:
    """Why results cannot be written there, the versions that are there, and the free bytes of its disk."""
    try:
        with storage_errors(output):
            _try_to_write(_existing(output))
            return (
                None,
                tuple(map(format_version, sorted(versions_taken(Results(output))))),
                shutil.disk_usage(_existing(output)).free,
            )
    except StorageError as error:
        return _trouble(error), (), None


def _look_at_key(given: str | None) -> Trouble | None:
    """Why the key that results are to be signed with cannot be used: said before the run, not after it."""
    if not given:
        return None
    name, path = f"LEDGER_PRIVATE_KEY_PATH {given}", Path(given)
    try:
        open_to = stat.S_IMODE(path.stat().st_mode) & 0o077
        text = path.read_bytes()[:_KEY_BYTES]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        return Trouble(f"{name} cannot be read: {reason}.", "Correct the path, or unset the variable.")
    if b"PRIVATE KEY-----" not in text:
        return Trouble(f"{name} is no private key in PEM.", "Name a PEM file, or unset the variable.")
    if open_to:
        return Trouble(f"{name} can be read by others than its owner.", f"Run: chmod 600 {shlex.quote(given)}")
    return None


def _try_to_write(directory: Path) -> None:
    """Permissions do not tell: a disk can be full or read-only. The file has no name that could stay behind."""
    with tempfile.TemporaryFile(dir=directory) as file:
        file.write(b"oneseek")
        file.flush()
        os.fsync(file.fileno())


def _existing(path: Path) -> Path:
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())


def _trouble(error: OneSeekError) -> Trouble:
    return Trouble(error.problem, error.fix)
