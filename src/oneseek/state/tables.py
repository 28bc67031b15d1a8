"""The tables of the database, as they are after every migration."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import ClassVar, Literal

from sqlalchemy import Dialect, Double, MetaData, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

Scope = Literal["read", "run", "admin"]
"""What a token may do; each may also do what those before it may."""


class Moment(TypeDecorator[datetime]):
    """A time, kept as seconds since 1970: SQLite has no type for it."""

    impl = Double
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> float | None:
        return None if value is None else value.timestamp()

    def process_result_value(self, value: float | None, dialect: Dialect) -> datetime | None:
        return None if value is None else datetime.fromtimestamp(value, UTC)


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention={"uq": "uq_%(table_name)s_%(column_0_name)s"})
    type_annotation_map: ClassVar = {datetime: Moment()}


class QueueRow(Base):
    """A run that waits for its device, or has it."""

    __tablename__ = "queue"

    run_id: Mapped[str] = mapped_column(primary_key=True)
    device: Mapped[str]
    place: Mapped[int]
    """Of those that wait for the device, the lowest is next; numbers may be missing."""
    pid: Mapped[int | None]
    started: Mapped[float | None]
    """Seconds since 1970, as psutil's create_time says of `pid`: by both a process is known from a later one."""
    added_at: Mapped[datetime]


class AdministratorRow(Base):
    """The one administrator: a row that is always there."""

    __tablename__ = "administrator"

    id: Mapped[int] = mapped_column(primary_key=True)
    passphrase: Mapped[str | None]
    """Its Argon2id hash, with salt and parameters."""
    link: Mapped[bytes | None]
    """SHA-256 of the secret of the one-time link."""
    link_made_at: Mapped[datetime | None]
    tries: Mapped[int]
    """Passphrases given since one was right."""
    closed_until: Mapped[datetime | None]
    """No passphrase is looked at before."""


class SessionRow(Base):
    """Somebody who gave the passphrase."""

    __tablename__ = "sessions"

    id: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[bytes] = mapped_column(unique=True)
    """SHA-256 of the secret."""
    agent: Mapped[str]
    created_at: Mapped[datetime]
    last_used_at: Mapped[datetime]


class TokenRow(Base):
    """A secret that a program knows."""

    __tablename__ = "tokens"

    id: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[bytes] = mapped_column(unique=True)
    """SHA-256 of the secret."""
    name: Mapped[str]
    scope: Mapped[Scope] = mapped_column(String)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
