"""Files that are kept between runs, and what happens when they can't be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from oneseek.datasets import token_cache
from oneseek.datasets.token_cache import TokenCache

CONTENT = bytes(range(200))


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_what_was_put_is_got_and_can_be_written_to(tmp_path: Path) -> None:
    cache = TokenCache(tmp_path / "deep" / "cache")
    cache.put("key", CONTENT)

    found = cache.get("key")

    assert found is not None
    assert (bytes(found), found.readonly) == (CONTENT, False)
    assert names(cache.directory) == ["key.tokens"]


def test_what_was_never_put_is_missed_in_silence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert TokenCache(tmp_path).get("key") is None
    assert TokenCache(tmp_path / "nowhere").get("key") is None
    assert not caplog.messages


@pytest.mark.parametrize("place", [0, 31, 32, -1])
def test_a_byte_that_changed_is_found(tmp_path: Path, caplog: pytest.LogCaptureFixture, place: int) -> None:
    cache = TokenCache(tmp_path)
    cache.put("key", CONTENT)
    file = tmp_path / "key.tokens"
    damaged = bytearray(file.read_bytes())
    damaged[place] ^= 1
    file.write_bytes(damaged)

    assert cache.get("key") is None
    assert caplog.messages == [f"{file} is damaged, so its rows are encoded again."]


@pytest.mark.parametrize("length", [0, 10, 32, 231])
def test_a_file_that_was_cut_is_found(tmp_path: Path, length: int) -> None:
    cache = TokenCache(tmp_path)
    cache.put("key", CONTENT)
    os.truncate(tmp_path / "key.tokens", length)

    assert cache.get("key") is None


def test_a_file_under_another_key_is_not_taken_for_its_own(tmp_path: Path) -> None:
    cache = TokenCache(tmp_path)
    cache.put("key", CONTENT)
    (tmp_path / "key.tokens").rename(tmp_path / "other.tokens")

    assert cache.get("other") is None


def test_what_was_used_last_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_cache, "FILES_KEPT", 3)
    cache = TokenCache(tmp_path)
    for age, key in enumerate(("a", "b", "c")):
        cache.put(key, CONTENT)
        os.utime(tmp_path / f"{key}.tokens", (age, age))

    cache.get("a")
    cache.put("d", CONTENT)

    assert names(tmp_path) == ["a.tokens", "c.tokens", "d.tokens"]


def test_files_are_kept_up_to_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_cache, "BYTES_KEPT", 2 * (32 + len(CONTENT)))
    cache = TokenCache(tmp_path)
    for age, key in enumerate(("a", "b", "c")):
        cache.put(key, CONTENT)
        os.utime(tmp_path / f"{key}.tokens", (age, age))

    cache.put("too large", CONTENT * 3)

    assert names(tmp_path) == ["b.tokens", "c.tokens"]


def test_what_an_interrupted_write_left_is_removed_when_it_is_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_cache, "FILES_KEPT", 1)
    (tmp_path / "broken-off.tokens.77.tmp").write_bytes(b"half")
    os.utime(tmp_path / "broken-off.tokens.77.tmp", (1, 1))
    (tmp_path / "note.txt").write_text("somebody else's")

    TokenCache(tmp_path).put("key", CONTENT)

    assert names(tmp_path) == ["key.tokens", "note.txt"]


def test_a_file_that_another_run_removes_meanwhile_disturbs_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(token_cache, "FILES_KEPT", 1)
    cache = TokenCache(tmp_path)
    listed = Path.glob
    monkeypatch.setattr(Path, "glob", lambda path, pattern: [*listed(path, pattern), path / "gone.tokens"])

    cache.put("key", CONTENT)

    assert names(tmp_path) == ["key.tokens"]
    assert not caplog.messages


def test_a_cache_that_cannot_be_written_is_said_and_stops_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file where the directory should be")

    TokenCache(tmp_path / "cache").put("key", CONTENT)

    (message,) = caplog.messages
    assert str(tmp_path / "cache" / "key.tokens") in message


def test_a_full_disk_is_said_and_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)

    TokenCache(tmp_path).put("key", CONTENT)

    (message,) = caplog.messages
    assert "no space is left on the disk" in message
    assert names(tmp_path) == []


def test_a_cache_that_cannot_be_read_is_said_and_missed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "key.tokens").mkdir()

    assert TokenCache(tmp_path).get("key") is None

    (message,) = caplog.messages
    assert "could not be read" in message


def test_a_warning_reaches_the_log_of_a_worker(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    program = (
        "import sys; from pathlib import Path; from oneseek.datasets.token_cache import TokenCache; "
        "TokenCache(Path(sys.argv[1])).put('key', b'')"
    )
    (tmp_path / "cache").write_text("a file where the directory should be")

    subprocess.run([sys.executable, "-c", program, str(tmp_path / "cache")], check=True)

    assert "Encoded rows are not kept" in capfd.readouterr().err
