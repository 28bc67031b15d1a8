"""Who may ask the server for what: one administrator with a passphrase, their sessions, and tokens for programs.

The passphrase is kept as its Argon2id hash, every other secret as its SHA-256: 256 random bits need no slower one.
"""

from __future__ import annotations

import hashlib
import logging
import math
import secrets
import unicodedata
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final, Literal

import msgspec
from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from sqlalchemy import ColumnElement, and_, delete, not_, or_, orm, select, update

from oneseek.errors import AccessRefused, ConfigError, StorageError
from oneseek.state.database import Database, utc
from oneseek.state.tables import AdministratorRow, Scope, SessionRow, TokenRow

__all__ = ["Access", "AccessUnknown", "Identity", "Scope", "Session", "Token", "TooManyTries"]

SHORTEST_PASSPHRASE: Final = 12
"""Characters."""

LINK_LASTS: Final = timedelta(days=1)
SESSION_IDLES: Final = timedelta(hours=12)
SESSION_LASTS: Final = timedelta(days=30)
USE_IS_NOTED: Final = timedelta(minutes=1)
"""How old the noted last use of a session or token gets before a newer one is written."""

FREE_TRIES: Final = 5
LONGEST_WAIT: Final = 300.0
"""Seconds."""

LONGEST_NAME: Final = 100
"""Characters of a token's name."""

LONGEST_AGENT: Final = 200
MOST_DAYS: Final = 3650

_LINK, _SESSION, _TOKEN = "osl_", "oss_", "osk_"  # a secret that lies about somewhere is known for what it is
_A_LINK = "Use the newest one-time link, or make one: oneseek admin link"

_log = logging.getLogger("oneseek.access")


class TooManyTries(AccessRefused):
    """Passphrases were wrong, and the next one is not looked at for `wait` seconds."""

    def __init__(self, wait: float) -> None:
        super().__init__(
            f"Too many passphrases were wrong; the next one is looked at in {math.ceil(wait)} seconds.",
            "Wait that long, then try again; who lost it makes a link for a new one: oneseek admin link",
        )
        self.wait = wait


class AccessUnknown(AccessRefused):
    """There is no session or token of that id."""


class Identity(msgspec.Struct, frozen=True):
    """Who asks, and what they may."""

    kind: Literal["session", "token"]
    id: str
    name: str
    scope: Scope


class Session(msgspec.Struct, frozen=True):
    """Somebody who gave the passphrase; `agent` is what their program called itself."""

    id: str
    agent: str
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime
    """Unless it is used before then, and at the latest 30 days after it began."""


class Token(msgspec.Struct, frozen=True):
    """A token, without its secret. `expires_at` is null where it is good for ever, `last_used_at` where it was not used
    yet."""

    id: str
    name: str
    scope: Scope
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


