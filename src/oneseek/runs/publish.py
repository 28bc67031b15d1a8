"""After the journal's last record: every file that the run leaves behind.

Each step does nothing where its result is there already, and `work/` goes last; so publishing that was broken off is
simply done again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from oneseek.certificate import documents
from oneseek.certificate.card import card
from oneseek.certificate.contents import CARD
from oneseek.certificate.dna import Dna, recipe, recipe_sha256
from oneseek.certificate.provenance import provenance
from oneseek.certificate.tensors import Tensor, tensors_digest
from oneseek.errors import StorageError
from oneseek.events import RunFinished
from oneseek.events.state import RunState
from oneseek.files.durable import (
    LinksUnsupportedError,
    copy_file,
    copy_tree,
    point,
    set_aside,
    sha256_file,
    storage_errors,
    write_bytes,
    write_json,
)
from oneseek.files.layout import Results, RunDirectory
from oneseek.journal.file import read
from oneseek.names import format_version, version_of_file, versioned
from oneseek.registry.safetensors import parse_safetensors_header
from oneseek.runs.recorder import marks
from oneseek.runs.turn import turn

_COPY_OF = "oneseek-copy-of"  # marks a copy that stands for a link, and may be replaced


def publish(directory: RunDirectory, state: RunState) -> None:
    """Write the files of a finished run. Nothing of another run is overwritten: the version is this run's own.

    Raises:
        StorageError: a file could not be written, or an adapter is not what was verified.
    """
    if state.result is None:
        raise ValueError("A run is published when it is finished.")
    tensors = _publish_adapters(directory, state)
    _publish_documents(directory, state, state.result, tensors_digest(tensors))
    with turn(directory.results):
        directory.results.reservation(state.accepted.version).unlink(missing_ok=True)
        for key in state.verified:
            _point_to_newest(directory.results, key)
        _point_current(directory.results)
    with storage_errors(directory.work):
        for path in directory.work.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path not in marks(directory):  # they are ours, and go when we let go
                path.unlink()


def _publish_adapters(directory: RunDirectory, state: RunState) -> list[Tensor]:
    """Adapters and weights to where they stay; the tensors of all of them, as they now lie there."""
    results, version = directory.results, state.accepted.version
    for key in state.verified:
        copy_tree(directory.export(key) / "adapter", directory.adapter(key))
    tensors = list(_verified_tensors(state, directory.adapter))
    for key in state.verified:
        copy_tree(directory.adapter(key), results.versioned_adapter(version, key))
        copy_file(directory.export(key) / "weights.pth", results.weights_file(version, key))
    list(_verified_tensors(state, lambda key: results.versioned_adapter(version, key)))
    return tensors


def _publish_documents(directory: RunDirectory, state: RunState, result: RunFinished, weights: str) -> None:
    """What the journal says, in the forms in which people and programs look for it. `weights` is the DNA's part."""
    results, version = directory.results, state.accepted.version
    records = read(directory.journal).records
    started, finished = records[0].at, records[-1].at
    document = recipe(state)
    dna = Dna(dataset=state.accepted.dataset.sha256, recipe=recipe_sha256(document), weights=weights)
    for key in state.verified:
        for adapter in (directory.adapter(key), results.versioned_adapter(version, key)):
            write_bytes(adapter / CARD, card(state, key, dna).encode())
    write_json(directory.recipe, document)
    write_json(directory.dna, documents.oneseek_dna(state, result, dna))
    write_json(directory.training_results, documents.training_results(state, result, dna))
    write_json(directory.live_metrics, documents.live_metrics(state, finished))
    write_json(directory.provenance, provenance(state, _subjects(directory, state), started, finished))
    write_json(results.metadata(version), documents.version_metadata(state, result, dna, started))


def _subjects(directory: RunDirectory, state: RunState) -> dict[str, str]:
    """SHA-256 of every file of the adapters, by its path in the run directory."""
    files = [path for key in state.verified for path in directory.adapter(key).iterdir()]
    return {path.relative_to(directory.root).as_posix(): sha256_file(path) for path in files}


def read_tensors(adapter: Path) -> Iterator[Tensor]:
    """Name, dtype, shape and bytes of every tensor in an adapter's directory."""
    data = (adapter / "adapter_model.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    for name, tensor in parse_safetensors_header(data, len(data)).items():
        yield name, tensor.dtype, tensor.shape, data[start + tensor.start : start + tensor.end]


def _verified_tensors(state: RunState, adapter: Callable[[str], Path]) -> Iterator[Tensor]:
    """The tensors of every verified model, each by the name `<key>/<tensor>`; read from where `adapter` says.

    Raises:
        StorageError: an adapter there is not the one that was verified.
    """
    for key, verified in state.verified.items():
        tensors = list(read_tensors(adapter(key)))
        if tensors_digest(tensors) != verified.tensors_sha256:
            raise StorageError(
                f"{adapter(key)} does not hold the adapter that was verified.",
                "Check the disk, remove that directory, then resume the run.",
            )
        for name, dtype, shape, data in tensors:
            yield f"{key}/{name}", dtype, shape, data


def _point_to_newest(results: Results, key: str) -> None:
    """`<key>-adapter` becomes a link to the highest version; a copy of it where links can't be made."""
    versions = [version for path in results.adapters.iterdir() if (version := version_of_file(path.name))]
    existing = [version for version in versions if results.versioned_adapter(format_version(version), key).exists()]
    newest = versioned(format_version(max(existing)), key)
    link = results.newest_adapter(key)
    try:
        point(link, newest)
    except LinksUnsupportedError:
        if (link / _COPY_OF).exists():
            shutil.rmtree(link)
        elif link.exists():
            set_aside(link)
        copy_tree(results.adapters / newest, link)
        write_bytes(link / _COPY_OF, newest.encode())


def _point_current(results: Results) -> None:
    """`OneSeek-7B-Zero-CURRENT` becomes a link to the family's directory; a file that names it where links fail."""
    try:
        point(results.current, results.family.name)
    except LinksUnsupportedError:
        if results.current.is_dir():
            set_aside(results.current)
        write_bytes(results.current, results.family.name.encode() + b"\n")
