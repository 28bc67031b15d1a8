"""Training a complete run again, from what its own journal says, to see whether the same weights come out."""

from __future__ import annotations

import itertools
import math
import os
import secrets
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from oneseek import __version__
from oneseek.certificate.dna import Dna, recipe, recipe_sha256
from oneseek.certificate.keys import Pins
from oneseek.certificate.seal import is_certified, sealed
from oneseek.certificate.tensors import Tensor, tensors_digest
from oneseek.certificate.verify import verify
from oneseek.config.schema import TrainingConfig
from oneseek.datasets.quarantine import quarantine
from oneseek.datasets.read import scan
from oneseek.errors import ConfigError, ModelError, RunError, StorageError, TrainingFailed
from oneseek.events import DatasetUsed, ModelVerified, RunAccepted, RunPlanned, SelectedModel
from oneseek.events.state import RunState, begin, replay
from oneseek.files.durable import remove_directory, storage_errors, sync_directory
from oneseek.files.layout import Home, Results, RunDirectory
from oneseek.journal.file import read
from oneseek.journal.record import Record
from oneseek.names import run_id
from oneseek.preflight.facts import Facts
from oneseek.registry.cache import Repository
from oneseek.registry.discover import discover
from oneseek.runs.devices import DeviceLock, Waiting, devices, unheard
from oneseek.runs.find import engine_of, status
from oneseek.runs.plan import differences
from oneseek.runs.publish import read_tensors
from oneseek.runs.recorder import Recorder, Watch, is_published, is_running, nobody
from oneseek.runs.resume import how_to_go_on
from oneseek.runs.submit import dataset_used
from oneseek.runs.train import train
from oneseek.runs.unchanged import changes

_SCRATCH = ".reproducing-"  # hidden: no base model and no run is looked for there


class AdapterReproduced(msgspec.Struct, frozen=True, kw_only=True):
    """One model's adapter beside the one that the run verified.

    `same` is bit for bit. `max_difference` is the largest absolute difference of two weights, `relative_difference` the
    L2 norm of all differences over that of all weights then; None where there is nothing to compare, and `problem` says
    why. `old_epoch` and `new_epoch` are those whose adapters were kept.
    """

    same: bool
    old_epoch: int
    new_epoch: int | None = None
    max_difference: float | None = None
    relative_difference: float | None = None
    problem: str | None = None


class Reproduction(msgspec.Struct, frozen=True, kw_only=True):
    """What came out. `models` are those that the run verified, and `new.weights` is over those of them that came out.

    `recipe` and `fingerprint` are what is otherwise, in words: of the recipe, and of what was computed how and on which
    machine. `old_quarantined` and `new_quarantined` are the models that failed, with the cause. `kept` is the new run's
    directory, where it was to be kept.
    """

    run_id: str
    version: str
    old: Dna
    new: Dna
    models: dict[str, AdapterReproduced]
    old_quarantined: dict[str, str]
    new_quarantined: dict[str, str]
    recipe: tuple[str, ...]
    fingerprint: tuple[str, ...]
    kept: str | None

    @property
    def verdict(self) -> Literal["same DNA", "same data and recipe", "differs"]:
        if self.old == self.new:
            return "same DNA"
        same_recipe = (self.old.dataset, self.old.recipe) == (self.new.dataset, self.new.recipe)
        return "same data and recipe" if same_recipe else "differs"

    def wire(self) -> dict[str, Any]:
        """The reproduction as `--json` writes it."""
        return {
            "verdict": self.verdict,
            "run_id": self.run_id,
            "dna": {"old": self.old.name(self.version), "new": self.new.name(self.version)},
            "hashes": {"old": msgspec.to_builtins(self.old), "new": msgspec.to_builtins(self.new)},
            "models": msgspec.to_builtins(self.models),
            "quarantined": {"old": self.old_quarantined, "new": self.new_quarantined},
            "recipe": list(self.recipe),
            "fingerprint": list(self.fingerprint),
            "kept": self.kept,
        }


