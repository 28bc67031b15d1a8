"""Long answers of JSON are compressed for who takes that. Files are sent as they are: they have parts and digests."""

from __future__ import annotations

import re

from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

# No secret stands beside what somebody else may have written there: then the length of an answer would tell of it.
_PACKED = re.compile(
    r"/api/(config(/schema)?|validate|models(/.*)?|datasets(/[^/]+(/preview|/statistics)?)?"
    r"|runs(/[^/]+(/verify|/artefacts)?)?|training/[^/]+/(metrics|leaderboard)|ledger/entries)"
)
_SMALLEST = 1000  # bytes


class Packed:
    """Around an application: compresses what is worth it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._packing = GZipMiddleware(app, minimum_size=_SMALLEST, compresslevel=6)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        packed = scope["type"] == "http" and _PACKED.fullmatch(scope["path"]) is not None
        await (self._packing if packed else self._app)(scope, receive, send)
