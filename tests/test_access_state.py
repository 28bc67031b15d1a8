"""Who gets in: by the link, the passphrase, a session, a token; who does not, and what is kept of any of it."""

from __future__ import annotations

import threading
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from sqlalchemy import text

from oneseek.errors import AccessRefused, ConfigError
from oneseek.state.access import Access, AccessUnknown, Identity, TooManyTries
from oneseek.state.database import Database
from support.state import Clock, database, pragma

PASSPHRASE = "åtta hästar i regn"
OTHER = "nio hästar i snö"


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Database]:
    with closing(database(tmp_path / "oneseek.db")) as opened:
        yield opened


@pytest.fixture
def clock() -> Clock:
    return Clock()


def quick(kept: Database, clock: Clock) -> Access:
    """With a hash that takes no time: what it takes otherwise is tested once."""
    access = Access(kept, clock)
    access._hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    return access


@pytest.fixture
def access(kept: Database, clock: Clock) -> Access:
    return quick(kept, clock)


@pytest.fixture
def session(access: Access) -> str:
    """The secret of the administrator's first session."""
    return access.administer(access.new_link(), PASSPHRASE, "test")


def one(kept: Database, question: str) -> Any:
    with kept.read() as transaction:
        return transaction.scalar(text(question))


# -- the link ------------------------------------------------------------------------------------------------------


def test_the_link_sets_the_passphrase_and_begins_a_session(access: Access) -> None:
    before = access.set_up

    secret = access.administer(access.new_link(), PASSPHRASE, "test")

    assert (before, access.set_up) == (False, True)
    identity = access.of_session(secret)
    assert identity == Identity("session", access.sessions()[0].id, "administrator", "admin")
    assert access.of_session(access.log_in(PASSPHRASE, "test")) is not None


def test_a_link_is_good_once(access: Access) -> None:
    link = access.new_link()
    access.administer(link, PASSPHRASE, "test")

    with pytest.raises(AccessRefused, match="wrong, was used, or is too old"):
        access.administer(link, OTHER, "thief")

    assert len(access.sessions()) == 1
    assert access.log_in(PASSPHRASE, "test")


def test_of_many_that_use_a_link_at_once_one_gets_in(access: Access) -> None:
    link, together = access.new_link(), threading.Barrier(8, timeout=30)

    def use(number: int) -> str | None:
        together.wait()
        try:
            return access.administer(link, f"{PASSPHRASE} {number}", "test")
        except AccessRefused:
            return None

    with ThreadPoolExecutor(8) as threads:
        got = [secret for secret in threads.map(use, range(8)) if secret]

    assert len(got) == len(access.sessions()) == 1
    assert access.of_session(got[0]) is not None


def test_a_new_link_voids_the_one_before(access: Access) -> None:
    first, second = access.new_link(), access.new_link()

    with pytest.raises(AccessRefused, match="one-time link"):
        access.administer(first, PASSPHRASE, "test")

    assert access.administer(second, PASSPHRASE, "test")


@pytest.mark.parametrize("link", ["", "osl_", "osl_" + "A" * 43, "None"])
def test_a_guessed_link_opens_nothing(access: Access, link: str) -> None:
    for made in (False, True):
        if made:
            access.new_link()
        with pytest.raises(AccessRefused, match="one-time link"):
            access.administer(link, PASSPHRASE, "test")

    assert not access.set_up


def test_a_wrong_link_is_refused_before_anything_is_hashed(access: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "_hasher", None)

    with pytest.raises(AccessRefused, match="one-time link"):
        access.administer("osl_guessed", PASSPHRASE, "test")


def test_a_link_is_good_for_a_day(access: Access, clock: Clock) -> None:
    late, early = access.new_link(), clock.time
    clock.go(hours=24)
    with pytest.raises(AccessRefused, match="too old"):
        access.administer(late, PASSPHRASE, "test")

    clock.time = early + timedelta(hours=23, minutes=59)

    assert access.administer(late, PASSPHRASE, "test")


def test_a_passphrase_that_is_too_short_is_refused_and_the_link_stays_good(access: Access) -> None:
    link = access.new_link()

    with pytest.raises(ConfigError, match="fewer than 12 characters"):
        access.administer(link, "elva tecken", "test")

    assert not access.set_up
    assert access.administer(link, "tolv tecken!", "test")


