from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneseek.errors import ProofInvalid
from oneseek.ledger.merkle import root
from oneseek.ledger.tiles import (
    LARGEST_ENTRY,
    WIDTH,
    Tile,
    decode_bundle,
    encode_bundle,
    node_in,
    parse_path,
    tile_at,
    tile_with,
)
from support.trees import Tree, entries

tiles = st.builds(
    Tile,
    st.none() | st.integers(0, 63),
    st.integers(0, 2000) | st.integers(0, (1 << 64) - 1),
    st.integers(1, WIDTH),
)


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 0), "tile/0/000"),
        (Tile(0, 273, 112), "tile/0/273.p/112"),
        (Tile(1, 999), "tile/1/999"),
        (Tile(1, 1000), "tile/1/x001/000"),
        (Tile(63, 1_234_067, 1), "tile/63/x001/x234/067.p/1"),
        (Tile(None, 1_234_067), "tile/entries/x001/x234/067"),
        (Tile(None, 0, 255), "tile/entries/000.p/255"),
    ],
)
def test_a_tile_has_the_path_of_the_specification(tile: Tile, path: str) -> None:
    assert tile.path == path
    assert parse_path(path) == tile


@given(tiles)
def test_every_tile_is_found_again_by_its_path(tile: Tile) -> None:
    assert parse_path(tile.path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile",
        "tile/0",
        "tile/0/",
        "tile//000",
        "/tile/0/000",
        "tile/0/000/",
        "tile/0/000\n",
        " tile/0/000",
        "TILE/0/000",
        "tile/00/000",
        "tile/01/000",
        "tile/-1/000",
        "tile/+1/000",
        "tile/64/000",
        "tile/99/000",
        "tile/100/000",
        "tile/0.0/000",
        "tile/data/000",
        "tile/entries",
        "tile/entries/0",
        "tile/0/0",
        "tile/0/00",
        "tile/0/0000",
        "tile/0/1000",
        "tile/0/x000",
        "tile/0/x000/001",
        "tile/0/x000/x001/001",
        "tile/0/001/001",
        "tile/0/X001/000",
        "tile/0/x001/x000",
        "tile/0/x01/000",
        "tile/0/x001//000",
        "tile/0/-01",
        "tile/0/../000",
        "tile/0/..",
        "tile/../0/000",
        "../tile/0/000",
        "tile/0/%2e%2e",
        "tile\\0\\000",
        "tile/0/000\x00",
        "tile/0/000.p",
        "tile/0/000.p/",
        "tile/0/000.p/0",
        "tile/0/000.p/01",
        "tile/0/000.p/-1",
        "tile/0/000.p/256",
        "tile/0/000.p/257",
        "tile/0/000.p/999",
        "tile/0/000.p/1000",
        "tile/0/000.p/1/",
        "tile/0/000.p/1.p/1",
        "tile/0/x001.p/000",
        "tile/0/\u0660\u0660\u0661",
        "tile/\u0661/000",
        "tile/0/000.p/\u0661",
        "tile/0/" + "x999/" * 6 + "9999",
        "tile/0/" + "x999/" * 7 + "999",
        "tile/0/" + "x999/" * 5000 + "999",
        "tile/0/" + "9" * 5000,
    ],
    ids=lambda path: ascii(path)[:40],
)
def test_a_path_that_no_tile_has_is_none(path: str) -> None:
    assert parse_path(path) is None


@given(st.from_regex(r"\Atile/([0-9]{1,3}|entries)/(x?[0-9]{1,4}/?){1,4}(\.p/[0-9]{0,4})?\Z"))
def test_no_tile_has_two_paths(path: str) -> None:
    tile = parse_path(path)

    assert tile is None or tile.path == path


def test_a_log_of_70000_entries_is_covered_as_the_specification_says() -> None:
    widths = {
        level: [tile_at(level, index, 70_000).width for index in (0, 1, 17, 272, 273, 274, 10_000)]
        for level in (0, 1, 2, 3, None)
    }

    assert widths == {
        0: [256, 256, 256, 256, 112, 0, 0],
        1: [256, 17, 0, 0, 0, 0, 0],
        2: [1, 0, 0, 0, 0, 0, 0],
        3: [0, 0, 0, 0, 0, 0, 0],
        None: [256, 256, 256, 256, 112, 0, 0],
    }


@pytest.mark.parametrize(("size", "widths"), [(0, [0, 0]), (1, [1, 0]), (255, [255, 0]), (256, [256, 1])])
def test_a_small_log_has_one_tile_until_that_is_full(size: int, widths: list[int]) -> None:
    assert [tile_at(level, 0, size).width for level in (0, 1)] == widths


SIZE = 1200
TREE = Tree(entries(SIZE))


def test_every_complete_subtree_is_found_in_its_tile() -> None:
    for (level, index), found in TREE.nodes.items():
        tile = tile_with(level, index, SIZE)

        assert node_in(TREE.tile(tile), level, index) == found
        assert tile == tile_at(tile.level, tile.index, SIZE)


def test_a_full_tile_is_one_hash_of_the_tile_above_it() -> None:
    below = [TREE.entries[index * WIDTH : (index + 1) * WIDTH] for index in range(4)]

    assert TREE.tile(Tile(1, 0, 4)) == b"".join(root(WIDTH, Tree(each).node) for each in below)


@pytest.mark.parametrize(("level", "index"), [(0, 1199), (1, 599), (2, 299), (8, 3), (10, 0)])
def test_a_tile_that_is_too_short_for_a_subtree_is_refused(level: int, index: int) -> None:
    tile = tile_with(level, index, SIZE)
    needed = tile.width * 32

    node_in(TREE.tile(tile), level, index)
    for short in (needed - 1, needed - 32, 0):
        with pytest.raises(ProofInvalid, match="too short"):
            node_in(TREE.tile(tile)[:short], level, index)


some_entries = st.lists(st.binary(max_size=300), max_size=20)


@given(some_entries)
def test_a_bundle_holds_the_entries_that_were_put_into_it(found: list[bytes]) -> None:
    assert decode_bundle(encode_bundle(found)) == found


def test_a_bundle_gives_each_length_in_two_bytes_the_larger_one_first() -> None:
    assert encode_bundle([b"one", b"", b"x" * 258]) == b"\x00\x03one" + b"\x00\x00" + b"\x01\x02" + b"x" * 258


def test_a_bundle_holds_the_largest_entry() -> None:
    largest = b"x" * LARGEST_ENTRY

    assert decode_bundle(encode_bundle([largest])) == [largest]
    with pytest.raises(OverflowError):
        encode_bundle([largest + b"x"])


@given(some_entries.filter(bool), st.data())
def test_a_bundle_that_is_cut_off_is_refused_or_ends_at_an_entry(found: list[bytes], data: st.DataObject) -> None:
    whole = encode_bundle(found)
    cut = data.draw(st.integers(0, len(whole) - 1))
    ends = [len(encode_bundle(found[:count])) for count in range(len(found))]

    if cut in ends:
        assert decode_bundle(whole[:cut]) == found[: ends.index(cut)]
    else:
        with pytest.raises(ProofInvalid, match="cut off"):
            decode_bundle(whole[:cut])
