"""Checkpoints are whole, or not there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oneseek.engine import checkpoint
from oneseek.engine.checkpoint import START, Position
from oneseek.errors import StorageError, WorkerFailed

FILES = {"state.bin": b"weights" * 40, "state.json": b'{"epoch": 1}\n'}


def test_a_checkpoint_is_read_as_it_was_written(tmp_path: Path) -> None:
    digest = checkpoint.write(tmp_path, Position(1), FILES)

    assert checkpoint.read(tmp_path, Position(1)) == FILES
    assert digest == hashlib.sha256((tmp_path / "epoch-1" / "manifest.json").read_bytes()).hexdigest()


def test_the_manifest_names_every_file_with_digest_and_size(tmp_path: Path) -> None:
    checkpoint.write(tmp_path, Position(1), FILES)

    manifest = json.loads((tmp_path / "epoch-1" / "manifest.json").read_text())

    assert list(manifest) == sorted(FILES)
    for name, data in FILES.items():
        assert manifest[name] == {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}


def test_equal_files_give_an_equal_manifest_in_any_order(tmp_path: Path) -> None:
    one = checkpoint.write(tmp_path, Position(1), FILES)
    two = checkpoint.write(tmp_path, Position(2), dict(reversed(FILES.items())))

    assert one == two


def test_leftovers_of_an_interrupted_write_are_replaced(tmp_path: Path) -> None:
    for name in ("epoch-1.tmp", "epoch-1.old.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_bytes(b"x")

    checkpoint.write(tmp_path, Position(1), FILES)

    assert {path.name for path in tmp_path.iterdir()} == {"epoch-1"}
    assert checkpoint.read(tmp_path, Position(1)) == FILES


def test_a_checkpoint_that_is_there_is_replaced_whole(tmp_path: Path) -> None:
    checkpoint.write(tmp_path, Position(1), {"other": b"1"})

    checkpoint.write(tmp_path, Position(1), FILES)

    assert {path.name for path in tmp_path.iterdir()} == {"epoch-1"}
    assert checkpoint.read(tmp_path, Position(1)) == FILES


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(data=st.data())
def test_one_flipped_bit_anywhere_is_found_and_its_file_named(tmp_path: Path, data: st.DataObject) -> None:
    checkpoint.write(tmp_path, Position(3), FILES)
    path = tmp_path / "epoch-3" / data.draw(st.sampled_from([*FILES, "manifest.json"]))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)

    with pytest.raises(WorkerFailed) as failed:
        checkpoint.read(tmp_path, Position(3))

    # A flip in the manifest may blame the file whose entry it spoils; either way the epoch is not used.
    assert "epoch-3/" in failed.value.problem
    assert path.name in failed.value.problem or path.name == "manifest.json"


@pytest.mark.parametrize("change", ["missing", "truncated", "extra", "empty manifest", "no manifest"])
def test_a_file_too_few_too_many_or_too_short_is_found(tmp_path: Path, change: str) -> None:
    checkpoint.write(tmp_path, Position(1), FILES)
    directory = tmp_path / "epoch-1"
    match change:
        case "missing":
            (directory / "state.bin").unlink()
        case "truncated":
            (directory / "state.bin").write_bytes(FILES["state.bin"][:-1])
        case "extra":
            (directory / "more.bin").write_bytes(b"")
        case "empty manifest":
            (directory / "manifest.json").write_bytes(b"")
        case _:
            (directory / "manifest.json").unlink()

    with pytest.raises(WorkerFailed):
        checkpoint.read(tmp_path, Position(1))


def test_the_newest_intact_one_is_found_and_the_damaged_ones_are_named(tmp_path: Path) -> None:
    for epoch in (1, 2, 3, 10):
        checkpoint.write(tmp_path, Position(epoch), {**FILES, "epoch": str(epoch).encode()})
    for epoch in (3, 10):
        (tmp_path / f"epoch-{epoch}" / "state.bin").write_bytes(b"")

    position, files, damaged = checkpoint.newest_intact(tmp_path, at_most=Position(10))

    assert (position, files["epoch"]) == (Position(2), b"2")
    assert [lost for lost, _ in damaged] == [Position(10), Position(3)]
    assert "epoch-10/state.bin" in damaged[0][1]


def test_checkpoints_after_the_wanted_epoch_do_not_count(tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        checkpoint.write(tmp_path, Position(epoch), FILES)

    assert checkpoint.newest_intact(tmp_path, at_most=Position(2))[0] == Position(2)
    assert checkpoint.newest_intact(tmp_path, at_most=Position(0)) == (START, {}, [])


def test_a_directory_without_checkpoints_is_epoch_zero(tmp_path: Path) -> None:
    (tmp_path / "epoch-2.tmp").mkdir()
    (tmp_path / "export").mkdir()

    assert checkpoint.newest_intact(tmp_path, at_most=Position(9)) == (START, {}, [])
    assert checkpoint.newest_intact(tmp_path / "nowhere", at_most=Position(9)) == (START, {}, [])


def test_pruning_keeps_what_it_is_told_to_keep(tmp_path: Path) -> None:
    for epoch in range(1, 6):
        checkpoint.write(tmp_path, Position(epoch), FILES)
    (tmp_path / "export").mkdir()

    checkpoint.prune(tmp_path, keep=set(map(Position, (2, 4, 5, 9))))

    assert {path.name for path in tmp_path.iterdir()} == {"epoch-2", "epoch-4", "epoch-5", "export"}


def test_steps_inside_an_epoch_stand_between_the_epochs(tmp_path: Path) -> None:
    for position in (Position(1), Position(1, 9), Position(1, 20), Position(2)):
        checkpoint.write(tmp_path, position, FILES)

    positions = (Position(2), Position(1, 30), Position(1, 19), Position(1, 8))
    found = [checkpoint.newest_intact(tmp_path, at_most)[0] for at_most in positions]

    assert found == [(2, 0), (1, 20), (1, 9), (1, 0)]
    assert {path.name for path in tmp_path.iterdir()} == {"epoch-1", "epoch-2-step-9", "epoch-2-step-20", "epoch-2"}


@pytest.mark.parametrize(("keep", "left"), [(1, {"step-30"}), (2, {"step-9", "step-30"}), (5, {"step-9", "step-30"})])
def test_of_the_steps_inside_an_epoch_the_newest_stay(tmp_path: Path, keep: int, left: set[str]) -> None:
    for position in (Position(1), Position(1, 9), Position(1, 30)):
        checkpoint.write(tmp_path, position, FILES)

    checkpoint.prune_steps(tmp_path, keep)

    assert {path.name for path in tmp_path.iterdir()} == {"epoch-1"} | {f"epoch-2-{name}" for name in left}


def test_a_directory_that_can_not_be_written_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(StorageError) as failed:
        checkpoint.write(tmp_path / "file", Position(1), FILES)

    assert "epoch-1" in failed.value.problem