def reproduce(
    directory: RunDirectory,
    home: Home,
    *,
    dataset: Path | None = None,
    validation_dataset: Path | None = None,
    keep: Path | None = None,
    watch: Watch = nobody,
    warn: Callable[[Sequence[str]], None] = lambda differences: None,
    waiting: Waiting = unheard,
) -> Reproduction:
    """Train a complete run again and compare, when no other run has the device. Nothing of it stays in the home but
    the device's lock, however it ends.

    Its configuration and its plan's share of the machine are taken from its journal; a base model is the one of its
    key in the home, else the one that it was trained on.

    dataset, validation_dataset: where those files are now, if not where they were.
    keep: a directory that the new run's own is left in; it is made.
    watch: shown the journal of the new run. warn: told, before the first step, what is not computed as it was then.
    waiting: told the name of the device, once, where another run has it.

    Raises:
        RunError: the run is not complete, trained outside, or not what was sealed; or what it was trained on is not
            what it was then.
        ConfigError: a validation dataset is named, and the run had none.
        ModelError: a base model can't be read.
        JournalDamaged: the run's journal is not what was written.
        StorageError: an adapter of it is not what was verified, or something could not be written.
        TrainingFailed: a model that it verified can't be prepared here, or none could be trained.
        KeyboardInterrupt: it was broken off.
    """
    state, planned = _complete(directory)
    for key, verified in state.verified.items():
        _adapter(directory, key, verified)
    accepted = _accepted_now(state, home, dataset, validation_dataset)
    told: list[str] = []

    def look(record: Record, now: RunState) -> None:
        watch(record, now)
        if isinstance(record.event, RunPlanned):
            _require_prepared(state, now)
            told.extend(differences(planned, {plan.key: plan for plan in record.event.models}))
            if told:
                warn(told)

    if keep is not None:
        with storage_errors(keep):
            keep.mkdir(parents=True, exist_ok=True)
    with _scratch(keep or home.models) as results:
        new = results.run(_free_id(state, keep))
        with storage_errors(new.root):
            new.root.mkdir(parents=True)
        _quarantine(accepted.dataset, new)
        again = msgspec.structs.replace(accepted, run_id=new.run_id)
        with Recorder.begin(new, again, look) as run, DeviceLock(home, devices(os.environ)[0]) as device:
            device.wait(waiting)
            train(run, like=planned)
        return _compared(directory, state, new, run.state, told, None if keep is None else _kept(new, keep))


def _complete(directory: RunDirectory) -> tuple[RunState, RunPlanned]:
    state = replay(record.event for record in read(directory.journal).records)
    if state:
        engine_of(state, "reproduced")
    if state is None or state.planned is None or not state.over or not is_published(directory):
        raise RunError(
            f"{directory.run_id} is {status(directory, state)}: it has no weights yet that could be reproduced.",
            "Reproduce it when it has ended." if is_running(directory) else how_to_go_on(directory),
        )
    if sealed(directory) is None and any(map(os.path.lexists, (directory.manifest, directory.signature))):
        raise RunError(f"{directory.run_id} is not what was sealed.", f"See what is wrong: {_verify(directory)}")
    if is_certified(directory):
        for check in verify(directory.root, pins=Pins(frozenset(), frozenset())).checks:
            if check.result == "failed" and check.name != "keys":
                raise RunError(
                    f"{directory.run_id} is not what was certified: {check.detail}",
                    f"See what else is wrong: {_verify(directory)}",
                )
    return state, state.planned


def _verify(directory: RunDirectory) -> str:
    return f"oneseek verify {shlex.quote(str(directory.root))}"


# -- what it was accepted with, where it is now --------------------------------------------------------------------


