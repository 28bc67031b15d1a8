"""Gather the facts that the rules judge by: base models, dataset, output directory, memory, disk, packages."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import psutil

from oneseek.config.parse import ConfigProblem
from oneseek.config.schema import TrainingConfig
from oneseek.datasets.read import Dataset, read_dataset
from oneseek.errors import DatasetError, ModelError, OneSeekError, SelectionError, StorageError
from oneseek.files.durable import storage_errors
from oneseek.files.layout import Home, Results
from oneseek.files.versions import versions_taken
from oneseek.names import format_version, match_selection
from oneseek.preflight.facts import Facts, Trouble, Wanted
from oneseek.registry.discover import Discovery, discover, with_highest_token_id

OPTIONAL_PACKAGES = ("accelerate", "bitsandbytes")


def gather(
    config: TrainingConfig, problems: Iterable[ConfigProblem], models_dir: Path, home: Path, output: Path
) -> Facts:
    """The facts for one configuration. What cannot be used becomes a fact, so that all findings come at once.

    problems: what `config.parse` or `config.sources` found. output: the directory that results would go to.
    """
    found, models_error = _discover(models_dir)
    by_key = {info.key: info for info in found.models}  # of two with one key, each has a problem that names the other
    wanted = () if models_error else tuple(_match(name, by_key) for name in config.model.selection)
    keys = dict.fromkeys(item.key for item in wanted if item.key is not None)
    dataset, dataset_error = _read(config, home)
    output_error, versions, free_disk = _look_at(output)
    return Facts(
        config_problems=tuple(problems),
        wanted=wanted,
        models=tuple(with_highest_token_id(by_key[key]) for key in keys),
        available=tuple(sorted(by_key)),
        models_error=models_error,
        dataset=dataset,
        dataset_error=dataset_error,
        output_error=output_error,
        versions=versions,
        free_memory_bytes=psutil.virtual_memory().available,
        free_disk_bytes=free_disk,
        missing_packages=tuple(name for name in OPTIONAL_PACKAGES if importlib.util.find_spec(name) is None),
    )


def dataset_path(given: str, home: Path) -> Path:
    """The file that `data.dataset` means: as given, else in the home's datasets/."""
    path, stored = Path(given), Home(home, home).datasets / given
    return stored if not _is_there(path) and _is_there(stored) else path


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except (OSError, ValueError):
        return False  # whatever the reason is, reading the file says it
    return True


def _discover(models_dir: Path) -> tuple[Discovery, Trouble | None]:
    try:
        return discover(models_dir), None
    except ModelError as error:
        return Discovery(models=(), collisions={}), _trouble(error)


def _match(name: str, keys: Iterable[str]) -> Wanted:
    try:
        return Wanted(name, key=match_selection(name, tuple(keys)))
    except SelectionError as error:
        return Wanted(name, trouble=_trouble(error))


def _read(config: TrainingConfig, home: Path) -> tuple[Dataset | None, Trouble | None]:
    if not config.data.dataset:
        return None, None
    try:
        return read_dataset(dataset_path(config.data.dataset, home)), None
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
