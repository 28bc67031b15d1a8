from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneseek.errors import ProofInvalid
from oneseek.ledger import checkpoint, proof
from oneseek.ledger.checkpoint import Checkpoint
from oneseek.ledger.merkle import EMPTY, inclusion_proof, root
from oneseek.ledger.note import SignerKey, encode64
from oneseek.ledger.proof import Proof
from support.trees import Tree, entries

KEY = SignerKey("example.com/log", bytes(range(32)))
SIZE = 21
TREE = Tree(entries(SIZE))
ROOT = root(SIZE, TREE.node)


def prove(index: int, size: int = SIZE) -> Proof:
    signed = checkpoint.sign(size, root(size, TREE.node), KEY)
    return Proof(index, inclusion_proof(index, size, TREE.node), signed)


def test_a_checkpoint_is_read_as_it_was_signed() -> None:
    note = checkpoint.sign(SIZE, ROOT, KEY)

    assert note.startswith(f"example.com/log\n21\n{base64.b64encode(ROOT).decode()}\n\n\u2014 example.com/log ")
    assert checkpoint.read(note, KEY.verifier) == Checkpoint("example.com/log", SIZE, ROOT)


def test_the_checkpoint_of_an_empty_log_has_size_0() -> None:
    note = checkpoint.sign(0, EMPTY, KEY)

    assert note.startswith("example.com/log\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n")
    assert checkpoint.read(note, KEY.verifier).size == 0


ROOT_TEXT = encode64(ROOT)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "example.com/log\n",
        "example.com/log\n21\n",
        f"example.com/other\n21\n{ROOT_TEXT}\n",
        f"\n21\n{ROOT_TEXT}\n",
        f"example.com/log \n21\n{ROOT_TEXT}\n",
        f"example.com/log\n021\n{ROOT_TEXT}\n",
        f"example.com/log\n00\n{ROOT_TEXT}\n",
        f"example.com/log\n-21\n{ROOT_TEXT}\n",
        f"example.com/log\n+21\n{ROOT_TEXT}\n",
        f"example.com/log\n21.0\n{ROOT_TEXT}\n",
        f"example.com/log\n 21\n{ROOT_TEXT}\n",
        f"example.com/log\n2_1\n{ROOT_TEXT}\n",
        f"example.com/log\n2\u0661\n{ROOT_TEXT}\n",
        f"example.com/log\n{'9' * 20}\n{ROOT_TEXT}\n",
        f"example.com/log\n{'9' * 5000}\n{ROOT_TEXT}\n",
        f"example.com/log\n21\n{ROOT_TEXT[:-1]}\n",
        f"example.com/log\n21\n{ROOT_TEXT} \n",
        f"example.com/log\n21\n{encode64(ROOT[:-1])}\n",
        f"example.com/log\n21\n{encode64(ROOT + b'x')}\n",
        f"example.com/log\n21\n{ROOT.hex()}\n",
        f"example.com/log\n21\n{ROOT_TEXT}\nan extension\n",
        f"example.com/log\r\n21\r\n{ROOT_TEXT}\r\n",
        f"go.sum database tree\n21\n{ROOT_TEXT}\n",
    ],
    ids=lambda text: ascii(text)[:60],
)
def test_a_signed_text_that_is_no_checkpoint_of_the_log_is_refused(text: str) -> None:
    with pytest.raises(ProofInvalid):
        checkpoint.read(KEY.sign(text), KEY.verifier)


