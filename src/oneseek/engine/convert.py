"""Weights stored as pickle, written as safetensors. Call it in a limited process: the file may be hostile."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from oneseek.errors import ModelError
from oneseek.files.durable import storage_errors, sync_directory, write_json
from oneseek.registry.model_files import object_or_none

PICKLE = "pytorch_model.bin"
INDEX = f"{PICKLE}.index.json"
_DOWNLOAD = "Download the model's safetensors files instead."
_AGAIN = "Download or copy it again."
_BARE_PICKLE = b"\x80"  # the first byte of protocol 2 and later, which torch.save wrote before it wrote zip archives


def convert(directory: Path, scratch: Path) -> list[str]:
    """Write model.safetensors beside pytorch_model.bin, or a shard beside each of its shards and then their index.

    The new files are read back and compared before any of them comes into the model's directory; the old ones stay.
    Tensors that share memory, as an embedding and a head that are tied, are written once each: safetensors has no
    shared ones, and whether they are tied is for the model's code to say. Returns the names of the files written.

    scratch: an empty directory on the same disk. Whatever ends this, nothing unfinished is left anywhere else.
    Raises:
        ModelError: no such file, one that holds anything but tensors (nothing of it is run), or what was written is not
            what was read.
        StorageError: it could not be written.
    """
    shards = _shards(directory)
    weight_map: dict[str, str] = {}
    total = 0
    for old, new in shards.items():
        tensors = _load(directory / old)
        _write(scratch / new, tensors, like=directory / old)
        weight_map.update(dict.fromkeys(tensors, new))
        total += sum(tensor.nbytes for tensor in tensors.values())
    written = list(shards.values())
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(scratch / "model.safetensors.index.json", index)
        written.append("model.safetensors.index.json")
    with storage_errors(directory):
        for name in written:  # the index last: without it no shard is taken for the model's
            (scratch / name).replace(directory / name)
        sync_directory(directory)
    return written


def _shards(directory: Path) -> dict[str, str]:
    """The pickle files by name, each with the name of what it becomes."""
    if (directory / PICKLE).is_file():
        return {PICKLE: "model.safetensors"}
    if not (directory / INDEX).is_file():
        raise ModelError(f"{directory} has no {PICKLE} and no {INDEX}.", _DOWNLOAD)
    weight_map = (object_or_none((directory / INDEX).read_bytes()) or {}).get("weight_map")
    names = set(weight_map.values()) if isinstance(weight_map, dict) else set()
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise ModelError(f"{directory / INDEX} has no weight_map from tensors to files.", _DOWNLOAD)
    missing = sorted(name for name in names if not (directory / name).is_file())
    if missing:
        raise ModelError(f"{directory / missing[0]} is missing; {INDEX} names it.", _AGAIN)
    ordered = sorted(names)
    count = len(ordered)
    if count == 1:
        return {ordered[0]: "model.safetensors"}
    return {old: f"model-{number:05d}-of-{count:05d}.safetensors" for number, old in enumerate(ordered, start=1)}


def _load(path: Path) -> dict[str, Tensor]:
    """The tensors of a pickle file, each with memory of its own. Only tensors are read, nothing else of it is run."""
    try:
        archive = zipfile.is_zipfile(path)
        with path.open("rb") as file:
            if not archive and file.read(1) != _BARE_PICKLE:
                raise ModelError(f"{path} is cut off, or torch.save did not write it.", _AGAIN)
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError as error:  # torch's own words say how to run the code all the same
        raise ModelError(
            f"{path} is not read: it holds more than tensors, which could run code.",
            "Select a model with safetensors.",
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        raise ModelError(f"{path} could not be read, it may be damaged: {reason}.", _AGAIN) from error
    if not isinstance(loaded, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in loaded.items()
    ):
        raise ModelError(f"{path} holds something else than tensors by their names.", _DOWNLOAD)
    if not loaded:
        raise ModelError(f"{path} holds no tensor.", _DOWNLOAD)
    seen: set[int] = set()
    own = {}
    for name, tensor in loaded.items():
        place = tensor.untyped_storage().data_ptr()
        own[name] = tensor.detach().clone().contiguous() if place in seen else tensor.detach().contiguous()
        seen.add(place)
    return own


def _write(path: Path, tensors: Mapping[str, Tensor], like: Path) -> None:
    """Write and compare. Who may read the old file may read the new one."""
    with storage_errors(path):
        try:
            save_file(dict(tensors), path, metadata={"format": "pt"})
            path.chmod(like.stat().st_mode & 0o777)
            with path.open("rb") as file:
                os.fsync(file.fileno())
            if not _holds(path, tensors):
                raise ModelError(f"{path} was not written as it should be.", "Check the disk, and convert it again.")
        except SafetensorError as error:
            raise ModelError(
                f"{path} could not be written: {error}.", "Check the disk, and convert it again."
            ) from error


def _holds(path: Path, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a file has exactly these tensors, bit for bit."""
    with safe_open(path, framework="pt") as file:
        if set(file.keys()) != tensors.keys():
            return False
        return all(_equal(file.get_tensor(name), tensor) for name, tensor in tensors.items())


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same bits: a NaN is equal to itself here."""
    same = one.dtype == other.dtype and one.shape == other.shape
    return same and torch.equal(one.flatten().view(torch.uint8), other.flatten().view(torch.uint8))
