from __future__ import annotations

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from oneseek.errors import KeyRefused
from oneseek.files.layout import Home
from oneseek.ledger.keys import known_log_key, log_key
from oneseek.ledger.note import SignerKey


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path, tmp_path / "models")


def test_the_key_is_made_once_and_only_its_owner_may_read_it(home: Home) -> None:
    made = log_key(home)

    assert log_key(home) == made
    assert home.log_key.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in home.keys.iterdir()] == ["log.ed25519"]


def test_the_file_is_the_text_that_other_tools_of_signed_notes_read(home: Home) -> None:
    made = log_key(home, "ledger.example.org")

    assert home.log_key.read_text() == f"{made.text()}\n"
    assert made.text().startswith("PRIVATE+KEY+ledger.example.org+")


def test_unless_it_is_named_a_log_is_named_by_its_key(home: Home) -> None:
    made = log_key(home).verifier

    assert made.name == f"oneseek-ledger/{hashlib.sha256(made.public).hexdigest()[:16]}"


def test_the_public_half_is_known_once_there_is_a_key_and_asking_makes_none(home: Home) -> None:
    before = known_log_key(home)
    made = log_key(home)

    assert before is None
    assert known_log_key(home) == made.verifier


def test_asking_for_the_public_half_leaves_an_empty_home_empty(home: Home) -> None:
    known_log_key(home)

    assert list(home.root.iterdir()) == []


def test_of_many_that_make_it_at_once_all_get_one_key(home: Home) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: log_key(home).seed, range(32)))

    assert len(made) == 1


def test_another_origin_than_the_one_that_is_kept_is_refused_naming_both(home: Home) -> None:
    log_key(home, "ledger.example.org")

    with pytest.raises(KeyRefused, match=r"'ledger\.example\.org', not of 'other\.example\.org'"):
        log_key(home, "other.example.org")


def test_the_origin_that_is_kept_may_be_named_again(home: Home) -> None:
    made = log_key(home, "ledger.example.org")

    assert log_key(home, "ledger.example.org") == made


@pytest.mark.parametrize("origin", ["", "two words", "a+b", "a\nb", "a\x00b"])
def test_an_origin_that_a_note_can_not_carry_is_refused_before_anything_is_written(home: Home, origin: str) -> None:
    with pytest.raises(KeyRefused, match=re.escape(repr(origin))):
        log_key(home, origin)

    assert list(home.root.iterdir()) == []


def test_a_key_that_others_may_read_is_refused_with_the_command_that_mends_it(home: Home) -> None:
    log_key(home)
    home.log_key.chmod(0o640)

    with pytest.raises(KeyRefused, match="chmod 600"):
        log_key(home)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"PRIVATE+KEY+x+00000000+AAAA", b"-----BEGIN PRIVATE KEY-----"])
def test_what_is_no_key_is_refused_and_not_repeated(home: Home, content: bytes) -> None:
    log_key(home)
    home.log_key.write_bytes(content)

    for ask in (log_key, known_log_key):
        with pytest.raises(KeyRefused, match=re.escape(str(home.log_key))) as refused:
            ask(home)
        assert not content or content.decode(errors="replace") not in str(refused.value)


def test_a_link_to_nowhere_is_refused(home: Home) -> None:
    home.keys.mkdir()
    home.log_key.symlink_to(home.keys / "nowhere")

    with pytest.raises(KeyRefused, match=r"log\.ed25519"):
        log_key(home)


def test_the_seed_is_in_no_message(home: Home) -> None:
    made = log_key(home)

    assert made.text().rpartition("+")[2] not in repr(made)
    assert SignerKey.parse(made.text()) == made
