"""What can be wrong with a row: a kind to count by, and a reason in plain words."""

from __future__ import annotations

from typing import Literal

import msgspec

FaultKind = Literal[
    "broken-json",
    "broken-csv",
    "not-utf8",
    "nul-byte",
    "line-too-long",
    "nested-too-deeply",
    "surrogate",
    "no-known-format",
    "other-format",
    "missing-field",
    "wrong-type",
    "empty-content",
    "unknown-role",
    "roles-out-of-order",
    "no-assistant-turn",
    "unsupported-content",
    "same-answers",
]


class Fault(msgspec.Struct, frozen=True):
    """Why a row cannot be used."""

    kind: FaultKind
    reason: str


def check_text(value: object, where: str, *, may_be_empty: bool = False) -> Fault | None:
    """A text that says something, or may be left out, and that can be written as UTF-8."""
    if may_be_empty and value is None:
        return None
    if not isinstance(value, str):
        return Fault("wrong-type", f"{where} is {kind_of(value)}, not text")
    if not value.strip() and not may_be_empty:
        return Fault("empty-content", f"{where} is empty")
    return None if encodable(value) else _half_a_pair(where)


def check_value(value: object, where: str, levels: int = 32) -> Fault | None:
    """Any JSON that is passed on as it stands must be encodable again wherever the row goes.

    levels: of lists and objects; 32 is far above any real tool, and far below Python's stack.
    """
    if levels < 0:
        return Fault("nested-too-deeply", f"{where} is nested too deeply")
    if isinstance(value, str):
        return None if encodable(value) else _half_a_pair(where)
    if isinstance(value, dict):
        inside: list[object] = [*value.keys(), *value.values()]
    elif isinstance(value, list):
        inside = value
    else:
        return None
    return next((fault for item in inside if (fault := check_value(item, where, levels - 1))), None)


def encodable(text: str) -> bool:
    """Whether a text is free of half surrogate pairs."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def kind_of(value: object) -> str:
    """What a decoded JSON value is, in plain words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, list) else "an object"


def _half_a_pair(where: str) -> Fault:
    return Fault("surrogate", f"{where} holds half of a surrogate pair, which is not a character")
