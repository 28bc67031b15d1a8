"""How a log is laid out to be read: tiles of 256 hashes and bundles of 256 entries (c2sp.org/tlog-tiles)."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from oneseek.errors import ProofInvalid
from oneseek.ledger.merkle import HASH_BYTES, Hash, node_hash

WIDTH = 256
HEIGHT = 8
LARGEST_ENTRY = (1 << 16) - 1
"""Bytes: a bundle gives an entry's length in 16 bits."""

# Seven groups of three digits hold any index below 2^64; without a bound, a path would be a number of any length.
_PATH = re.compile(
    r"tile/(?:(?P<level>0|[1-9]\d?)|entries)/(?P<index>(?:x\d{3}/){0,6}\d{3})(?:\.p/(?P<width>[1-9]\d{0,2}))?"
)
_HIGHEST_LEVEL = 63


class Tile(msgspec.Struct, frozen=True):
    """Tile `index` of a level, or bundle `index` of entries where `level` is None; partial where `width` is below 256.

    Hash i of a tile at level L is the root over leaves (256·index + i)·256^L and the 256^L - 1 behind it.
    """

    level: int | None
    index: int
    width: int = WIDTH

    @property
    def path(self) -> str:
        """`tile/0/x001/x234/067`, `tile/entries/000.p/3`."""
        parts = [f"{self.index % 1000:03}"]
        rest = self.index // 1000
        while rest:
            parts.insert(0, f"x{rest % 1000:03}")
            rest //= 1000
        kind = "entries" if self.level is None else self.level
        return f"tile/{kind}/{'/'.join(parts)}" + (f".p/{self.width}" if self.width < WIDTH else "")

    @property
    def node_level(self) -> int:
        """The tree's level of this tile's hashes."""
        return (self.level or 0) * HEIGHT

    @property
    def start(self) -> int:
        """The index, on that level, of its first hash (or of a bundle's first entry)."""
        return self.index * WIDTH


def parse_path(path: str) -> Tile | None:
    """The tile that a path means; None where it is no tile's path, or not the way in which it is written."""
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    level = None if match["level"] is None else int(match["level"])
    index = int(match["index"].replace("x", "").replace("/", ""))
    tile = Tile(level, index, int(match["width"] or WIDTH))
    return tile if (level or 0) <= _HIGHEST_LEVEL and tile.path == path else None


def tile_with(level: int, index: int, size: int) -> Tile:
    """The tile, in a log of `size` entries, from which the hash of a complete subtree is computed."""
    up, below = divmod(level, HEIGHT)
    first = index << below
    return tile_at(up, first // WIDTH, size)


def tile_at(level: int | None, index: int, size: int) -> Tile:
    """A tile as wide as a log of `size` entries fills it: 0 where it does not reach so far."""
    hashes = size >> (HEIGHT * (level or 0))
    return Tile(level, index, min(WIDTH, max(0, hashes - index * WIDTH)))


def node_in(data: bytes, level: int, index: int) -> Hash:
    """The hash of a complete subtree, from the bytes of its tile.

    Raises:
        ProofInvalid: the tile does not reach so far.
    """
    below = level % HEIGHT
    first = (index << below) % WIDTH
    hashes = [data[i * HASH_BYTES : (i + 1) * HASH_BYTES] for i in range(first, first + (1 << below))]
    if len(hashes[-1]) != HASH_BYTES:
        raise ProofInvalid("The log served a tile that is too short.")
    while len(hashes) > 1:
        hashes = [node_hash(left, right) for left, right in zip(hashes[::2], hashes[1::2], strict=True)]
    return hashes[0]


def encode_bundle(entries: Iterable[bytes]) -> bytes:
    """Entries one after the other, each behind its length as two big-endian bytes."""
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def decode_bundle(data: bytes) -> list[bytes]:
    """The entries of a bundle.

    Raises:
        ProofInvalid: it ends in the middle of one.
    """
    entries, at = [], 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 2], "big")
        entry = data[at + 2 : at + 2 + length]
        if len(data) - at < 2 or len(entry) != length:
            raise ProofInvalid("The log served a bundle that is cut off.")
        entries.append(entry)
        at += 2 + length
    return entries
