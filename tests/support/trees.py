"""A log's tree in memory, grown leaf by leaf."""

from __future__ import annotations

from collections.abc import Sequence

from oneseek.ledger.merkle import Hash, completed, leaf_hash
from oneseek.ledger.tiles import Tile


class Tree:
    """`node` is its `merkle.Node`."""

    def __init__(self, entries: Sequence[bytes]) -> None:
        self.entries = entries
        self.nodes: dict[tuple[int, int], Hash] = {}
        for index, entry in enumerate(entries):
            for level, at, found in completed(index, leaf_hash(entry), self.node):
                assert (level, at) not in self.nodes
                self.nodes[level, at] = found

    def node(self, level: int, index: int) -> Hash:
        return self.nodes[level, index]

    def tile(self, tile: Tile) -> bytes:
        """The bytes of a tile of hashes."""
        return b"".join(self.nodes[tile.node_level, tile.start + i] for i in range(tile.width))


def entries(count: int) -> list[bytes]:
    """As many entries, no two of them alike."""
    return [b"entry %d" % index for index in range(count)]
