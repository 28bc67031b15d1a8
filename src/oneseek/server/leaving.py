"""Who asks may go before there is an answer: then nothing more is done for them that was not begun."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import TypeVar

from fastapi import Request
from starlette.types import Receive

from oneseek.server.errors import Refusal

Answer = TypeVar("Answer")


async def unless_left(request: Request, doing: Future[Answer]) -> Answer:
    """What comes of `doing`, which is cancelled when the client has gone. The request's body has been read.

    Raises:
        Refusal: the client has gone; nobody reads it.
    """
    answer = asyncio.wrap_future(doing)
    leaving = asyncio.create_task(left(request.receive))
    try:
        await asyncio.wait((answer, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise Refusal(408, "Who asked has gone.", "Ask again.")
        return await answer
    finally:
        answer.cancel()
        leaving.cancel()


async def left(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