@given(st.integers(1, SIZE), st.data())
def test_a_proof_is_read_back_and_checks(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    made = prove(index, size)

    read = proof.parse(made.text)

    assert read == made
    assert proof.check(read, TREE.entries[index], KEY.verifier) == Checkpoint(KEY.name, size, root(size, TREE.node))


def test_a_proof_is_spelt_as_the_specification_says() -> None:
    made = prove(20)

    assert made.text == f"c2sp.org/tlog-proof@v1\nindex 20\n{encode64(made.hashes[0])}\n" + (
        f"{encode64(made.hashes[1])}\n\n{made.checkpoint}"
    )


def test_the_only_entry_of_a_log_has_a_proof_without_hashes() -> None:
    made = prove(0, 1)

    assert made.text == f"c2sp.org/tlog-proof@v1\nindex 0\n\n{made.checkpoint}"
    assert proof.check(proof.parse(made.text), TREE.entries[0], KEY.verifier).size == 1


def refused(text: str, index: int = 7) -> None:
    with pytest.raises(ProofInvalid):
        proof.check(proof.parse(text), TREE.entries[index], KEY.verifier)


def test_every_flipped_bit_of_a_proof_is_noticed() -> None:
    text = prove(7).text.encode()

    for bit in range(8 * len(text)):
        flipped = bytearray(text)
        flipped[bit // 8] ^= 1 << bit % 8
        refused(flipped.decode(errors="surrogateescape"))


def test_every_line_that_is_dropped_doubled_or_swapped_is_noticed() -> None:
    lines = prove(7).text.splitlines(keepends=True)

    for at, line in enumerate(lines):
        refused("".join([*lines[:at], *lines[at + 1 :]]))
        refused("".join([*lines[:at], line, *lines[at:]]))
        refused("".join([*lines[:at], "\n", *lines[at:]]))
        if at:
            refused("".join([*lines[: at - 1], line, lines[at - 1], *lines[at + 1 :]]))


@pytest.mark.parametrize("size", [1, 8])
def test_every_character_that_is_dropped_doubled_or_put_in_is_noticed(size: int) -> None:
    text = prove(size - 1, size).text

    for at, character in enumerate(text):
        refused(text[:at] + text[at + 1 :], size - 1)
        for more in (character, "\n", " ", "=", "0", "\r", "\x00"):
            refused(text[:at] + more + text[at:], size - 1)


PROOF = prove(7).text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        "c2sp.org/tlog-proof@v1",
        "c2sp.org/tlog-proof@v1\n\n",
        "c2sp.org/tlog-proof@v1\nindex 7\n\n",
        PROOF.replace("\n", "\r\n"),
        PROOF.replace("\n", "\r"),
        f"\ufeff{PROOF}",
        f"{PROOF}\n",
        PROOF[:-1],
        PROOF.replace("@v1", "@v2"),
        PROOF.replace("\nindex", "\nextra YWJj\nindex"),
        PROOF.replace("index 7", "index 07"),
        PROOF.replace("index 7", "index +7"),
        PROOF.replace("index 7", "index  7"),
        PROOF.replace("index 7", "index 7 "),
        PROOF.replace("index 7", "index\t7"),
        PROOF.replace("index 7", "index \u0667"),
        PROOF.replace("index 7", "Index 7"),
        PROOF.replace("index 7", f"index {'9' * 5000}"),
        PROOF.replace("index 7", "index 8"),
        PROOF.replace("index 7", "index 39"),
        PROOF.replace(prove(7).checkpoint, prove(7, 20).checkpoint),
        prove(7, 20).text.replace(prove(7, 20).checkpoint, prove(7).checkpoint),
    ],
    ids=lambda text: ascii(text[:40]),
)
def test_any_other_text_is_no_proof(text: str) -> None:
    refused(text)


def test_an_index_in_other_digits_is_no_second_spelling() -> None:
    with pytest.raises(ProofInvalid, match="begins with"):
        proof.parse(prove(13).text.replace("index 13", "index 1\u0663"))


@pytest.mark.parametrize("step", [bytes(31), bytes(33), bytes(64)], ids=len)
def test_a_hash_of_another_length_is_refused_before_it_is_used(step: bytes) -> None:
    made = prove(7)

    with pytest.raises(ProofInvalid):
        proof.parse(Proof(7, (step, *made.hashes[1:]), made.checkpoint).text)


def test_a_proof_proves_no_other_entry() -> None:
    with pytest.raises(ProofInvalid, match="entry 7 leads to another root"):
        proof.check(prove(7), TREE.entries[8], KEY.verifier)


def test_a_proof_of_another_log_is_refused() -> None:
    other = SignerKey(KEY.name, bytes(32))
    forged = Proof(7, prove(7).hashes, checkpoint.sign(SIZE, ROOT, other))

    with pytest.raises(ProofInvalid, match="signed by another key"):
        proof.check(forged, TREE.entries[7], KEY.verifier)
