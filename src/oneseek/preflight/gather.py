"""Gather the facts that the rules judge by: base models, dataset, output directory, keys, memory, disk, packages."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import psutil

from oneseek.config.parse import ConfigProblem
from oneseek.config.schema import TrainingConfig
from oneseek.datasets.scan import Scan
from oneseek.datasets.store import find
from oneseek.errors import (
    ConfigError,
    DatasetError,
    KeyRefused,
    LedgerDamaged,
    ModelError,
    OneSeekError,
    SelectionError,
    StorageError,
)
from oneseek.files.durable import storage_errors
from oneseek.files.layout import Home, Results
from oneseek.files.secrets import read_signer_key
from oneseek.files.versions import versions_taken
from oneseek.ledger.client import Client, usable_token
from oneseek.ledger.keys import known_log_key
from oneseek.ledger.locate import read_ledger
from oneseek.ledger.store import Store
from oneseek.names import format_version, match_selection
from oneseek.preflight.facts import Facts, Trouble, Wanted
from oneseek.preflight.looking import ANEW, Looking
from oneseek.preflight.tokens import tokens_of
from oneseek.registry.capabilities import ModelInfo
from oneseek.registry.discover import Discovery, discover, with_highest_token_id
from oneseek.registry.hub import locate

OPTIONAL_PACKAGES = ("accelerate", "bitsandbytes")


def gather(
    config: TrainingConfig, problems: Iterable[ConfigProblem], home: Home, output: Path, looking: Looking = ANEW
) -> Facts:
    """The facts for one configuration. What cannot be used becomes a fact, so that all findings come at once.

    problems: what `config.parse` or `config.sources` found. output: the directory that results would go to.
    """
    found, models_error = _discover(home, looking)
    selected = [] if models_error else [_find(name, found, home.cache, looking) for name in config.model.selection]
    models = _complete((info for _, info in selected if info is not None), looking)
    dataset, dataset_error = _scan(config.data.dataset, home, config.training.seed, looking)
    validation, validation_error = _scan(config.data.validation_dataset, home, config.training.seed, looking)
    tokens, validation_tokens = (
        tokens_of(models, dataset, validation, config, looking) if dataset is not None else ({}, {})
    )
    output_error, versions, free_disk = _look_at(output, looking)
    ledger_url = os.environ.get("LEDGER_URL")
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
        key_error=_look_at_keys(home, os.environ.get("LEDGER_PRIVATE_KEY_PATH"), looking, own_ledger=not ledger_url),
        ledger_url_error=_look_at_address(ledger_url) if ledger_url else None,
        ledger_error=_look_at_token(os.environ.get("LEDGER_TOKEN")) if ledger_url else _look_at_ledger(home),
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


def _discover(home: Home, looking: Looking) -> tuple[Discovery, Trouble | None]:
    try:
        return discover(home.models, home.cache, looking.described), None
    except ModelError as error:
        return Discovery(models=(), collisions={}), _trouble(error)


def _find(name: str, found: Discovery, cache: Path | None, looking: Looking) -> tuple[Wanted, ModelInfo | None]:
    """The base model that a name of the selection means: one that is here, else one on the hub."""
    known = {info.key: info for info in found.models}  # of two with one key, each has a problem that names the other
    try:
        if cache is None:
            info = known[match_selection(name, known)]
        else:
            info = locate(name, found, cache, looking.described, looking.describe_remote)
    except (SelectionError, ModelError) as error:
        return Wanted(name, trouble=_trouble(error)), None
    return Wanted(name, key=info.key), info


def _complete(found: Iterable[ModelInfo], looking: Looking) -> tuple[ModelInfo, ...]:
    once = {info.key: info for info in found}
    return tuple(
        info if info.source == "hub" else with_highest_token_id(info, looking.highest_token_id)
        for info in once.values()
    )


def _scan(given: str | None, home: Home, seed: int, looking: Looking) -> tuple[Scan | None, Trouble | None]:
    if not given:
        return None, None
    try:
        return looking.scan(dataset_path(given, home), seed), None
    except DatasetError as error:
        return None, _trouble(error)


def _look_at(output: Path, looking: Looking) -> tuple[Trouble | None, tuple[str, ...], int | None]:
    """Why results cannot be written there, the versions that are there, and the free bytes of its disk."""
    try:
        with storage_errors(output):
            looking.written(_existing(output), _try_to_write)
            return (
                None,
                tuple(map(format_version, sorted(versions_taken(Results(output))))),
                shutil.disk_usage(_existing(output)).free,
            )
    except StorageError as error:
        return _trouble(error), (), None


def _look_at_keys(home: Home, named: str | None, looking: Looking, *, own_ledger: bool) -> Trouble | None:
    """Why results could not be signed, or entered in the ledger of this home: said before the run, not after it.

    named: LEDGER_PRIVATE_KEY_PATH, the signer's key in place of the home's own.
    """
    try:
        if named:
            read_signer_key(Path(named))
        elif _is_there(home.signer_key):
            read_signer_key(home.signer_key)
    except KeyRefused as error:
        return Trouble(f"LEDGER_PRIVATE_KEY_PATH: {error.problem}" if named else error.problem, error.fix)
    try:
        if own_ledger and _is_there(home.log_key):
            known_log_key(home)
        with storage_errors(home.keys):
            looking.written(_existing(home.keys), _try_to_write)
    except (KeyRefused, StorageError) as error:
        return _trouble(error)
    return None


def _look_at_ledger(home: Home) -> Trouble | None:
    """Why the ledger of this home would take no entry."""
    try:
        log = read_ledger(home, {})
        if isinstance(log, Store):
            with closing(log):
                log.check()
    except KeyRefused:
        return None  # that is said of the keys
    except (LedgerDamaged, StorageError) as error:
        return Trouble(error.problem, f"The run is completed all the same. {error.fix}")
    return None


def _look_at_address(url: str) -> Trouble | None:
    """Why no ledger can be reached at LEDGER_URL: the address, the certificates to trust, a proxy. Whether one answers
    there is not asked: a run is completed without."""
    try:
        Client(url, token=None, known_logs=None).close()
    except ConfigError as error:
        return _trouble(error)
    return None


def _look_at_token(token: str | None) -> Trouble | None:
    """Why a service would take no entry from here, as far as that can be told without asking it."""
    try:
        missing = usable_token(token) is None
    except ConfigError as error:
        return Trouble(error.problem, f"The run is completed all the same, but not entered. {error.fix}")
    if missing:
        return Trouble(
            "LEDGER_TOKEN is missing: the service that LEDGER_URL names takes no entry without.",
            "The run is completed all the same, but not entered. Set LEDGER_TOKEN to the token that the service was "
            "started with.",
        )
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
