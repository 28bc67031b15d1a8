"""The digest over an adapter's tensors."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from oneseek.certificate.tensors import Tensor, tensors_digest

TENSORS: list[Tensor] = [("b", "F32", (2, 3), b"\0" * 24), ("a", "F32", (1,), b"\1\2\3\4")]


def test_it_is_the_digest_of_length_prefixed_parts_in_the_order_of_names() -> None:
    expected = hashlib.sha256()
    for part in (b"a", b"F32", b"1", b"\1\2\3\4", b"b", b"F32", b"2,3", b"\0" * 24):
        expected.update(len(part).to_bytes(8, "little") + part)

    assert tensors_digest(TENSORS) == expected.hexdigest()


@given(st.permutations(TENSORS))
def test_the_order_in_which_tensors_come_does_not_matter(tensors: list[Tensor]) -> None:
    assert tensors_digest(tensors) == tensors_digest(TENSORS)


def test_name_dtype_shape_and_every_byte_matter() -> None:
    name, dtype, shape, data = TENSORS[0]
    others: list[Tensor] = [
        ("c", dtype, shape, data),
        (name, "I32", shape, data),
        (name, dtype, (3, 2), data),
        (name, dtype, shape, data[:-1] + b"\1"),
    ]

    digests = {tensors_digest([other]) for other in [TENSORS[0], *others]}

    assert len(digests) == 5


def test_bytes_can_not_be_moved_between_neighbouring_parts() -> None:
    assert tensors_digest([("ab", "F32", (1,), b"")]) != tensors_digest([("a", "bF32", (1,), b"")])