class Access:
    """The administrator, the sessions and the tokens of a database. Any number of threads may use it at once, and other
    processes beside it: nothing is remembered, so what one revokes is void for all at once.

    Every method raises StorageError where the database can't be read or written.
    """

    def __init__(self, database: Database, now: Callable[[], datetime] = utc) -> None:
        self._database = database
        self._now = now
        self._hasher = PasswordHasher()  # Argon2id with the parameters of RFC 9106 for 64 MiB

    # -- the passphrase --------------------------------------------------------------------------------------------

    @property
    def set_up(self) -> bool:
        """Whether there is a passphrase."""
        with self._database.read() as session:
            return _administrator(session).passphrase is not None

    def new_link(self) -> str:
        """The secret of a one-time link that sets the passphrase, good for a day. Those made before are void."""
        secret = _new_secret(_LINK)
        with self._database.begin() as session:
            row = _administrator(session)
            row.link, row.link_made_at = _digest(secret), self._now()
        return secret

    def administer(self, link: str, passphrase: str, agent: str) -> str:
        """Set the passphrase, by a link which is void thereafter; the secret of the session that begins with it. Where
        there was a passphrase, it was lost: every session that it opened ends.

        Raises:
            AccessRefused: the link is wrong, used, replaced or too old.
            ConfigError: the passphrase is too short. The link remains.
        """
        with self._database.read() as session:
            self._check_link(_administrator(session), link)  # first: hashing takes long, and anybody may ask for it
        hashed = self._hashed(passphrase)
        with self._database.begin() as session:
            row = _administrator(session)
            self._check_link(row, link)
            row.passphrase, row.link, row.link_made_at = hashed, None, None
            row.tries, row.closed_until = 0, None
            session.execute(delete(SessionRow))
            return self._begin_session(session, agent)

    def log_in(self, passphrase: str, agent: str) -> str:
        """The secret of a new session.

        Raises:
            AccessRefused: the passphrase is wrong, or there is none yet.
            TooManyTries: others were wrong just now, whoever gave them.
        """
        hashed = self._proved(passphrase)
        with self._database.begin() as session:
            _forgive(session, hashed)
            return self._begin_session(session, agent)

    def change_passphrase(self, current: str, new: str, keep: str) -> None:
        """Set another passphrase. Every session ends but the one whose secret is `keep`.

        Raises:
            AccessRefused: `current` is wrong; TooManyTries as in `log_in`.
            ConfigError: the new one is too short.
        """
        proved, hashed = self._proved(current), self._hashed(new)
        with self._database.begin() as session:
            _forgive(session, proved).passphrase = hashed
            session.execute(delete(SessionRow).where(SessionRow.digest != _digest(keep)))

    # -- who asks --------------------------------------------------------------------------------------------------

    def of_session(self, secret: str) -> Identity | None:
        """Whose session this is; None where it is none, over, or ended."""
        now = self._now()
        with self._database.read() as session:
            row = session.scalar(select(SessionRow).where(SessionRow.digest == _digest(secret), _goes_on(now)))
        if row is None:
            return None
        self._note_use(row, now)
        return Identity("session", row.id, "administrator", "admin")

    def of_token(self, secret: str) -> Identity | None:
        """Whose token this is; None where it is none, too old, or revoked."""
        now = self._now()
        with self._database.read() as session:
            row = session.scalar(select(TokenRow).where(TokenRow.digest == _digest(secret), _is_good(now)))
        if row is None:
            return None
        self._note_use(row, now)
        return Identity("token", row.id, row.name, row.scope)

    # -- sessions --------------------------------------------------------------------------------------------------

    def log_out(self, secret: str) -> None:
        """End the session; one that has ended is left alone."""
        with self._database.begin() as session:
            session.execute(delete(SessionRow).where(SessionRow.digest == _digest(secret)))

    def sessions(self) -> tuple[Session, ...]:
        """Those that go on, the newest first."""
        wanted = select(SessionRow).where(_goes_on(self._now())).order_by(SessionRow.created_at.desc())
        with self._database.read() as session:
            return tuple(_session(row) for row in session.scalars(wanted))

    def end_session(self, session_id: str) -> None:
        """End one of them.

        Raises:
            AccessUnknown: there is no such session.
        """
        self._remove(SessionRow, session_id, "session", "See them with: oneseek admin sessions list")

    # -- tokens ----------------------------------------------------------------------------------------------------

    def create_token(self, name: str, scope: Scope, days: int | None = None) -> tuple[Token, str]:
        """A new token, good for so many days or for ever, and its secret, which nobody can ask for again.

        Raises:
            ConfigError: the name is empty, too long or can't be printed; the days are out of bounds.
        """
        if not name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
            raise ConfigError(
                f"{name[:LONGEST_NAME]!r} is no name for a token.", f"Give it one of 1 to {LONGEST_NAME} characters."
            )
        if days is not None and not 1 <= days <= MOST_DAYS:
            raise ConfigError(f"A token can't be good for {days} days.", f"Give 1 to {MOST_DAYS} days, or none at all.")
        now, secret = self._now(), _new_secret(_TOKEN)
        row = TokenRow(
            id=_new_id(),
            digest=_digest(secret),
            name=name,
            scope=scope,
            created_at=now,
            expires_at=None if days is None else now + timedelta(days=days),
        )
        with self._database.begin() as session:
            session.add(row)
        return _token(row), secret

    def tokens(self) -> tuple[Token, ...]:
        """All that were not revoked, the newest first."""
        with self._database.read() as session:
            return tuple(_token(row) for row in session.scalars(select(TokenRow).order_by(TokenRow.created_at.desc())))

    def revoke_token(self, token_id: str) -> None:
        """Let a token be good for nothing any more.

        Raises:
            AccessUnknown: there is no such token.
        """
        self._remove(TokenRow, token_id, "token", "See them with: oneseek admin token list")

    # -- in one transaction ----------------------------------------------------------------------------------------

    def _check_link(self, row: AdministratorRow, link: str) -> None:
        made_at = row.link_made_at
        if made_at is None or row.link != _digest(link) or abs(self._now() - made_at) >= LINK_LASTS:
            raise AccessRefused("This one-time link is wrong, was used, or is too old.", _A_LINK)

    def _proved(self, passphrase: str) -> str:
        """The hash of the passphrase, where it is right."""
        hashed = self._count_try()
        try:
            self._hasher.verify(hashed, _normal(passphrase))
        except VerifyMismatchError:
            raise _wrong() from None
        return hashed

    def _count_try(self) -> str:
        """The hash to compare with. The try is counted before it is made: of many at once, none is free."""
        now = self._now()
        with self._database.begin() as session:
            row = _administrator(session)
            if row.passphrase is None:
                raise AccessRefused("No passphrase has been set yet.", _A_LINK)
            wait = (row.closed_until - now).total_seconds() if row.closed_until else 0.0
            if 0 < wait <= LONGEST_WAIT:  # one that is longer was noted by a clock that has been set back
                raise TooManyTries(wait)
            row.tries += 1
            if row.tries >= FREE_TRIES:
                row.closed_until = now + timedelta(seconds=min(2.0 ** (row.tries - FREE_TRIES), LONGEST_WAIT))
            return row.passphrase

    def _hashed(self, passphrase: str) -> str:
        if len(_normal(passphrase)) < SHORTEST_PASSPHRASE:
            raise ConfigError(
                f"The passphrase has fewer than {SHORTEST_PASSPHRASE} characters.",
                "Choose a longer one: several words that don't belong together are good.",
            )
        return self._hasher.hash(_normal(passphrase))

    def _begin_session(self, session: orm.Session, agent: str) -> str:
        now, secret = self._now(), _new_secret(_SESSION)
        session.execute(delete(SessionRow).where(not_(_goes_on(now))))
        row = SessionRow(
            id=_new_id(), digest=_digest(secret), agent=agent[:LONGEST_AGENT], created_at=now, last_used_at=now
        )
        session.add(row)
        return secret

    def _note_use(self, row: SessionRow | TokenRow, now: datetime) -> None:
        # abs: one that was noted by a clock that has been set back would keep a session alive for as long.
        if row.last_used_at is not None and abs(now - row.last_used_at) < USE_IS_NOTED:
            return
        kind = type(row)
        try:
            with self._database.begin() as session:
                session.execute(update(kind).where(kind.id == row.id).values(last_used_at=now))
        except StorageError as error:  # on a full disk one must still get in, to make room
            _log.warning("use not noted: %s", error)

    def _remove(self, kind: type[SessionRow | TokenRow], row_id: str, noun: str, fix: str) -> None:
        with self._database.begin() as session:
            row = session.get(kind, row_id)
            if row is None:
                raise AccessUnknown(f"There is no {noun} {row_id!r}.", fix)
            session.delete(row)


