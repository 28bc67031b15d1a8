"""An adapter's weights as they must lie on disk: every byte of the file accounted for, the names sorted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

from oneseek.certificate.checks.directory import Directory
from oneseek.certificate.contents import ADAPTER_WEIGHTS
from oneseek.certificate.tensors import Tensor
from oneseek.errors import CertificateInvalid, ModelError
from oneseek.registry.safetensors import PROBE_BYTES, TensorInfo, header_bytes_needed, parse_safetensors_header

if TYPE_CHECKING:
    from hashlib import _Hash

_METADATA = "__metadata__"
_ALIGNED = 8  # bytes: spaces behind the header's JSON fill it up to a multiple of this
_HEADER = 32 << 20  # bytes of one, at most; hundreds of experts in each of a hundred layers take less
_TENSOR = 1 << 30  # bytes of one, at most; half a pair of rank 1024 for a vocabulary of 262,144 tokens has as many


def weights_file(key: str) -> str:
    return f"adapters/{key}/{ADAPTER_WEIGHTS}"


def largest(parameters: int) -> int:
    """Bytes of an adapter's file, at most."""
    return 4 * parameters + _HEADER


def feed(digest: _Hash, tensor: Tensor, prefix: str = "") -> None:
    """Put the next tensor, in the order of the names, into a digest that ends as that of `tensors_digest`."""
    name, dtype, shape, data = tensor
    for part in ((prefix + name).encode(), dtype.encode(), ",".join(map(str, shape)).encode(), data):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)


def read_adapter(directory: Directory, key: str, parameters: int) -> Iterator[Tensor]:
    """The tensors of a model's adapter, one after another, sorted by name.

    parameters: how many numbers they hold together; of a file with another number, none is read.

    Raises:
        CertificateInvalid: the file is missing, too large, not whole, has a gap or anything behind its last tensor, or
            its header is not spelt as it was written.
    """
    name = weights_file(key)
    if (there := directory.files.get(name, 0)) > (most := largest(parameters)):
        raise CertificateInvalid(f"{name} has {there} bytes; {most} are the most for {parameters} parameters.")
    with directory.opened(name) as file:
        header, entries = _header(file, name, directory.files[name])
        if list(entries) != sorted(entries):
            raise CertificateInvalid(f"{name} does not hold its tensors sorted by name.")
        if _spelt(header, entries) != header:
            raise CertificateInvalid(f"{name} has a header that is not spelt as it was written.")
        there = sum(math.prod(entry.shape) for entry in entries.values())
        if there != parameters:
            raise CertificateInvalid(f"{name} holds {there} parameters; {parameters} were trained.")
        for each, entry in entries.items():
            if entry.end - entry.start > _TENSOR:
                raise CertificateInvalid(f"{name}: {each} is larger than any half of a LoRA pair.")
            yield each, entry.dtype, entry.shape, file.read(entry.end - entry.start)


def _header(file: BinaryIO, name: str, size: int) -> tuple[bytes, dict[str, TensorInfo]]:
    """The header's bytes and its tensors; the file stands at the first tensor then."""
    probe = file.read(PROBE_BYTES)
    prefix = probe + file.read(max(0, header_bytes_needed(probe, size) - len(probe)))
    try:
        entries = parse_safetensors_header(prefix, size)
    except ModelError as error:
        raise CertificateInvalid(f"{name} {error.problem}.") from error
    start = 8 + int.from_bytes(prefix[:8], "little")
    file.seek(start)
    return prefix[8:start], entries


def _spelt(header: bytes, entries: Mapping[str, TensorInfo]) -> bytes:
    """The header in its one spelling. Its metadata are taken as they are, the tensors in the order of their bytes."""
    metadata = msgspec.json.decode(header, type=dict[str, Any]).get(_METADATA)
    tensors = {
        name: {"dtype": entry.dtype, "shape": entry.shape, "data_offsets": (entry.start, entry.end)}
        for name, entry in sorted(entries.items(), key=lambda item: item[1].start)
    }
    spelling = msgspec.json.encode({**({_METADATA: metadata} if metadata is not None else {}), **tensors})
    return spelling.ljust(-(-len(spelling) // _ALIGNED) * _ALIGNED)