def test_after_a_lost_passphrase_a_link_sets_a_new_one_and_ends_every_session(access: Access, session: str) -> None:
    _, token = access.create_token("nightly", "run")
    for _ in range(7):
        wrong(access)

    anew = access.administer(access.new_link(), OTHER, "test")

    assert access.of_session(session) is None
    assert access.of_session(anew) is not None
    assert access.of_token(token) is not None
    assert access.log_in(OTHER, "test")  # without waiting, too
    with pytest.raises(AccessRefused, match="not the passphrase"):
        access.log_in(PASSPHRASE, "test")


# -- the passphrase ------------------------------------------------------------------------------------------------


def test_the_passphrase_is_kept_as_argon2id_of_64_mebibytes(kept: Database) -> None:
    access = Access(kept)

    access.administer(access.new_link(), PASSPHRASE, "test")

    hashed = one(kept, "SELECT passphrase FROM administrator")
    assert hashed.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert access.log_in(PASSPHRASE, "test")


def test_a_wrong_passphrase_opens_nothing(access: Access, session: str) -> None:
    for guess in (OTHER, "", PASSPHRASE + " ", PASSPHRASE.upper()):
        with pytest.raises(AccessRefused, match="not the passphrase"):
            access.log_in(guess, "test")

    assert len(access.sessions()) == 1


def test_before_there_is_a_passphrase_none_is_right(access: Access) -> None:
    for guess in ("", "None"):
        with pytest.raises(AccessRefused, match="No passphrase has been set") as refused:
            access.log_in(guess, "test")

    assert "oneseek admin link" in refused.value.fix


def test_the_same_letters_from_another_keyboard_are_the_same_passphrase(access: Access, session: str) -> None:
    taken_apart = unicodedata.normalize("NFD", PASSPHRASE)

    assert taken_apart != PASSPHRASE
    assert access.log_in(taken_apart, "test")


def test_changing_the_passphrase_ends_every_session_but_ones_own(access: Access, session: str) -> None:
    other = access.log_in(PASSPHRASE, "other")

    access.change_passphrase(PASSPHRASE, OTHER, session)

    assert access.of_session(session) is not None
    assert access.of_session(other) is None
    assert access.log_in(OTHER, "test")
    with pytest.raises(AccessRefused, match="not the passphrase"):
        access.log_in(PASSPHRASE, "test")


@pytest.mark.parametrize(
    ("current", "new", "kind"),
    [
        pytest.param(OTHER, OTHER, AccessRefused, id="wrong"),
        pytest.param(PASSPHRASE, "elva tecken", ConfigError, id="too short"),
    ],
)
def test_a_change_that_is_refused_changes_nothing(
    access: Access, session: str, current: str, new: str, kind: type[Exception]
) -> None:
    other = access.log_in(PASSPHRASE, "other")

    with pytest.raises(kind):
        access.change_passphrase(current, new, session)

    assert access.of_session(other) is not None
    assert access.log_in(PASSPHRASE, "test")


def test_a_passphrase_that_was_changed_while_it_was_looked_at_opens_nothing(
    access: Access, session: str, kept: Database, clock: Clock
) -> None:
    class Slow(PasswordHasher):
        def verify(self, *given: Any) -> Any:
            right = super().verify(*given)
            meanwhile.change_passphrase(PASSPHRASE, OTHER, session)
            return right

    meanwhile = quick(kept, clock)
    access._hasher = Slow(time_cost=1, memory_cost=8, parallelism=1)

    with pytest.raises(AccessRefused, match="not the passphrase"):
        access.log_in(PASSPHRASE, "thief")

    assert [each.agent for each in access.sessions()] == ["test"]


# -- waiting -------------------------------------------------------------------------------------------------------


def wrong(access: Access) -> float:
    """Seconds to wait, where a wrong passphrase is not even looked at; else 0."""
    try:
        access.log_in("not the passphrase", "thief")
    except TooManyTries as error:
        return error.wait
    except AccessRefused:
        return 0
    raise AssertionError("it got in")


def test_five_wrong_passphrases_are_free_and_then_the_wait_doubles_up_to_five_minutes(
    access: Access, clock: Clock, session: str
) -> None:
    free = [wrong(access) for _ in range(5)]
    waits = []
    for _ in range(11):
        waits.append(wrong(access))
        clock.go(seconds=waits[-1])
        assert wrong(access) == 0

    assert free == [0] * 5
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


