"""Datasets that a home keeps under the hash of their content."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from filelock import FileLock, Timeout
from hypothesis import given
from hypothesis import strategies as st

from oneseek.datasets import store
from oneseek.datasets.read import scan
from oneseek.datasets.scan import ProblemGroup, RowProblem
from oneseek.datasets.store import LONGEST_NAME, Stored, add, find, get, keep, listing, path_of, remove
from oneseek.errors import DatasetError, DatasetUnknown, StorageError
from oneseek.files.durable import copy_file
from oneseek.files.layout import Home

ROWS = '{"text": "one"}\n{"text": "two"}\n{"text": ""}\n{"text": 3}\n'


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home", tmp_path / "home" / "models")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text(ROWS)
    return path


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_dataset_is_kept_under_the_hash_of_its_content_with_what_is_known_of_it(home: Home, file: Path) -> None:
    stored, _ = add(home, file, now=lambda: datetime(2026, 11, 21, 7, 19, tzinfo=UTC))

    assert stored == Stored(
        name="rows.jsonl",
        sha256=sha256(ROWS),
        size_bytes=len(ROWS),
        format="text",
        container="jsonl",
        rows=2,
        bad_rows=(
            ProblemGroup(kind="empty-content", count=1, examples=(RowProblem(3, "'text' is empty"),)),
            ProblemGroup(kind="wrong-type", count=1, examples=(RowProblem(4, "'text' is a number, not text"),)),
        ),
        added_at="2026-11-21T07:19:00Z",
    )
    assert path_of(home, stored).read_text() == ROWS
    assert json.loads((home.datasets / f"{stored.sha256}.meta.json").read_text())["name"] == "rows.jsonl"
    assert listing(home).datasets == (stored,)


def test_the_same_content_is_one_entry_and_a_new_name_renames_it(home: Home, file: Path, tmp_path: Path) -> None:
    first, _ = add(home, file)

    again = add(home, write(tmp_path / "copy.jsonl", ROWS))
    renamed, before = add(home, file, "town")

    assert again == (first, None)
    assert (renamed.name, renamed.added_at, before) == ("town", first.added_at, "rows.jsonl")
    assert listing(home).datasets == (renamed,)
    assert add(home, file, "town") == (renamed, None)


@pytest.mark.parametrize("name", [None, "rows.jsonl"], ids=["its own", "given"])
@pytest.mark.parametrize("there", [False, True], ids=["new", "kept already"])
def test_a_name_that_other_content_has_is_refused_with_that_one_named(
    home: Home, file: Path, tmp_path: Path, name: str | None, there: bool
) -> None:
    first, _ = add(home, file)
    (tmp_path / "other").mkdir()
    other = write(tmp_path / "other" / "rows.jsonl", '{"text": "three"}\n')
    if there:
        add(home, other, "town")
        name = "rows.jsonl"
    before = listing(home)

    with pytest.raises(DatasetError, match=r"'rows\.jsonl' is taken") as caught:
        add(home, other, name)

    assert first.sha256[:12] in caught.value.problem
    assert f"oneseek data remove {first.sha256[:12]}" in caught.value.fix
    assert listing(home) == before
    assert get(home, "rows.jsonl") == first


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv"])
def test_every_container_is_kept_with_its_ending_and_found(home: Home, tmp_path: Path, ending: str) -> None:
    texts = {"jsonl": '{"text": "one"}\n', "json": '[{"text": "one"}]', "csv": "text\none\n"}

    stored, _ = add(home, write(tmp_path / f"rows.{ending}", texts[ending]))

    assert stored.container == ending
    assert find(home, f"rows.{ending}") == home.datasets / f"{stored.sha256}.{ending}"


@pytest.mark.parametrize("length", [8, 12, 64])
def test_a_dataset_is_found_by_its_name_and_by_the_beginning_of_its_hash(home: Home, file: Path, length: int) -> None:
    stored, _ = add(home, file, "town")

    assert get(home, "town") == stored
    assert get(home, stored.sha256[:length].upper()) == stored
    assert find(home, stored.sha256[:length]) == path_of(home, stored)


def test_a_name_that_two_datasets_have_needs_the_hash(home: Home, file: Path, tmp_path: Path) -> None:
    first, _ = add(home, file, "town")
    second, _ = add(home, write(tmp_path / "other.jsonl", '{"text": "three"}\n'), "city")
    meta(home, second).write_text(meta(home, second).read_text().replace("city", "town"))
    second = msgspec.structs.replace(second, name="town")

    with pytest.raises(DatasetError, match="2 stored datasets") as caught:
        get(home, "town")

    assert first.sha256[:12] in caught.value.problem
    assert second.sha256[:12] in caught.value.problem
    assert get(home, second.sha256[:12]) == second


def test_a_name_that_nothing_has_is_refused_with_the_names_that_there_are(home: Home, file: Path) -> None:
    with pytest.raises(DatasetUnknown, match="none is stored"):
        get(home, "village")
    add(home, file, "town")

    with pytest.raises(DatasetError, match="there are 'town'"):
        get(home, "village")
    with pytest.raises(DatasetError, match="there are 'town'") as caught:
        remove(home, "village")
    assert "oneseek data list" in caught.value.fix
    assert find(home, "village") is None


def test_a_file_that_somebody_put_there_is_found_by_its_name_alone(home: Home, file: Path) -> None:
    home.datasets.mkdir(parents=True)
    shutil.copy(file, home.datasets / "plain.jsonl")
    shutil.copy(file, home.root / "secret.jsonl")

    assert find(home, "plain.jsonl") == home.datasets / "plain.jsonl"
    assert find(home, "../secret.jsonl") is None
    assert listing(home).datasets == ()


@pytest.mark.parametrize("given", ["", ".", "..", "a\0b", "x" * 5000, "statistics"])
def test_looking_for_a_strange_name_finds_nothing(home: Home, file: Path, given: str) -> None:
    add(home, file)
    home.statistics.mkdir()

    assert find(home, given) is None


@pytest.mark.parametrize(
    "name",
    [
        *("", " ", "..", "a/b", "..\\b", "/etc/passwd", "a\0b", "a\nb", "\x1b[2J", "a\u202eb", "\ud800", " a", "-rf"),
        *("x" * (LONGEST_NAME + 1), "deadbeef", "AB" * 32),
    ],
    ids=range(16),
)
def test_a_name_that_could_mislead_is_refused_and_nothing_is_written(home: Home, file: Path, name: str) -> None:
    with pytest.raises(DatasetError, match="cannot be the name") as caught:
        add(home, file, name)

    assert "--name" in caught.value.fix
    assert str(caught.value).isprintable()
    assert not home.root.exists()


@given(st.text(max_size=LONGEST_NAME + 5))
def test_a_name_is_taken_or_refused_and_never_anything_else(name: str) -> None:
    try:
        taken = store.checked(name)
    except DatasetError as error:
        assert str(error).isprintable()  # noqa: PT017
    else:
        assert taken == name
        assert name.isprintable()
        assert not set(name) & set("/\\")


def test_a_file_that_is_no_dataset_is_refused_and_nothing_is_written(home: Home, tmp_path: Path) -> None:
    with pytest.raises(DatasetError):
        add(home, write(tmp_path / "notes.txt", "not rows\n"))

    assert not home.root.exists()


def test_a_removed_dataset_is_gone_with_its_description(home: Home, file: Path) -> None:
    stored, _ = add(home, file)

    assert remove(home, "rows.jsonl") == stored
    assert [path.name for path in home.datasets.iterdir() if path.name != ".store.lock"] == []


def test_a_file_that_is_moved_in_is_taken_and_what_is_there_already_leaves_it_where_it_is(
    home: Home, tmp_path: Path
) -> None:
    home.uploads.mkdir(parents=True)
    first, again = write(home.uploads / "1.jsonl", ROWS), write(home.uploads / "2.jsonl", ROWS)
    inode = first.stat().st_ino

    stored, _ = keep(home, first, scan(first), "town", move=True)
    same = keep(home, again, scan(again), "city", move=True, rename=False)

    assert (path_of(home, stored).stat().st_ino, first.exists()) == (inode, False)
    assert (same, again.exists()) == ((stored, None), True)
    assert path_of(home, stored).read_text() == ROWS


def test_a_file_that_changed_before_it_is_moved_in_is_not_kept(home: Home) -> None:
    home.uploads.mkdir(parents=True)
    file = write(home.uploads / "1.jsonl", ROWS)
    found = scan(file)
    file.write_text(ROWS + "more")

    with pytest.raises(DatasetError, match="changed while it was read"):
        keep(home, file, found, "town", move=True)

    assert listing(home) == store.Listing(datasets=(), damaged=())


def test_who_refuses_that_a_dataset_is_removed_is_told_its_hash_and_it_stays(home: Home, file: Path) -> None:
    stored, _ = add(home, file, "town")

    def refuse(sha256: str) -> None:
        raise DatasetError(f"{sha256} stays.")

    with pytest.raises(DatasetError, match=f"{stored.sha256} stays"):
        remove(home, "town", refuse)

    assert get(home, "town") == stored


# -- what breaks ---------------------------------------------------------------------------------------------------


def lose_file(home: Home, stored: Stored) -> None:
    path_of(home, stored).unlink()


def change_size(home: Home, stored: Stored) -> None:
    path_of(home, stored).write_text(ROWS + ROWS)


def change_content(home: Home, stored: Stored) -> None:
    path_of(home, stored).write_text(ROWS.replace("one", "six"))


def meta(home: Home, stored: Stored) -> Path:
    return home.datasets / f"{stored.sha256}.meta.json"


def lose_description(home: Home, stored: Stored) -> None:
    meta(home, stored).unlink()


def cut_description(home: Home, stored: Stored) -> None:
    meta(home, stored).write_bytes(meta(home, stored).read_bytes()[:40])


def not_text(home: Home, stored: Stored) -> None:
    meta(home, stored).write_bytes(b'{"name": "\xff"}')


def anothers_description(home: Home, stored: Stored) -> None:
    meta(home, stored).write_text(meta(home, stored).read_text().replace(stored.sha256, "0" * 64))


def hostile_name(home: Home, stored: Stored) -> None:
    meta(home, stored).write_text(meta(home, stored).read_text().replace("rows.jsonl", "../../etc/passwd"))


DAMAGE = [lose_file, change_size, change_content, lose_description, cut_description, not_text]
DAMAGE += [anothers_description, hostile_name]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_damage_is_told_with_a_fix_and_adding_the_file_again_mends_it(home: Home, file: Path, damage: object) -> None:
    stored, _ = add(home, file)
    assert callable(damage)

    damage(home, stored)

    with pytest.raises(DatasetError, match=stored.sha256[:12]) as caught:
        find(home, stored.sha256[:12])
    assert "oneseek data add" in caught.value.fix
    assert add(home, file)[0].sha256 == stored.sha256
    assert get(home, "rows.jsonl").sha256 == stored.sha256
    assert path_of(home, stored).read_text() == ROWS


@pytest.mark.parametrize(
    "damage", [each for each in DAMAGE if each is not change_content], ids=lambda damage: damage.__name__
)
def test_damaged_entries_are_listed_and_can_be_removed(home: Home, file: Path, damage: object) -> None:
    stored, _ = add(home, file)
    assert callable(damage)

    damage(home, stored)

    assert [each.sha256 for each in listing(home).damaged] == [stored.sha256]
    assert listing(home).datasets == ()
    remove(home, stored.sha256[:12])
    assert listing(home) == store.Listing(datasets=(), damaged=())


def test_a_file_that_changes_while_it_is_copied_is_not_kept(
    home: Home, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(source: Path, target: Path) -> None:
        source.write_text(ROWS + "more")
        copy_file(source, target)

    monkeypatch.setattr(store, "copy_file", changed)

    with pytest.raises(DatasetError, match="changed while it was read"):
        add(home, file)
    assert listing(home) == store.Listing(datasets=(), damaged=())


def test_a_full_disk_leaves_nothing_behind(home: Home, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: str, target: Path) -> None:
        target.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)

    with pytest.raises(StorageError, match="no space is left"):
        add(home, file)
    assert [path.name for path in home.datasets.iterdir() if path.name != ".store.lock"] == []


def test_a_file_whose_description_is_lost_is_mended_by_adding_itself(home: Home, file: Path) -> None:
    stored, _ = add(home, file, "town")
    (home.datasets / f"{stored.sha256}.meta.json").unlink()
    file.unlink()

    mended, _ = add(home, path_of(home, stored), "town")

    assert mended.sha256 == stored.sha256
    assert path_of(home, mended).read_text() == ROWS


def test_what_the_store_keeps_for_itself_is_no_dataset(home: Home, file: Path) -> None:
    stored, _ = add(home, file)

    assert find(home, f"{stored.sha256}.meta.json") is None
    assert [find(home, path.name) for path in home.datasets.iterdir() if path.name.startswith(".")] in ([None], [])


def test_two_at_once_wait_for_each_other(home: Home, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside: list[bool] = []

    def copied(source: Path, target: Path) -> None:
        lock = next(path for path in home.datasets.iterdir() if path.name.startswith("."))
        try:
            FileLock(lock, timeout=0.05).acquire()
            inside.append(True)
        except Timeout:
            inside.append(False)
        copy_file(source, target)

    monkeypatch.setattr(store, "copy_file", copied)

    add(home, file)

    assert inside == [False]
