"""What is sent and answered: JSON decoded into typed structs, encoded from them, and described by the same types."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec
from fastapi import Depends, FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from starlette.requests import ClientDisconnect

from oneseek.server.errors import ErrorBody, Refusal

LARGEST_BODY = 1 << 20
"""Bytes of a JSON body. Files come another way."""

PATIENCE = 30.0
"""Seconds that a JSON body may take to arrive."""

_REFERENCE = "#/components/schemas/{name}"

Kind = TypeVar("Kind")


def received(kind: type[Kind]) -> Any:
    """What a route takes as `Depends`: its JSON body as `kind`, an object with known fields only. No more of a body is
    read than is allowed.

    Raises:
        Refusal: 400 it is something else, 408 too slow, 413 too large, 415 not said to be JSON.
    """
    decoder = msgspec.json.Decoder(kind)

    async def read(request: Request) -> Kind:
        try:
            return decoder.decode(await content(request))
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            why = f"{error}{_choices(kind, str(error))}"
            raise Refusal(400, f"The body can't be read: {why}.", "See /openapi.json for what is expected.") from None

    return Depends(read)


def _choices(kind: Any, error: str) -> str:
    """What there is to choose from, where an error says that a field of `kind` is none of it."""
    found = _NONE_OF_THEM.search(error)
    fields = (
        msgspec.structs.fields(kind) if found and isinstance(kind, type) and issubclass(kind, msgspec.Struct) else ()
    )
    told = next((each.type for each in fields if found and each.encode_name == found[1]), None)
    choices = [choice for part in (told, *get_args(told)) if get_origin(part) is Literal for choice in get_args(part)]
    return f": choose {', '.join(map(repr, choices))}" if choices else ""


_NONE_OF_THEM = re.compile(r"^Invalid enum value .* - at `\$\.(\w+)`$")


async def content(request: Request, most: int = LARGEST_BODY) -> bytes:
    """The bytes of a JSON body."""
    if request.headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refusal(415, "The body is not said to be JSON.", "Send it with Content-Type: application/json.")
    body = bytearray()
    try:
        async with asyncio.timeout(PATIENCE):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise Refusal(413, f"The body has more than {most} bytes.", "Send less at once.")
    except TimeoutError:
        raise Refusal(408, f"The body took longer than {PATIENCE:.0f} seconds.", "Send it again.") from None
    except ClientDisconnect:
        raise Refusal(400, "The body broke off.", "Send it again.") from None
    return bytes(body)


def answer(document: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A document as JSON: structs, or what is made of lists, dicts and plain values."""
    return Response(msgspec.json.encode(document), status, headers, "application/json")


# -- described -----------------------------------------------------------------------------------------------------


def asks(kind: Any, example: Any = None) -> dict[str, Any]:
    """For a route's `openapi_extra`: its JSON body is of this kind. The example may hold structs."""
    return {"requestBody": {"required": True, "content": _content(kind, example)}}


def answers(kind: Any, example: Any = None, *, status: int = 200, description: str = "Done") -> dict[int | str, Any]:
    """For a route's `responses`: it answers JSON of this kind. The example may hold structs."""
    return {status: {"description": description, "content": _content(kind, example)}}


def refuses(*statuses: int) -> dict[int | str, Any]:
    """For a route's `responses`: the errors that it may answer with, besides those of every route."""
    return {status: {"description": _REFUSED[status], "content": _content(ErrorBody)} for status in statuses}


_REFUSED = {
    400: "The request is wrong; nothing was started",
    401: "Who asks is not known",
    403: "Who asks may not",
    404: "There is none of that name",
    405: "Not by this method",
    408: "The body took too long",
    409: "Not in the state that it is in",
    413: "The body is too large",
    415: "The body is of another type than it has to be",
    421: "Not served by that name",
    429: "Too many requests",
    502: "The ledger service, or the hub, does not answer as it should",
    503: "The ledger is damaged",
    507: "The disk is full, or can't be read or written",
}


def describe(app: FastAPI) -> None:
    """Let the application's OpenAPI document hold the types that `asks` and `answers` named."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            _, schemas = msgspec.json.schema_components(_kinds, ref_template=_REFERENCE)
            document.setdefault("components", {}).setdefault("schemas", {}).update(schemas)
            _without_422(document)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _without_422(document: dict[str, Any]) -> None:
    """FastAPI writes 422 beside every route with parameters; here a wrong one is answered with 400, as everything."""
    for methods in document.get("paths", {}).values():
        for described in methods.values():
            described["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)


_kinds: list[Any] = []
"""Every kind that a route has named."""


def _content(kind: Any, example: Any = None) -> dict[str, Any]:
    _kinds.append(kind)
    (schema,), _ = msgspec.json.schema_components([kind], ref_template=_REFERENCE)
    shown = {} if example is None else {"example": msgspec.to_builtins(example)}
    return {"application/json": {"schema": schema} | shown}


EVERYWHERE = refuses(400, 401, 403, 421, 429, 507)
"""What every route behind the guard may answer; the guard itself reads the database."""

BODY = (408, 413, 415)
"""What a route with a JSON body may answer."""
