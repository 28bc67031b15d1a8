"""What verifying a run found: numbered checks, each ok, failed with the first lie named, or not checkable here."""

from __future__ import annotations

from typing import Literal

import msgspec

Outcome = Literal["ok", "failed", "not checkable"]

NAMES = (
    "format",
    "signature",
    "digests",
    "encoding",
    "journal",
    "documents",
    "adapters",
    "dna",
    "leaf",
    "inclusion",
    "consistency",
    "keys",
    "dataset",
    "base models",
)
"""The checks in their order; the first has number 1."""


class Check(msgspec.Struct, frozen=True):
    """`detail` says what was compared, what differs, or why nothing could be."""

    number: int
    name: str
    result: Outcome
    detail: str


class Report(msgspec.Struct, frozen=True):
    """`ok` where no check failed: every one was ok, or could not be made here and says why."""

    ok: bool
    checks: tuple[Check, ...]
