"""Checkpoints (c2sp.org/tlog-checkpoint): how large a log is and which root it has, signed by the log."""

from __future__ import annotations

import re

import msgspec

from oneseek.errors import ProofInvalid
from oneseek.ledger.merkle import HASH_BYTES
from oneseek.ledger.note import SignerKey, VerifierKey, decode64, encode64, text_of

_TEXT = re.compile(r"(?P<origin>[^\n]+)\n(?P<size>0|[1-9][0-9]{0,18})\n(?P<root>[^\n]+)\n")


class Checkpoint(msgspec.Struct, frozen=True):
    """`size` in entries, `root` 32 bytes."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{encode64(self.root)}\n"


def sign(size: int, root: bytes, key: SignerKey) -> str:
    """The checkpoint of a log whose origin is the key's name, as a signed note."""
    return key.sign(Checkpoint(key.name, size, root).text)


def read(note: str, key: VerifierKey) -> Checkpoint:
    """The checkpoint that a log signed.

    Raises:
        ProofInvalid: the note is not signed by `key`, or is no checkpoint of its log.
    """
    match = _TEXT.fullmatch(text_of(note, key))
    if match is None or match["origin"] != key.name:
        raise ProofInvalid(f"The note is not a checkpoint of {key.name}.")
    root = decode64(match["root"], "the checkpoint's root")
    if len(root) != HASH_BYTES:
        raise ProofInvalid(f"The checkpoint's root has {len(root)} bytes instead of {HASH_BYTES}.")
    return Checkpoint(match["origin"], int(match["size"]), root)
