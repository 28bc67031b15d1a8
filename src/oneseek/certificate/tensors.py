"""One digest over an adapter's tensors, whatever file they came from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

Tensor = tuple[str, str, Sequence[int], bytes]
"""Name, dtype as safetensors writes it (`F32`), shape, little-endian bytes."""


def tensors_digest(tensors: Iterable[Tensor]) -> str:
    """SHA-256 in hex over the tensors sorted by name.

    Each tensor contributes name, dtype, shape (`2,3`) and bytes, every part preceded by its length as eight
    little-endian bytes, so that no two lists of tensors run into the same input.
    """
    digest = hashlib.sha256()
    for name, dtype, shape, data in sorted(tensors, key=lambda tensor: tensor[0]):
        for part in (name.encode(), dtype.encode(), ",".join(map(str, shape)).encode(), data):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
    return digest.hexdigest()
