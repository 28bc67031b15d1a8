from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneseek.errors import ProofInvalid
from oneseek.ledger.merkle import (
    EMPTY,
    Hash,
    check_consistency,
    check_inclusion,
    completed,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root,
)
from support.trees import Tree, entries

LARGEST = 300
LEAVES = entries(LARGEST)
TREE = Tree(LEAVES)

# What RFC 6962 defines, word by word: everything is computed from the list of entries, nothing is kept.


def split(count: int) -> int:
    k = 1
    while 2 * k < count:
        k *= 2
    return k


def tree_hash(leaves: Sequence[bytes]) -> Hash:
    if not leaves:
        return EMPTY
    if len(leaves) == 1:
        return leaf_hash(leaves[0])
    k = split(len(leaves))
    return node_hash(tree_hash(leaves[:k]), tree_hash(leaves[k:]))


def path(m: int, leaves: Sequence[bytes]) -> list[Hash]:
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*path(m, leaves[:k]), tree_hash(leaves[k:])]
    return [*path(m - k, leaves[k:]), tree_hash(leaves[:k])]


def subproof(m: int, leaves: Sequence[bytes], whole: bool) -> list[Hash]:
    if m == len(leaves):
        return [] if whole else [tree_hash(leaves)]
    k = split(len(leaves))
    if m <= k:
        return [*subproof(m, leaves[:k], whole), tree_hash(leaves[k:])]
    return [*subproof(m - k, leaves[k:], False), tree_hash(leaves[:k])]


@cache
def root_of(size: int) -> Hash:
    return tree_hash(LEAVES[:size])


def test_the_roots_are_those_of_the_definition() -> None:
    assert [root(size, TREE.node) for size in range(LARGEST + 1)] == [root_of(size) for size in range(LARGEST + 1)]


def test_the_proofs_are_those_of_the_definition() -> None:
    for size in range(1, 70):
        for index in range(size):
            assert list(inclusion_proof(index, size, TREE.node)) == path(index, LEAVES[:size])
            assert list(consistency_proof(index + 1, size, TREE.node)) == subproof(index + 1, LEAVES[:size], True)


# The entries, roots and proofs that implementations of Certificate Transparency test themselves with.
KNOWN = [
    bytes.fromhex(entry)
    for entry in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
    )
]  # fmt: skip
KNOWN_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
L2 = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
L34 = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
L5 = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
L56 = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
L78 = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
L5678 = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"


@pytest.mark.parametrize("size", range(9))
def test_the_roots_are_those_of_certificate_transparency(size: int) -> None:
    assert root(size, Tree(KNOWN).node).hex() == KNOWN_ROOTS[size]


@pytest.mark.parametrize(
    ("index", "size", "hashes"),
    [
        (0, 1, []),
        (0, 8, [L2, L34, L5678]),
        (5, 8, [L5, L78, KNOWN_ROOTS[4]]),
        (2, 3, [KNOWN_ROOTS[2]]),
        (1, 5, [KNOWN_ROOTS[1], L34, L5]),
    ],
)
def test_inclusion_proofs_are_those_of_certificate_transparency(index: int, size: int, hashes: list[str]) -> None:
    proof = inclusion_proof(index, size, Tree(KNOWN).node)

    assert [step.hex() for step in proof] == hashes


@pytest.mark.parametrize(
    ("old", "new", "hashes"),
    [(1, 1, []), (1, 8, [L2, L34, L5678]), (6, 8, [L56, L78, KNOWN_ROOTS[4]]), (2, 5, [L34, L5])],
)
def test_consistency_proofs_are_those_of_certificate_transparency(old: int, new: int, hashes: list[str]) -> None:
    proof = consistency_proof(old, new, Tree(KNOWN).node)

    assert [step.hex() for step in proof] == hashes