def test_while_one_waits_the_right_passphrase_is_not_looked_at_either(
    access: Access, clock: Clock, session: str
) -> None:
    for _ in range(7):
        clock.go(seconds=wrong(access))

    with pytest.raises(TooManyTries, match="looked at in 2 seconds") as refused:
        access.log_in(PASSPHRASE, "test")
    with pytest.raises(TooManyTries):
        access.change_passphrase(PASSPHRASE, OTHER, session)

    clock.go(seconds=refused.value.wait)
    assert access.log_in(PASSPHRASE, "test")


def test_wrong_ones_count_for_a_change_of_the_passphrase_too(access: Access, session: str) -> None:
    for _ in range(5):
        with pytest.raises(AccessRefused, match="not the passphrase"):
            access.change_passphrase("not the passphrase", OTHER, session)

    with pytest.raises(TooManyTries):
        access.log_in(PASSPHRASE, "test")


def test_a_right_passphrase_forgives_the_wrong_ones(access: Access, session: str) -> None:
    for _ in range(3):
        assert [wrong(access) for _ in range(4)] == [0] * 4
        access.log_in(PASSPHRASE, "test")


def test_the_wait_outlasts_the_server(
    access: Access, clock: Clock, session: str, kept: Database, tmp_path: Path
) -> None:
    for _ in range(5):
        wrong(access)
    kept.close()

    with closing(Database.open(tmp_path / "oneseek.db")) as again:
        assert wrong(quick(again, clock)) == 1


def test_of_many_wrong_ones_at_once_five_are_looked_at(access: Access, session: str) -> None:
    looked_at, together = [], threading.Barrier(20, timeout=30)

    class Counting(PasswordHasher):
        def verify(self, *given: Any) -> Any:
            looked_at.append(1)
            return super().verify(*given)

    def guess(_: int) -> None:
        together.wait()
        wrong(access)

    access._hasher = Counting(time_cost=1, memory_cost=8, parallelism=1)

    with ThreadPoolExecutor(20) as threads:
        list(threads.map(guess, range(20)))

    assert len(looked_at) == 5


def test_a_clock_that_is_set_back_locks_nobody_out(access: Access, clock: Clock, session: str) -> None:
    for _ in range(5):
        wrong(access)

    clock.go(days=-300)

    assert access.log_in(PASSPHRASE, "test")


# -- sessions ------------------------------------------------------------------------------------------------------


def test_a_session_ends_when_it_idles_for_twelve_hours(access: Access, clock: Clock, session: str) -> None:
    clock.go(hours=11, minutes=59)
    used = access.of_session(session)
    clock.go(hours=11, minutes=59)
    again = access.of_session(session)
    clock.go(hours=12)

    assert used is not None
    assert again == used
    assert access.of_session(session) is None
    assert access.sessions() == ()


def test_a_session_ends_after_thirty_days_however_much_it_is_used(access: Access, clock: Clock, session: str) -> None:
    for _ in range(30 * 3 - 1):
        clock.go(hours=8)
        assert access.of_session(session) is not None

    ends = access.sessions()[0].expires_at
    clock.go(hours=8)

    assert ends == clock.time
    assert access.of_session(session) is None


def test_a_session_is_listed_with_its_program_and_its_times(access: Access, clock: Clock, session: str) -> None:
    began = clock.time
    clock.go(hours=1)
    access.log_in(PASSPHRASE, "Firefox " * 100)
    access.of_session(session)

    new, old = access.sessions()

    assert (len(new.agent), new.created_at, new.last_used_at) == (200, clock.time, clock.time)
    assert (old.agent, old.created_at, old.last_used_at) == ("test", began, clock.time)
    assert old.expires_at == clock.time + timedelta(hours=12)


def test_logging_out_ends_ones_own_session_alone(access: Access, session: str) -> None:
    other = access.log_in(PASSPHRASE, "other")

    access.log_out(session)
    access.log_out(session)

    assert access.of_session(session) is None
    assert access.of_session(other) is not None


def test_a_session_can_be_ended_by_its_id(access: Access, session: str) -> None:
    access.end_session(access.sessions()[0].id)

    assert access.of_session(session) is None
    with pytest.raises(AccessUnknown, match="no session 'nonsense'"):
        access.end_session("nonsense")


def test_sessions_that_are_over_are_not_kept(access: Access, clock: Clock, session: str, kept: Database) -> None:
    clock.go(hours=13)

    access.log_in(PASSPHRASE, "test")

    assert one(kept, "SELECT count(*) FROM sessions") == 1