def _accepted_now(state: RunState, home: Home, dataset: Path | None, validation: Path | None) -> RunAccepted:
    """The request again, with this machine's paths. Which rows are used is found anew: it is part of the recipe."""
    then = state.accepted
    if validation is not None and then.dataset.validation_path is None:
        raise ConfigError(
            f"{state.run_id} had no validation dataset: its validation rows were set aside from its dataset.",
            "Leave --validation-dataset away.",
        )
    here = {info.key: info.path for info in discover(home.models).models}
    accepted = msgspec.structs.replace(
        then,
        oneseek_version=__version__,
        models=tuple(
            msgspec.structs.replace(model, path=_place(model, here.get(model.key), home.cache)) for model in then.models
        ),
        available=tuple(sorted(here)),
        dataset=msgspec.structs.replace(
            then.dataset,
            path=str((dataset or Path(then.dataset.path)).resolve()),
            validation_path=str(validation.resolve()) if validation else then.dataset.validation_path,
        ),
        warnings=(),
    )
    if changed := changes(begin(accepted)):
        raise RunError(
            f"{state.run_id} can't be reproduced: {'; '.join(changed)}.",
            "Name what it was trained on with --dataset FILE, --validation-dataset FILE and --models-dir DIR.",
        )
    return msgspec.structs.replace(accepted, dataset=_rows_now(accepted.dataset, state))


def _place(model: SelectedModel, here: str | None, cache: Path | None) -> str:
    """Where a base model is now: a model of the hub is first looked for under its commit in the cache, and is
    downloaded there if it is nowhere."""
    places = [Path(here)] if here else []
    if model.hub_id and model.revision and cache:
        places.insert(0, Repository(cache, model.hub_id).snapshot(model.revision))
    places.append(Path(model.path))
    return str(next((place for place in places if place.is_dir()), places[0]).resolve())


def _rows_now(dataset: DatasetUsed, state: RunState) -> DatasetUsed:
    config = TrainingConfig.model_validate(state.config)
    validation = None if dataset.validation_path is None else scan(Path(dataset.validation_path))
    return dataset_used(Facts(dataset=scan(Path(dataset.path)), validation=validation), config)


def _quarantine(dataset: DatasetUsed, directory: RunDirectory) -> None:
    if dataset.quarantined_rows:
        quarantine(Path(dataset.path), directory.quarantine)
        if dataset.validation_path is not None:
            quarantine(Path(dataset.validation_path), directory.validation_quarantine)


def _require_prepared(then: RunState, now: RunState) -> None:
    for key, failed in now.failing.items():
        if key in then.verified:
            raise TrainingFailed(f"{key} can't be prepared here: {failed.problem}", failed.fix)


# -- where it is trained -------------------------------------------------------------------------------------------


@contextmanager
def _scratch(beside: Path) -> Iterator[Results]:
    """An output directory in `beside`, or the nearest directory above it, for as long as the context lasts.

    Its lock lies beside it and is there first and last, so what a process left that was killed is known by a lock that
    nobody holds, and is removed.
    """
    place = next(path for path in (beside.absolute(), *beside.absolute().parents) if path.is_dir())
    scratch = place / f"{_SCRATCH}{secrets.token_hex(4)}"
    with storage_errors(place):
        for left in place.glob(f"{_SCRATCH}*.lock"):
            _remove_abandoned(left)
        lock = FileLock(f"{scratch}.lock")
        lock.acquire()
    try:
        with storage_errors(scratch):
            scratch.mkdir()
        yield Results(scratch)
    finally:
        _remove(scratch, lock)


def _remove_abandoned(left: Path) -> None:
    lock = FileLock(left)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return  # somebody is at work there
    _remove(left.with_suffix(""), lock)


def _remove(scratch: Path, lock: FileLock) -> None:
    with storage_errors(scratch):
        remove_directory(scratch)
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def _free_id(state: RunState, keep: Path | None) -> str:
    """An id of now that is not the old run's, and that no directory has where the new one is to be kept."""
    names = (run_id(datetime.now(UTC), attempt) for attempt in itertools.count(1))
    return next(name for name in names if name != state.run_id and not (keep and (keep / name).exists()))


def _kept(directory: RunDirectory, keep: Path) -> RunDirectory:
    """Take the new run's directory out of the scratch directory."""
    kept = RunDirectory(keep / directory.run_id)
    with storage_errors(kept.root):
        directory.root.rename(kept.root)
        sync_directory(keep)
    return kept


# -- the comparison ------------------------------------------------------------------------------------------------