def _administrator(session: orm.Session) -> AdministratorRow:
    return session.get_one(AdministratorRow, 1)


def _forgive(session: orm.Session, proved: str) -> AdministratorRow:
    """Forget the wrong tries, where the passphrase that was right a moment ago still is."""
    row = _administrator(session)
    if row.passphrase != proved:
        raise _wrong()
    row.tries, row.closed_until = 0, None
    return row


def _wrong() -> AccessRefused:
    return AccessRefused("That is not the passphrase.", "If it is lost, make a link for a new one: oneseek admin link")


def _goes_on(now: datetime) -> ColumnElement[bool]:
    return and_(SessionRow.last_used_at > now - SESSION_IDLES, SessionRow.created_at > now - SESSION_LASTS)


def _is_good(now: datetime) -> ColumnElement[bool]:
    return or_(TokenRow.expires_at.is_(None), TokenRow.expires_at > now)


def _session(row: SessionRow) -> Session:
    expires_at = min(row.last_used_at + SESSION_IDLES, row.created_at + SESSION_LASTS)
    return Session(row.id, row.agent, row.created_at, row.last_used_at, expires_at)


def _token(row: TokenRow) -> Token:
    return Token(row.id, row.name, row.scope, row.created_at, row.expires_at, row.last_used_at)


def _normal(passphrase: str) -> str:
    """Keyboards write the same letter in several ways: an å may be one character or two."""
    return unicodedata.normalize("NFC", passphrase)


def _new_secret(prefix: str) -> str:
    return prefix + secrets.token_urlsafe(32)


def _new_id() -> str:
    return secrets.token_hex(8)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