def test_growing_a_tree_gives_each_complete_subtree_once_and_nothing_else() -> None:
    for size in (1, 2, 7, 64, 255, 256, LARGEST):
        tree = Tree(LEAVES[:size])

        complete = {
            (level, index): tree_hash(LEAVES[index << level : (index + 1) << level])
            for level in range(10)
            for index in range(size >> level)
        }
        assert tree.nodes == complete


def test_a_leaf_completes_subtrees_from_itself_upwards() -> None:
    grown = [(level, index) for level, index, _ in completed(7, leaf_hash(LEAVES[7]), TREE.node)]

    assert grown == [(0, 7), (1, 3), (2, 1), (3, 0)]


def test_every_inclusion_proof_checks() -> None:
    for size in range(1, 200):
        for index in range(size):
            proof = inclusion_proof(index, size, TREE.node)

            check_inclusion(leaf_hash(LEAVES[index]), index, size, proof, root_of(size))


def test_every_consistency_proof_checks() -> None:
    for new in range(200):
        for old in range(new + 1):
            proof = consistency_proof(old, new, TREE.node)

            check_consistency(old, root_of(old), new, root_of(new), proof)


@st.composite
def two_of(draw: st.DrawFn, lowest: int) -> tuple[int, int]:
    """Two numbers, the smaller one first and at least `lowest`."""
    larger = draw(st.integers(lowest + 1, LARGEST))
    return draw(st.integers(lowest, larger - 1)), larger


