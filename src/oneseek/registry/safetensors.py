"""The header of a safetensors file: which tensors it holds, of which type and shape, and whether the file is whole."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from oneseek.errors import ModelError

MAX_HEADER_BYTES = 100_000_000
"""A longer safetensors header is refused; the format's own reader draws the line there too."""

PROBE_BYTES = 64
"""Enough of a weight file to know how long its header is, and whether it is a Git LFS pointer instead."""

# Bits per element: the types that the safetensors format defines.
_DTYPES_BY_BITS = {
    4: ("F4",),
    6: ("F6_E2M3", "F6_E3M2"),
    8: ("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"),
    16: ("U16", "I16", "F16", "BF16"),
    32: ("U32", "I32", "F32"),
    64: ("U64", "I64", "F64", "C64"),
}
_DTYPE_BITS = {dtype: bits for bits, dtypes in _DTYPES_BY_BITS.items() for dtype in dtypes}


class TensorInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor of a safetensors file. `start` and `end` are byte offsets into the data behind the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


class DamagedWeightsError(ModelError):
    """A safetensors file that is not whole."""

    def __init__(self, kind: Literal["truncated-weights", "broken-header"], problem: str, fix: str):
        super().__init__(problem, fix)
        self.kind = kind


class _Entry(msgspec.Struct):
    dtype: str
    # No framework has tensors of more dimensions; the bound keeps the product below quick.
    shape: Annotated[tuple[Annotated[int, msgspec.Meta(ge=0)], ...], msgspec.Meta(max_length=64)]
    data_offsets: tuple[Annotated[int, msgspec.Meta(ge=0)], Annotated[int, msgspec.Meta(ge=0)]]


def header_bytes_needed(probe: bytes, file_size: int) -> int:
    """How many bytes of a safetensors file hold its header, given its first PROBE_BYTES; 0 where it is no such file."""
    if len(probe) < 8:
        return 0
    (length,) = struct.unpack("<Q", probe[:8])
    return 8 + length if length <= min(MAX_HEADER_BYTES, file_size - 8) else 0


def parse_safetensors_header(prefix: bytes, file_size: int) -> dict[str, TensorInfo]:
    """The tensors that a safetensors file of `file_size` bytes says it holds.

    prefix: its first bytes, at least 8 and the header.
    Source: https://github.com/huggingface/safetensors#format. Like the format's own reader it wants the tensors to
    cover the data without overlap, gap or rest.
    Raises:
        ModelError: the file is cut off, or its header is not one; the message says what, not in which file.
    """
    if prefix.startswith(b"version https://git-lfs"):
        raise _truncated("is a Git LFS pointer, not the weights", "Run `git lfs pull` in the model's repository.")
    if file_size < 8 or len(prefix) < 8:
        raise _truncated(f"is cut off: {file_size} bytes are less than any safetensors file has")
    (length,) = struct.unpack("<Q", prefix[:8])
    if length > MAX_HEADER_BYTES:
        raise _broken(f"is no safetensors file: its header would be {length:,} bytes, {MAX_HEADER_BYTES:,} is the most")
    if length > file_size - 8:
        raise _truncated(f"is cut off: its header is {length:,} bytes, the whole file {file_size:,}")
    if len(prefix) < 8 + length:
        raise _broken(f"has a header of {length:,} bytes, of which only {len(prefix) - 8:,} were read")
    tensors = _header_entries(prefix[8 : 8 + length])
    _check_offsets(tensors, file_size - 8 - length)
    return tensors


def _header_entries(header: bytes) -> dict[str, TensorInfo]:
    tensors = {}
    try:
        for name, raw in msgspec.json.decode(header.decode(), type=dict[str, msgspec.Raw]).items():
            if name == "__metadata__":
                continue
            entry = msgspec.json.decode(raw, type=_Entry)
            start, end = entry.data_offsets
            tensors[name] = TensorInfo(dtype=entry.dtype, shape=entry.shape, start=start, end=end)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _broken(f"has a broken header: {error}") from error
    return tensors


def _check_offsets(tensors: Mapping[str, TensorInfo], data_size: int) -> None:
    reached = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        bits = _DTYPE_BITS.get(tensor.dtype)
        if bits is None:
            raise _broken(f"has a broken header: tensor {name!r} is of the unknown type {tensor.dtype!r}")
        if tensor.start != reached:
            fault = "overlaps the one before it" if tensor.start < reached else "leaves a gap before it"
            raise _broken(f"has a broken header: tensor {name!r} {fault} (at byte {tensor.start:,})")
        needed = math.prod(tensor.shape) * bits
        if needed != (tensor.end - tensor.start) * 8:
            raise _broken(
                f"has a broken header: tensor {name!r} of {tensor.dtype} {list(tensor.shape)} can't be "
                f"{tensor.end - tensor.start} bytes long"
            )
        reached = tensor.end
    if reached > data_size:
        raise _truncated(f"is cut off: its tensors need {reached:,} bytes, {data_size:,} are there")
    if reached < data_size:
        raise _broken(f"has {data_size - reached:,} bytes behind its last tensor")


def _truncated(problem: str, fix: str = "Download or copy the file again.") -> DamagedWeightsError:
    return DamagedWeightsError("truncated-weights", problem, fix)


def _broken(problem: str) -> DamagedWeightsError:
    return DamagedWeightsError("broken-header", problem, "Download or copy the file again.")
