"""Which ledger is meant, where its key may not be looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from oneseek.errors import KeyRefused, StorageError
from oneseek.files.layout import Home
from oneseek.ledger.keys import known_log_key, log_key
from oneseek.ledger.locate import open_ledger, read_ledger
from support.closed import close
from support.ledgers import statements


@pytest.fixture
def home(tmp_path: Path) -> Home:
    found = Home(tmp_path, tmp_path / "models")
    with closing(open_ledger(found, {})) as log:
        log.append(statements(0, 3))
    return found


@pytest.mark.parametrize("locate", [read_ledger, open_ledger])
def test_a_ledger_whose_keys_may_not_be_looked_at_is_not_taken_for_a_damaged_one(
    home: Home, monkeypatch: pytest.MonkeyPatch, locate: Callable[[Home, Mapping[str, str]], object]
) -> None:
    close(home.keys, monkeypatch)

    with pytest.raises(StorageError, match=r"log\.ed25519 can't be read: Permission denied") as refused:
        locate(home, {})

    assert "permission to read" in refused.value.fix


@pytest.mark.parametrize("ask", [log_key, known_log_key])
def test_a_key_that_may_not_be_looked_at_is_not_taken_for_none(
    home: Home, monkeypatch: pytest.MonkeyPatch, ask: Callable[[Home], object]
) -> None:
    close(home.keys, monkeypatch)

    with pytest.raises(StorageError, match=r"log\.ed25519 can't be read: Permission denied"):
        ask(home)


def test_a_key_that_may_be_looked_at_but_not_read_is_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)

    with pytest.raises(KeyRefused, match=r"log\.ed25519 cannot be read: Permission denied") as refused:
        read_ledger(home, {})

    assert refused.value.fix


def test_a_home_without_a_ledger_has_none(tmp_path: Path) -> None:
    assert read_ledger(Home(tmp_path / "none", tmp_path / "models"), {}) is None