# -- tokens --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["read", "run", "admin"])
def test_a_token_identifies_by_its_secret_and_says_what_it_may(access: Access, scope: Any) -> None:
    token, secret = access.create_token("nightly", scope)

    assert access.of_token(secret) == Identity("token", token.id, "nightly", scope)
    assert secret.startswith("osk_")
    assert len(secret) == 4 + 43  # 256 bits


def test_a_token_is_good_for_its_days(access: Access, clock: Clock) -> None:
    token, secret = access.create_token("nightly", "run", 90)
    _, for_ever = access.create_token("nightly", "run")

    clock.go(days=89, hours=23)
    still = access.of_token(secret)
    clock.go(hours=1)

    assert token.expires_at == clock.time
    assert still is not None
    assert access.of_token(secret) is None
    clock.go(days=3650)
    assert access.of_token(for_ever) is not None


def test_a_revoked_token_opens_nothing_from_that_moment_on_in_every_process(
    access: Access, clock: Clock, tmp_path: Path
) -> None:
    token, secret = access.create_token("nightly", "run")
    before = access.of_token(secret)

    with closing(Database.open(tmp_path / "oneseek.db")) as other:
        Access(other, clock).revoke_token(token.id)

    assert before is not None
    assert access.of_token(secret) is None
    assert access.tokens() == ()
    with pytest.raises(AccessUnknown, match="no token"):
        access.revoke_token(token.id)


def test_tokens_are_listed_newest_first_with_their_last_use(access: Access, clock: Clock) -> None:
    first, secret = access.create_token("first", "read", 1)
    clock.go(minutes=5)
    second, _ = access.create_token("second", "admin")
    access.of_token(secret)

    listed = access.tokens()

    assert [token.id for token in listed] == [second.id, first.id]
    assert [token.last_used_at for token in listed] == [None, clock.time]
    assert [token.scope for token in listed] == ["admin", "read"]


def test_a_session_is_no_token_and_a_token_no_session(access: Access, session: str) -> None:
    token, secret = access.create_token("nightly", "admin")

    assert access.of_token(session) is None
    assert access.of_session(secret) is None
    for guess in ("", "osk_", secret[:-1], secret + "A", secret.upper(), token.id, "'; DROP TABLE tokens; --"):
        assert access.of_token(guess) is None
        assert access.of_session(guess) is None


@pytest.mark.parametrize("name", ["", "  ", "x" * 101, "two\nlines", "\x1b[31m"])
def test_a_name_that_can_not_be_shown_is_refused(access: Access, name: str) -> None:
    with pytest.raises(ConfigError, match="no name for a token"):
        access.create_token(name, "read")

    assert access.tokens() == ()


@pytest.mark.parametrize("days", [0, -1, 3651, 10**12])
def test_days_out_of_bounds_are_refused(access: Access, days: int) -> None:
    with pytest.raises(ConfigError, match=f"good for {days} days"):
        access.create_token("nightly", "read", days)

    assert access.tokens() == ()


# -- what is kept --------------------------------------------------------------------------------------------------


def test_no_secret_is_in_any_file(access: Access, tmp_path: Path, kept: Database) -> None:
    link = access.new_link()
    session = access.administer(link, PASSPHRASE, "test")
    _, token = access.create_token("nightly", "run")
    access.change_passphrase(PASSPHRASE, OTHER, session)
    access.of_token(token)
    secrets = [secret.encode() for secret in (link, session, token, PASSPHRASE, OTHER)]
    secrets += [secret[4:] for secret in secrets[:3]]

    while_open = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    kept.close()
    closed = b"".join(path.read_bytes() for path in tmp_path.iterdir())

    assert b"nightly" in while_open
    assert b"nightly" in closed
    assert [secret for secret in secrets if secret in while_open + closed] == []


def test_the_last_use_is_written_once_a_minute(access: Access, clock: Clock, kept: Database) -> None:
    _, secret = access.create_token("nightly", "run")
    access.of_token(secret)
    first = clock.time

    clock.go(seconds=59)
    access.of_token(secret)
    early = access.tokens()[0].last_used_at
    clock.go(seconds=1)
    access.of_token(secret)

    assert early == first
    assert access.tokens()[0].last_used_at == clock.time


def test_on_a_disk_that_takes_nothing_one_still_gets_in(
    access: Access, kept: Database, session: str, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    _, secret = access.create_token("nightly", "run")
    pragma(kept, "query_only=ON")
    clock.go(hours=1)

    assert access.of_token(secret) is not None
    assert access.of_session(session) is not None
    assert [record.message.partition(":")[0] for record in caplog.records] == ["use not noted"] * 2
    assert secret not in caplog.text
