"""The Merkle tree of the log: RFC 6962 hashing, its proofs and how they are checked (RFC 9162, section 2.1).

A tree of n leaves is given by `Node`: the hash of any complete subtree in it. What is asked of it is logarithmic in n.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

from oneseek.errors import ProofInvalid

Hash = bytes
"""SHA-256, 32 bytes."""

Node = Callable[[int, int], Hash]
"""(level, index) -> the hash over leaves index·2^level up to (index + 1)·2^level, which must be in the tree."""

HASH_BYTES = 32
EMPTY = hashlib.sha256(b"").digest()
"""The root of a tree without leaves."""


def leaf_hash(entry: bytes) -> Hash:
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: Hash, right: Hash) -> Hash:
    return hashlib.sha256(b"\x01" + left + right).digest()


def completed(index: int, leaf: Hash, node: Node) -> Iterator[tuple[int, int, Hash]]:
    """(level, index, hash) of each complete subtree that leaf number `index` (from 0) is the last of, itself first.

    node: of the tree before it.
    """
    yield 0, index, leaf
    level, found = 0, leaf
    while index & 1:
        found = node_hash(node(level, index - 1), found)
        level, index = level + 1, index >> 1
        yield level, index, found


def root(size: int, node: Node) -> Hash:
    """The root of the tree of the first `size` leaves."""
    return _range(0, size, node) if size else EMPTY


def inclusion_proof(index: int, size: int, node: Node) -> tuple[Hash, ...]:
    """From the leaf's sibling up to a child of the root: that leaf `index` is in the tree of `size` leaves.

    Raises:
        ValueError: there is no such leaf.
    """
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} leaves has no leaf {index}")
    return tuple(_path(index, 0, size, node))


def consistency_proof(old: int, new: int, node: Node) -> tuple[Hash, ...]:
    """That the tree of `new` leaves begins with that of `old`.

    Raises:
        ValueError: it is the smaller one.
    """
    if not 0 <= old <= new:
        raise ValueError(f"a tree of {new} leaves cannot begin with one of {old}")
    return tuple(_subproof(old, 0, new, node, whole=True)) if old else ()


def check_inclusion(leaf: Hash, index: int, size: int, proof: Sequence[Hash], root: Hash) -> None:
    """Whether the proof leads from a leaf to the root (RFC 9162, 2.1.3.2).

    Raises:
        ProofInvalid: it doesn't.
    """
    if not 0 <= index < size:
        raise ProofInvalid(f"The proof is for entry {index} of a log that has {size}.")
    at, last, found = index, size - 1, leaf
    for step in proof:
        if last == 0:
            raise ProofInvalid("The inclusion proof is longer than the tree is high.")
        if at & 1 or at == last:
            found = node_hash(step, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, step)
        at, last = at >> 1, last >> 1
    if last:
        raise ProofInvalid("The inclusion proof is shorter than the tree is high.")
    if found != root:
        raise ProofInvalid(f"The inclusion proof of entry {index} leads to another root than the checkpoint's.")


def check_consistency(old: int, old_root: Hash, new: int, new_root: Hash, proof: Sequence[Hash]) -> None:
    """Whether the proof shows that the new tree begins with the old one (RFC 9162, 2.1.4.2).

    Raises:
        ProofInvalid: it doesn't.
    """
    if old > new:
        raise ProofInvalid(f"The log had {old} entries and now has {new}: entries were removed.")
    if old in (0, new):
        if proof or old_root != (new_root if old == new else EMPTY):
            raise ProofInvalid(f"The log of {old} entries has another root than it had.")
        return
    steps = iter(proof if old & (old - 1) else (old_root, *proof))
    at, last = old - 1, new - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    before = after = next(steps, b"")
    for step in steps:
        if last == 0:
            raise ProofInvalid("The consistency proof is longer than the tree is high.")
        if at & 1 or at == last:
            before, after = node_hash(step, before), node_hash(step, after)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            after = node_hash(after, step)
        at, last = at >> 1, last >> 1
    if last:
        raise ProofInvalid("The consistency proof is shorter than the tree is high.")
    if before != old_root or after != new_root:
        raise ProofInvalid(f"The log's first {old} entries are not what they were: its history was rewritten.")


def _range(start: int, end: int, node: Node) -> Hash:
    """The hash over leaves `start` to `end`; `start` is a multiple of the largest power of two below the length."""
    length = end - start
    if length & (length - 1) == 0:
        level = length.bit_length() - 1
        return node(level, start >> level)
    middle = start + _split(length)
    return node_hash(_range(start, middle, node), _range(middle, end, node))


def _path(index: int, start: int, end: int, node: Node) -> Iterator[Hash]:
    if end - start == 1:
        return
    middle = start + _split(end - start)
    if index < middle:
        yield from _path(index, start, middle, node)
        yield _range(middle, end, node)
    else:
        yield from _path(index, middle, end, node)
        yield _range(start, middle, node)


def _subproof(old: int, start: int, end: int, node: Node, *, whole: bool) -> Iterator[Hash]:
    """`whole`: whether the old tree is this subtree from its beginning, so that its root is known already."""
    if old == end:
        if not whole:
            yield _range(start, end, node)
        return
    middle = start + _split(end - start)
    if old <= middle:
        yield from _subproof(old, start, middle, node, whole=whole)
        yield _range(middle, end, node)
    else:
        yield from _subproof(old, middle, end, node, whole=False)
        yield _range(start, middle, node)


def _split(length: int) -> int:
    """The largest power of two below `length`."""
    return 1 << ((length - 1).bit_length() - 1)
