"""Verifying a run with what this home knows: its keys, its ledger, the services that it has used."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

import msgspec

from oneseek.certificate import verify as certificate
from oneseek.certificate.keys import Pins, pins_in, pins_of
from oneseek.certificate.report import Check
from oneseek.errors import KeyRefused, OneSeekError
from oneseek.files.layout import Home
from oneseek.ledger.locate import read_ledger
from oneseek.ledger.log import Log
from oneseek.runs.find import place

_LARGEST_KEYS = 1 << 20  # bytes of a file of public keys


class Verified(msgspec.Struct, frozen=True):
    """What verifying a run found. `ok` where it is certified; `checks` says what was looked at, and what is wrong."""

    ok: bool
    run: str
    checks: tuple[Check, ...]

    def wire(self) -> dict[str, Any]:
        return msgspec.to_builtins(self)  # type: ignore[no-any-return]


def verify(
    run: str,
    home: Home,
    *,
    keys: Sequence[Path] = (),
    dataset: Path | None = None,
    validation_dataset: Path | None = None,
    base_models: Path | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Verified:
    """Check a run, by its id or any copy of its directory. Nothing is written.

    keys: files of public keys to trust besides this home's own, as `oneseek ledger key` prints them.
    base_models: a directory of base models to compare with; every byte of their weights is read.

    Raises:
        RunError: there is no such run.
        KeyRefused: a file of keys can't be read, or a private key of this home can't be used.
    """
    pins = reduce(or_, map(_pinned, keys), pins_of(home, environment))
    with _ledger(home, environment) as log:
        report = certificate.verify(
            place(run, home),
            pins=pins,
            log=log,
            dataset=dataset,
            validation=validation_dataset,
            models=base_models,
        )
    return Verified(report.ok, run, report.checks)


@contextmanager
def _ledger(home: Home, environment: Mapping[str, str]) -> Iterator[Log | OneSeekError | None]:
    """This home's ledger; or why it can't be opened: that is for a check to say, beside all the others."""
    try:
        log = read_ledger(home, environment)
    except OneSeekError as error:
        yield error
        return
    with closing(log) if log else nullcontext():
        yield log


def _pinned(path: Path) -> Pins:
    try:
        with path.open("rb") as file:
            return pins_in(file.read(_LARGEST_KEYS).decode())
    except (OSError, UnicodeDecodeError) as error:
        raise KeyRefused(f"{path} can't be read: {error}.", "Write it with: oneseek ledger key > keys.txt") from error
    except KeyRefused as error:
        raise KeyRefused(f"{path}: {error.problem}", error.fix) from error
