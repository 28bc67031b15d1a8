from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from oneseek.errors import StorageError
from oneseek.files import durable


def test_a_file_is_written_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    durable.write_bytes(tmp_path / "a.json", b"new")

    assert (tmp_path / "a.json").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_disk_leaves_the_old_bytes_and_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    target = tmp_path / "a.json"
    target.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((os, "fsync", full) if step == "fsync" else (Path, "replace", full)))

    with pytest.raises(StorageError, match=r"a\.json could not be written: no space is left") as failed:
        durable.write_bytes(target, b"new")
    assert "Free some space" in failed.value.fix
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_every_write_reaches_the_disk_before_its_name_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(descriptor: int) -> None:
        calls.append("fsync")
        fsync(descriptor)

    def noted_replace(self: Path, target: Path) -> Path:
        calls.append("replace")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)

    durable.write_bytes(tmp_path / "a", b"x")

    assert calls == ["fsync", "replace", "fsync"]


def test_json_never_holds_a_number_that_json_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        durable.write_json(tmp_path / "a.json", {"loss": float("nan")})

    assert not any(tmp_path.iterdir())


def test_of_many_that_create_one_name_exactly_one_does(tmp_path: Path) -> None:
    made = [durable.create_exclusively(tmp_path / "v1", str(n).encode()) for n in range(5)]

    assert made == [True, False, False, False, False]
    assert (tmp_path / "v1").read_bytes() == b"0"


def test_what_could_not_be_written_whole_does_not_take_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="no space is left"):
            durable.create_exclusively(tmp_path / "v1", b"first")

    assert not (tmp_path / "v1").exists()
    assert durable.create_exclusively(tmp_path / "v1", b"second")


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The directories whose names were made durable."""
    synced: list[Path] = []
    sync = durable.sync_directory

    def noted(path: Path) -> None:
        synced.append(path)
        sync(path)

    monkeypatch.setattr(durable, "sync_directory", noted)
    return synced


def test_a_directory_is_made_with_those_above_it_and_all_are_on_disk(tmp_path: Path, on_disk: list[Path]) -> None:
    made = tmp_path / "home" / "keys"

    for _ in range(2):
        durable.make_directory(made, mode=0o700)

    assert made.stat().st_mode & 0o777 == 0o700
    assert made.parent.stat().st_mode & 0o077
    assert on_disk == [tmp_path, made.parent]


def write_a_file(target: Path) -> None:
    durable.create_exclusively(target, b"x")


def write_a_directory(target: Path) -> None:
    durable.write_directory(target, {"a/b/c.json": b"x"})


def copy_a_file(target: Path) -> None:
    durable.copy_file(Path(__file__), target)


@pytest.mark.parametrize("write", [write_a_file, write_a_directory, copy_a_file])
def test_whatever_is_written_the_folders_made_for_it_are_on_disk(
    tmp_path: Path, on_disk: list[Path], write: Callable[[Path], None]
) -> None:
    write(tmp_path / "home" / "models" / "target")

    assert {tmp_path, tmp_path / "home", tmp_path / "home" / "models"} <= set(on_disk)


def test_of_a_copied_tree_every_folder_is_on_disk(tmp_path: Path, on_disk: list[Path]) -> None:
    durable.write_directory(tmp_path / "source", {"a/b/c.json": b"x"})
    on_disk.clear()

    durable.copy_tree(tmp_path / "source", tmp_path / "target")

    copied = tmp_path / "target.tmp"
    assert {copied, copied / "a", copied / "a" / "b", tmp_path} <= set(on_disk)


def test_a_link_is_swapped_and_always_resolves(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    link = tmp_path / "CURRENT"

    durable.point(link, "one")
    durable.point(link, "two")

    assert link.resolve() == (tmp_path / "two").resolve()
    assert str(link.readlink()) == "two"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["CURRENT", "one", "two"]


def test_an_existing_copy_is_left_alone(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    (source / "a").write_text("new")
    target.mkdir()

    durable.copy_tree(source, target)

    assert not any(target.iterdir())


def test_sweeping_removes_what_interrupted_writes_left(tmp_path: Path) -> None:
    (tmp_path / "deep" / "epoch-1.tmp").mkdir(parents=True)
    (tmp_path / "a.json.tmp").write_text("half")
    (tmp_path / "a.json").write_text("whole")

    removed = durable.sweep(tmp_path)

    assert sorted(removed) == ["a.json.tmp", "epoch-1.tmp"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.json", "deep"]
