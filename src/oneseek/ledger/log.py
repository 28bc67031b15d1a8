"""A ledger as its users see it, on this machine (`store`) or as a service (`client`); and what is asked of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from oneseek.ledger import checkpoint
from oneseek.ledger.checkpoint import Checkpoint
from oneseek.ledger.merkle import Hash, check_consistency, consistency_proof
from oneseek.ledger.note import VerifierKey
from oneseek.ledger.proof import Proof


class Logged(msgspec.Struct, frozen=True):
    """An entry of a log as its bytes, and the proof that it is there."""

    entry: bytes
    proof: Proof


class Log(Protocol):
    """An append-only log. Errors of every method: LedgerUnavailable where it can't be reached, LedgerDamaged where it
    is not what it signed, StorageError where it can't be written."""

    @property
    def key(self) -> VerifierKey:
        """What its checkpoints are signed with; its `name` is the log's origin."""

    def append(self, statements: Sequence[bytes]) -> list[Logged]:
        """Add statements (`entry.encode`), each with the ledger's time, and sign one checkpoint over all of them.

        A statement that is there already is not added again: its entry comes back, so that trying again is safe. When
        this returns, everything is on disk.

        Raises:
            ProofInvalid: one of them is no statement. Nothing was added.
        """

    def checkpoint(self) -> str:
        """The newest checkpoint, as a signed note."""

    def node(self, level: int, index: int) -> Hash:
        """The hash of a complete subtree, below the newest checkpoint's size. See `merkle.Node`."""

    def entries(self, start: int, stop: int) -> list[bytes]:
        """The entries from index `start` up to `stop`, as far as there are any."""

    def prove(self, index: int) -> Logged:
        """An entry, proved by the newest checkpoint.

        Raises:
            ProofInvalid: there is no such entry.
        """

    def close(self) -> None:
        """Let go of files and connections."""


def check_consistent(log: Log, kept: Checkpoint) -> Checkpoint:
    """Whether a log still begins with the tree of a checkpoint that somebody kept; its newest checkpoint.

    Raises:
        ProofInvalid: it does not: entries were removed or rewritten.
    """
    now = checkpoint.read(log.checkpoint(), log.key)
    steps = consistency_proof(kept.size, now.size, log.node) if kept.size <= now.size else ()
    check_consistency(kept.size, kept.root, now.size, now.root, steps)
    return now
