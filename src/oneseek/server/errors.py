"""How a request that can't be answered looks, everywhere: {"error": {"code", "message", "fix", "findings"?}}."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from typing import Any, Literal

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from oneseek.errors import (
    AccessRefused,
    CertificateInvalid,
    DatasetUnknown,
    JournalDamaged,
    KeyRefused,
    LedgerDamaged,
    LedgerUnavailable,
    OneSeekError,
    ProofInvalid,
    Refused,
    RunError,
    RunUnknown,
    StorageError,
)
from oneseek.preflight.finding import body
from oneseek.server.places import Hide, as_it_is

STATUSES: dict[type[OneSeekError], int] = {
    OneSeekError: 500,
    Refused: 400,
    RunError: 409,
    RunUnknown: 404,
    DatasetUnknown: 404,
    KeyRefused: 409,
    AccessRefused: 403,
    JournalDamaged: 409,
    CertificateInvalid: 409,
    ProofInvalid: 400,
    LedgerDamaged: 503,
    LedgerUnavailable: 502,
    StorageError: 507,
}
"""For each error the status of the nearest kind above it that stands here."""

_log = logging.getLogger("oneseek.server")


class Refusal(HTTPException):
    """A request that is refused, with the fix."""

    def __init__(self, status: int, problem: str, fix: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, problem, headers)
        self.fix = fix


class Error(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What went wrong: `code` for programs, `message` and `fix` for people, `findings` where a request was checked.
    `language` is there where another one was asked for, and these words are not known in it."""

    code: str
    message: str
    fix: str
    findings: list[dict[str, Any]] | None = None
    language: Literal["en"] | None = None


class ErrorBody(msgspec.Struct):
    """The body of every answer that is no success."""

    error: Error


def install(app: FastAPI, hide: Hide = as_it_is) -> None:
    """Let every error of an application take the one form, and name no place of the server."""
    for kind in (HTTPException, RequestValidationError, OneSeekError, Exception):
        app.add_exception_handler(kind, partial(_failed, hide))


def status_of(error: OneSeekError) -> int:
    """The status that an error is answered with."""
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)


def told(error: Exception) -> tuple[int, dict[str, Any], Mapping[str, str]]:
    """Status, body and headers of an error. What nobody foresaw says nothing of itself: that is for the log."""
    if isinstance(error, OneSeekError):
        return status_of(error), {"error": body(error)}, {}
    if isinstance(error, RequestValidationError):
        said = " ".join(f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}." for each in error.errors())
        return 400, _error(400, said, "See /openapi.json."), {}
    if isinstance(error, HTTPException):
        fix = getattr(error, "fix", "See /openapi.json.")
        return error.status_code, _error(error.status_code, str(error.detail), fix), error.headers or {}
    return 500, _error(500, "The server failed.", "See the server's own log."), {}


def response(error: Exception, hide: Hide = as_it_is) -> Response:
    """The answer to a request that failed."""
    status, document, headers = told(error)
    return Response(msgspec.json.encode(hide(document)), status, dict(headers), "application/json")


def _failed(hide: Hide, _: Request, error: Exception) -> Response:
    answer = response(error, hide)
    if answer.status_code == 500:
        _log.error("unforeseen", exc_info=error)
    return answer


def _error(status: int, problem: str, fix: str) -> dict[str, Any]:
    return {"error": {"code": code_of(status), "message": problem, "fix": fix}}


def code_of(status: int) -> str:
    """The code of a refusal that is no OneSeekError."""
    return _RENAMED.get(status) or HTTPStatus(status).phrase.replace(" ", "")


_RENAMED = {413: "ContentTooLarge", 416: "RangeNotSatisfiable", 422: "UnprocessableContent"}
"""As RFC 9110 has them; Python took its phrases over in 3.13."""
