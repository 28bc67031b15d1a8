"""The tree of a log that is served as tiles: nothing of it is believed before it led to the signed root."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from oneseek.errors import ProofInvalid
from oneseek.ledger.merkle import HASH_BYTES, Hash, leaf_hash, node_hash, root
from oneseek.ledger.tiles import HEIGHT, WIDTH, Tile, decode_bundle, node_in, tile_at, tile_with

_TILES_KEPT = 512  # 8 KiB each
_BUNDLES_KEPT = 2  # 16 MiB each at most


class ServedTree:
    """The tree of a checkpoint: `size` entries, and its root. Every method raises ProofInvalid for what is not in it.

    read: the bytes of a tile or of a bundle of entries, as they are served.

    The tiles at the right edge, which are partial, make up the root and are checked against it together; a full tile
    is checked against its hash in the tile above it, and a bundle of entries against the tile of their leaves.
    """

    def __init__(self, size: int, top: Hash, read: Callable[[Tile], bytes]) -> None:
        self.size, self.root = size, top
        self._read = read
        self._edge: dict[Tile, bytes] = {}
        self._tile = lru_cache(_TILES_KEPT)(self._checked_tile)
        self._bundle = lru_cache(_BUNDLES_KEPT)(self._checked_bundle)
        if root(size, self._edge_node) != top:
            raise ProofInvalid(f"The tiles of its {size} entries lead to another root than its checkpoint's.")

    def node(self, level: int, index: int) -> Hash:
        """The hash of a complete subtree. See `merkle.Node`."""
        if (index + 1) << level > self.size:
            raise ValueError(f"a tree of {self.size} leaves has no complete subtree {index} on level {level}")
        return node_in(self._tile(tile_with(level, index, self.size)), level, index)

    def entries(self, start: int, stop: int) -> list[bytes]:
        """The entries from index `start` up to `stop`, as far as there are any."""
        stop = min(stop, self.size)
        found: list[bytes] = []
        for number in range(start // WIDTH, -(-stop // WIDTH)):
            first = number * WIDTH
            bundle = self._bundle(tile_at(None, number, self.size))
            found += bundle[max(start - first, 0) : stop - first]
        return found

    def _edge_node(self, level: int, index: int) -> Hash:
        tile = tile_with(level, index, self.size)
        if tile not in self._edge:
            self._edge[tile] = self._whole(tile)
        return node_in(self._edge[tile], level, index)

    def _checked_tile(self, tile: Tile) -> bytes:
        if tile.width < WIDTH:
            return self._edge[tile]
        data = self._whole(tile)
        halves = [node_in(data, HEIGHT - 1, half) for half in (0, 1)]
        if node_hash(*halves) != self.node(tile.node_level + HEIGHT, tile.index):
            raise ProofInvalid(f"{tile.path} does not lead to its checkpoint's root.")
        return data

    def _checked_bundle(self, tile: Tile) -> list[bytes]:
        entries = decode_bundle(self._read(tile))
        if b"".join(map(leaf_hash, entries)) != self._tile(Tile(0, tile.index, tile.width)):
            raise ProofInvalid(f"The entries of {tile.path} are not those of its checkpoint.")
        return entries

    def _whole(self, tile: Tile) -> bytes:
        data = self._read(tile)
        if len(data) != tile.width * HASH_BYTES:
            raise ProofInvalid(f"{tile.path} has {len(data)} bytes instead of {tile.width * HASH_BYTES}.")
        return data
