"""Proofs (c2sp.org/tlog-proof@v1): that an entry is in a log, to be checked without it."""

from __future__ import annotations

import re

import msgspec

from oneseek.errors import ProofInvalid
from oneseek.ledger import checkpoint
from oneseek.ledger.checkpoint import Checkpoint
from oneseek.ledger.merkle import HASH_BYTES, Hash, check_inclusion, leaf_hash
from oneseek.ledger.note import VerifierKey, decode64, encode64

_FIRST_LINE = "c2sp.org/tlog-proof@v1"
_INDEX = re.compile(r"index (0|[1-9][0-9]{0,18})")


class Proof(msgspec.Struct, frozen=True):
    """Entry `index` (from 0) is in the log of `checkpoint`, a signed note; `hashes` lead from its leaf to the root."""

    index: int
    hashes: tuple[Hash, ...]
    checkpoint: str

    @property
    def text(self) -> str:
        lines = [_FIRST_LINE, f"index {self.index}", *map(encode64, self.hashes), "", self.checkpoint]
        return "\n".join(lines)


def parse(text: str) -> Proof:
    """A proof from its text, in its one spelling; nothing of it is checked yet.

    Raises:
        ProofInvalid: it is no such text.
    """
    head, empty, note = text.partition("\n\n")
    first, _, rest = head.partition("\n")
    index, *hashes = rest.split("\n")
    match = _INDEX.fullmatch(index)
    if first != _FIRST_LINE or match is None or not empty:
        raise ProofInvalid(f"A proof begins with {_FIRST_LINE!r} and the entry's index; this one doesn't.")
    found = tuple(decode64(line, "a hash of the proof") for line in hashes)
    if any(len(each) != HASH_BYTES for each in found):
        raise ProofInvalid(f"A hash of the proof does not have {HASH_BYTES} bytes.")
    return Proof(int(match[1]), found, note)


def check(proof: Proof, entry: bytes, key: VerifierKey) -> Checkpoint:
    """Whether the log with this key has this entry; the checkpoint that says so.

    Raises:
        ProofInvalid: it doesn't say so.
    """
    found = checkpoint.read(proof.checkpoint, key)
    check_inclusion(leaf_hash(entry), proof.index, found.size, proof.hashes, found.root)
    return found