def _compared(
    old: RunDirectory, then: RunState, new: RunDirectory, now: RunState, told: Sequence[str], kept: RunDirectory | None
) -> Reproduction:
    new = kept or new
    old_adapters = {key: _adapter(old, key, verified) for key, verified in then.verified.items()}
    new_adapters = {key: _adapter(new, key, now.verified[key]) for key in then.verified if key in now.verified}
    return Reproduction(
        run_id=then.run_id,
        version=then.accepted.version,
        old=_dna(then, old_adapters),
        new=_dna(now, new_adapters),
        models={key: _reproduced(key, old_adapters[key], new_adapters.get(key), then, now) for key in then.verified},
        old_quarantined=then.quarantined,
        new_quarantined=now.quarantined,
        recipe=tuple(_recipe_differences(recipe(then), recipe(now))),
        fingerprint=tuple(told),
        kept=None if kept is None else str(kept.root),
    )


def _adapter(directory: RunDirectory, key: str, verified: ModelVerified) -> list[Tensor]:
    """The tensors of a verified model.

    Raises:
        StorageError: they are not those that were verified.
    """
    file, fix = directory.adapter(key) / "adapter_model.safetensors", "Restore the run's directory from a backup."
    try:
        tensors = list(read_tensors(directory.adapter(key)))
    except OSError as error:
        raise StorageError(f"{file} can't be read: {error.strerror}.", fix) from error
    except ModelError as error:
        raise StorageError(f"{file} {error.problem}.", fix) from error
    if tensors_digest(tensors) != verified.tensors_sha256:
        raise StorageError(f"{file} is not the adapter that was verified.", fix)
    return tensors


def _dna(state: RunState, adapters: Mapping[str, Sequence[Tensor]]) -> Dna:
    tensors = ((f"{key}/{name}", *rest) for key, adapter in adapters.items() for name, *rest in adapter)
    return Dna(
        dataset=state.accepted.dataset.sha256,
        recipe=recipe_sha256(recipe(state)),
        weights=tensors_digest(tensors),  # type: ignore[arg-type]  # a star loses the types of what it takes along
    )


def _reproduced(
    key: str, old: Sequence[Tensor], new: Sequence[Tensor] | None, then: RunState, now: RunState
) -> AdapterReproduced:
    old_epoch = then.verified[key].epoch
    if new is None:
        return AdapterReproduced(same=False, old_epoch=old_epoch, problem=now.quarantined[key])
    same = then.verified[key].tensors_sha256 == now.verified[key].tensors_sha256
    apart = distances(old, new)
    return AdapterReproduced(
        same=same,
        old_epoch=old_epoch,
        new_epoch=now.verified[key].epoch,
        max_difference=apart[0] if apart else None,
        relative_difference=apart[1] if apart else None,
        problem=None if apart else "The adapter has tensors of other names or shapes.",
    )


def distances(old: Sequence[Tensor], new: Sequence[Tensor]) -> tuple[float, float] | None:
    """The largest absolute difference between two adapters, and the L2 norm of all differences over that of `old`, both
    in float64 over all tensors together. None where their tensors have other names or shapes."""
    pairs = list(zip(sorted(old), sorted(new), strict=False))
    if len(old) != len(new) or any((a[0], tuple(a[2])) != (b[0], tuple(b[2])) for a, b in pairs):
        return None
    largest, apart, whole = 0.0, 0.0, 0.0
    for one, other in pairs:
        values = _values(one)
        difference = _values(other) - values
        largest = max(largest, float(np.abs(difference).max(initial=0.0)))
        apart += float(difference @ difference)
        whole += float(values @ values)
    return largest, math.sqrt(apart / whole) if apart else 0.0


def _values(tensor: Tensor) -> NDArray[np.float64]:
    """A tensor's elements, flat. BF16 is the upper half of a float32, and numpy has no such type."""
    _, dtype, _, data = tensor
    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4").astype(np.float64)
    return np.frombuffer(data, {"F16": "<f2", "F32": "<f4", "F64": "<f8"}[dtype]).astype(np.float64)


def _recipe_differences(old: Any, new: Any, part: str = "") -> Iterator[str]:
    """Where two recipes are not the same, in words."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted(old.keys() | new.keys()):
            yield from _recipe_differences(old.get(name), new.get(name), f"{part}.{name}" if part else name)
    elif old != new:
        yield f"{part} was {old}, is {new}"
