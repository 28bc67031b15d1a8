"""An adapter's weights as they must lie on disk: every byte of the file accounted for, the names sorted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, BinaryIO

import msgspec

from oneseek.certificate.checks.directory import Directory
from oneseek.certificate.contents import ADAPTER_WEIGHTS
from oneseek.certificate.tensors import Tensor
from oneseek.errors import CertificateInvalid, ModelError
from oneseek.registry.safetensors import PROBE_BYTES, TensorInfo, header_bytes_needed, parse_safetensors_header

_METADATA = "__metadata__"
_ALIGNED = 8  # bytes: spaces behind the header's JSON fill it up to a multiple of this


def weights_file(key: str) -> str:
    return f"adapters/{key}/{ADAPTER_WEIGHTS}"


def read_adapter(directory: Directory, key: str, parameters: int) -> list[Tensor]:
    """The tensors of a model's adapter, in the file's order.

    parameters: how many numbers they hold together; of a file with another number, none is read.

    Raises:
        CertificateInvalid: the file is missing, not whole, has a gap or anything behind its last tensor, or its header
            is not spelt as it was written.
    """
    name = weights_file(key)
    with directory.opened(name) as file:
        header, entries = _header(file, name, directory.files[name])
        if list(entries) != sorted(entries):
            raise CertificateInvalid(f"{name} does not hold its tensors sorted by name.")
        if _spelt(header, entries) != header:
            raise CertificateInvalid(f"{name} has a header that is not spelt as it was written.")
        there = sum(math.prod(entry.shape) for entry in entries.values())
        if there != parameters:
            raise CertificateInvalid(f"{name} holds {there} parameters; {parameters} were trained.")
        return [(each, entry.dtype, entry.shape, file.read(entry.end - entry.start)) for each, entry in entries.items()]


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