def spoilt(proof: Sequence[Hash], bit: int) -> Iterator[Sequence[Hash]]:
    """The proof with one thing wrong: a flipped bit, a hash too few, too many, too short, too long, or elsewhere."""
    for at, step in enumerate(proof):
        flipped = bytearray(step)
        flipped[bit // 8] ^= 1 << bit % 8
        for instead in ([bytes(flipped)], [], [step, step], [step[:-1]], [step + b"\x00"]):
            yield [*proof[:at], *instead, *proof[at + 1 :]]
    for at, (one, other) in enumerate(pairwise(proof)):
        if one != other:
            yield [*proof[:at], other, one, *proof[at + 2 :]]
    yield [*proof, EMPTY]
    yield [EMPTY, *proof]


@given(two_of(0), st.integers(0, 255))
def test_an_inclusion_proof_with_anything_wrong_is_refused(place: tuple[int, int], bit: int) -> None:
    index, size = place
    leaf = leaf_hash(LEAVES[index])

    for proof in spoilt(inclusion_proof(index, size, TREE.node), bit):
        with pytest.raises(ProofInvalid):
            check_inclusion(leaf, index, size, proof, root_of(size))


@given(two_of(0), two_of(0))
def test_an_inclusion_proof_proves_no_other_entry_index_or_tree(place: tuple[int, int], other: tuple[int, int]) -> None:
    index, size = place
    leaf, proof = leaf_hash(LEAVES[index]), inclusion_proof(index, size, TREE.node)
    claims = [
        (leaf_hash(LEAVES[other[0]]), index, size, root_of(size)),
        (leaf, other[0], size, root_of(size)),
        (leaf, index, other[1], root_of(other[1])),
        (leaf, index, size, root_of(other[1])),
        (leaf_hash(LEAVES[other[0]]), other[0], other[1], root_of(other[1])),
    ]

    for claim in claims:
        if claim != (leaf, index, size, root_of(size)):
            with pytest.raises(ProofInvalid):
                check_inclusion(claim[0], claim[1], claim[2], proof, claim[3])


@pytest.mark.parametrize("index", [-1, 5, 6, 1 << 62])
def test_an_index_outside_of_the_tree_is_refused(index: int) -> None:
    with pytest.raises(ProofInvalid, match=f"entry {index} of a log that has 5"):
        check_inclusion(leaf_hash(LEAVES[4]), index, 5, inclusion_proof(4, 5, TREE.node), root_of(5))
    with pytest.raises(ValueError, match=f"no leaf {index}"):
        inclusion_proof(index, 5, TREE.node)


@given(two_of(1), st.integers(0, 255))
def test_a_consistency_proof_with_anything_wrong_is_refused(sizes: tuple[int, int], bit: int) -> None:
    old, new = sizes

    for proof in spoilt(consistency_proof(old, new, TREE.node), bit):
        with pytest.raises(ProofInvalid):
            check_consistency(old, root_of(old), new, root_of(new), proof)


@given(two_of(1), two_of(1))
def test_a_consistency_proof_proves_no_other_trees(sizes: tuple[int, int], other: tuple[int, int]) -> None:
    old, new = sizes
    proof = consistency_proof(old, new, TREE.node)
    claims = [
        (other[0], root_of(other[0]), new, root_of(new)),
        (old, root_of(old), other[1], root_of(other[1])),
        (old, root_of(other[0]), new, root_of(new)),
        (old, root_of(old), new, root_of(other[1])),
        (other[0], root_of(other[0]), other[1], root_of(other[1])),
        (new, root_of(new), old, root_of(old)),
        (0, EMPTY, new, root_of(new)),
        (new, root_of(new), new, root_of(new)),
    ]

    for claim in claims:
        if claim != (old, root_of(old), new, root_of(new)):
            with pytest.raises(ProofInvalid):
                check_consistency(*claim, proof)


def test_a_proof_that_is_not_as_long_as_the_tree_is_high_is_refused_whatever_root_it_leads_to() -> None:
    """The proof of the first leaf, and from a tree of one leaf, has as many hashes as the tree is high."""
    for size in (2, 3, 5, 8, 21, 64, 130):
        for claimed in range(2, LARGEST):
            if (other := (claimed - 1).bit_length()) != (height := (size - 1).bit_length()):
                fault = "longer than the tree is high" if other < height else "shorter than the tree is high"
                with pytest.raises(ProofInvalid, match=f"inclusion proof is {fault}"):
                    check_inclusion(root_of(1), 0, claimed, inclusion_proof(0, size, TREE.node), root_of(size))
                with pytest.raises(ProofInvalid, match=f"consistency proof is {fault}"):
                    check_consistency(1, root_of(1), claimed, root_of(size), consistency_proof(1, size, TREE.node))


def test_a_log_that_shrank_is_said_to_have_lost_entries() -> None:
    with pytest.raises(ProofInvalid, match="had 5 entries and now has 3: entries were removed"):
        check_consistency(5, root_of(5), 3, root_of(3), ())
    with pytest.raises(ValueError, match="cannot begin with one of 5"):
        consistency_proof(5, 3, TREE.node)


@pytest.mark.parametrize(("old", "new"), [(0, 0), (0, 3), (3, 3), (2, 3), (3, 7)])
def test_a_root_that_is_another_than_it_was_is_refused(old: int, new: int) -> None:
    proof = consistency_proof(old, new, TREE.node)
    false = leaf_hash(b"another")

    with pytest.raises(ProofInvalid):
        check_consistency(old, false, new, root_of(new), proof)
    if old:
        with pytest.raises(ProofInvalid):
            check_consistency(old, root_of(old), new, false, proof)


def test_an_empty_tree_that_has_no_empty_root_is_refused() -> None:
    with pytest.raises(ProofInvalid, match="log of 0 entries has another root"):
        check_consistency(0, EMPTY, 0, leaf_hash(b"another"), ())


@given(st.integers(1, 1 << 62), st.data())
def test_what_is_asked_of_a_tree_is_logarithmic_in_its_size(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    asked: list[tuple[int, int]] = []

    def node(level: int, at: int) -> Hash:
        asked.append((level, at))
        assert (at + 1) << level <= size, "only complete subtrees are asked for"
        assert len(asked) <= 2 * size.bit_length()
        return EMPTY

    root(size, node)
    asked.clear()
    assert len(inclusion_proof(index, size, node)) <= size.bit_length()
    asked.clear()
    assert len(consistency_proof(index + 1, size, node)) <= size.bit_length() + 1
