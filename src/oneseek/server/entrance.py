"""How one gets in: the first passphrase by a one-time link, sessions by the passphrase, tokens for programs."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Literal, TypeVar, TypeVarTuple

import msgspec
from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request, Response

from oneseek.errors import AccessRefused
from oneseek.server.bodies import BODY, answer, answers, asks, received, refuses
from oneseek.server.errors import Refusal
from oneseek.server.guard import cookie_name, session_secret
from oneseek.state.access import Access, AccessUnknown, Identity, Scope, Session, Token, TooManyTries

_AT_ONCE = 2  # each passphrase that is hashed takes 64 MiB and all of a core

Passphrase = Annotated[str, msgspec.Meta(max_length=1024)]
Given = TypeVarTuple("Given")
Result = TypeVar("Result")


class Standing(msgspec.Struct, frozen=True):
    """How who asks stands with this server: `set_up` once there is a passphrase; the last four are null for whom it
    does not know."""

    set_up: bool
    signed_in: bool
    scope: Scope | None = None
    kind: Literal["session", "token"] | None = None
    id: str | None = None
    name: str | None = None


class SetUp(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """`link`: what stands after `#link=` in the one-time link."""

    link: str
    passphrase: Passphrase


class LogIn(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    passphrase: Passphrase


class Change(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """From one passphrase to another."""

    current: Passphrase
    new: Passphrase


class NewToken(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """`days`: how long it is good for; left away, for ever."""

    name: str
    scope: Scope
    days: int | None = None


class Made(Token, frozen=True, kw_only=True):
    """A token and its secret, which is told this once."""

    secret: str


class Sessions(msgspec.Struct, frozen=True):
    sessions: tuple[Session, ...]


class Tokens(msgspec.Struct, frozen=True):
    tokens: tuple[Token, ...]


_NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
_MIDNIGHT = datetime(2026, 3, 2, tzinfo=UTC)
_PASSPHRASE = "correct horse battery staple"
_STANDING = Standing(True, True, "admin", "session", "5f0c1a7be2d94068", "administrator")
_SESSION = Session("5f0c1a7be2d94068", "Mozilla/5.0", _NOON, _NOON, _MIDNIGHT)
_TOKEN = Token("9b21e4d07c3f5a86", "nightly", "run", _NOON, None, None)


def routes(access: Access, *, secure: bool) -> APIRouter:
    """The routes by which an account is opened, used and kept, behind the guard.

    secure: browsers reach the server by https.
    """
    router = APIRouter()
    cookie = cookie_name(secure)
    hashing = CapacityLimiter(_AT_ONCE)

    async def proved(look: Callable[[*Given], Result], *given: *Given) -> Result:
        """Call what hashes a passphrase, in a thread, when it is its turn."""
        try:
            return await to_thread.run_sync(look, *given, limiter=hashing)
        except TooManyTries as error:
            wait = {"Retry-After": str(math.ceil(error.wait))}
            raise Refusal(429, error.problem, error.fix, wait) from error

    def with_session(secret: str) -> Response:
        response = Response(status_code=204)
        response.set_cookie(cookie, secret, secure=secure, httponly=True, samesite="strict")
        return response

    @router.get("/api/session", responses=answers(Standing, _STANDING))
    def standing(request: Request) -> Response:
        """Who asks, and whether there is an administrator yet."""
        who = _asking(request)
        if who is None:
            return answer(Standing(access.set_up, False))
        return answer(Standing(access.set_up, True, who.scope, who.kind, who.id, who.name))

    @router.post(
        "/api/setup",
        status_code=204,
        openapi_extra=asks(SetUp, {"link": "osl_...", "passphrase": _PASSPHRASE}),
        responses=refuses(409, *BODY),
    )
    async def set_up(request: Request, body: Annotated[SetUp, received(SetUp)]) -> Response:
        """Set the administrator's passphrase, by a one-time link, and log in. A newer link replaces a lost one."""
        try:
            secret = await proved(access.administer, body.link, body.passphrase, _agent(request))
        except AccessRefused as error:
            if not await to_thread.run_sync(lambda: access.set_up):
                raise
            raise Refusal(409, f"There is an administrator already. {error.problem}", error.fix) from error
        return with_session(secret)

    @router.post(
        "/api/login",
        status_code=204,
        openapi_extra=asks(LogIn, {"passphrase": _PASSPHRASE}),
        responses=refuses(429, *BODY),
    )
    async def log_in(request: Request, body: Annotated[LogIn, received(LogIn)]) -> Response:
        """Begin a session: its secret is in the cookie, which pages of other sites can neither read nor send."""
        return with_session(await proved(access.log_in, body.passphrase, _agent(request)))

    @router.post("/api/logout", status_code=204, responses=refuses(409))
    def log_out(request: Request) -> Response:
        """End the session."""
        secret = _secret(request)
        if not secret:
            raise Refusal(409, "A token is in no session.", "Revoke it: DELETE /api/tokens/ID.")
        access.log_out(secret)
        response = Response(status_code=204)
        response.delete_cookie(cookie, secure=secure, httponly=True, samesite="strict")
        return response

    @router.put(
        "/api/passphrase",
        status_code=204,
        openapi_extra=asks(Change, {"current": _PASSPHRASE, "new": "four other words than those"}),
        responses=refuses(429, *BODY),
    )
    async def change(request: Request, body: Annotated[Change, received(Change)]) -> Response:
        """Set another passphrase. All sessions end but the one that asks."""
        await proved(access.change_passphrase, body.current, body.new, _secret(request))
        return Response(status_code=204)

    @router.get("/api/sessions", responses=answers(Sessions, Sessions((_SESSION,))))
    def sessions() -> Response:
        """All sessions that go on, the newest first."""
        return answer(Sessions(access.sessions()))

    @router.delete("/api/sessions/{session_id}", status_code=204, responses=refuses(404))
    def end_session(session_id: str) -> Response:
        """End a session."""
        return _removed(access.end_session, session_id, "/api/sessions")

    @router.get("/api/tokens", responses=answers(Tokens, Tokens((_TOKEN,))))
    def tokens() -> Response:
        """All tokens that were not revoked, the newest first."""
        return answer(Tokens(access.tokens()))

    @router.post(
        "/api/tokens",
        status_code=201,
        openapi_extra=asks(NewToken, {"name": "nightly", "scope": "run", "days": 90}),
        responses=answers(Made, _made(_TOKEN, "osk_..."), status=201) | refuses(*BODY),
    )
    def make_token(body: Annotated[NewToken, received(NewToken)]) -> Response:
        """Make a token for a program. Its secret is told this once."""
        token, secret = access.create_token(body.name, body.scope, body.days)
        return answer(_made(token, secret), 201)

    @router.delete("/api/tokens/{token_id}", status_code=204, responses=refuses(404))
    def revoke_token(token_id: str) -> Response:
        """Let a token be good for nothing any more."""
        return _removed(access.revoke_token, token_id, "/api/tokens")

    def _secret(request: Request) -> str:
        """The secret of the session that asks; "" where it is a token."""
        who = _asking(request)
        return session_secret(request.scope["headers"], cookie) if who and who.kind == "session" else ""

    return router


def _made(token: Token, secret: str) -> Made:
    return Made(*msgspec.structs.astuple(token), secret=secret)


def _asking(request: Request) -> Identity | None:
    """Whom the guard let in."""
    who: Identity | None = request.state.identity
    return who


def _agent(request: Request) -> str:
    return request.headers.get("User-Agent", "")


def _removed(remove: Callable[[str], None], its_id: str, listed: str) -> Response:
    try:
        remove(its_id)
    except AccessUnknown as error:
        raise Refusal(404, error.problem, f"See them at {listed}.") from error
    return Response(status_code=204)
