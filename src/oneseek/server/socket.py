"""What is told of a run while it goes on: over a WebSocket, or as server-sent events.

WS  /ws/training?runId=&after=&batch=1&form=wire|journal
GET /api/training/{run_id}/events?after=&batch=1&form=wire|journal
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import closing, suppress
from functools import partial
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Header, Query, Response, WebSocket
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from oneseek.errors import OneSeekError, Refused, RunUnknown
from oneseek.server.bodies import refuses
from oneseek.server.errors import told
from oneseek.server.live import Form, Live, Message, ServerEnding, TooSlow, Viewer
from oneseek.server.speech import LANGUAGE, spoken, spoken_json

LONGEST_SAID = 4096
"""Characters of a message from a viewer. What it says is not listened to."""

MOST_SAID = 60
"""Messages from a viewer in a minute."""

RETRY = 2000
"""Milliseconds after which who gets server-sent events should come back when they break off."""

_LAST_WORD = 3.0  # seconds for the closing frame of who does not read
_LONGEST_REASON = 123  # bytes: RFC 6455, section 5.5


class Asked(BaseModel, extra="forbid", populate_by_name=True):
    """How somebody wants to be told."""

    after: Annotated[int | None, Field(ge=0, le=2**53)] = None
    """The last record that is known: what follows it is told. Without it, the state so far is told first."""

    batch: bool = False
    """Whether all that waits comes as one array."""

    form: Form = "wire"
    """Events, or the journal's own lines."""


class AskedOverSocket(Asked):
    run_id: Annotated[str, Field(alias="runId")]


Say = Callable[[Sequence[Message]], Awaitable[Sequence[Message]]]
"""Says messages again, as a viewer is to get them."""


def routes(live: Live) -> APIRouter:
    """The WebSocket and the server-sent events."""
    router = APIRouter()
    translating = asyncio.Semaphore(1)

    def say_as(asked: Asked) -> Say:
        return _as_it_is if LANGUAGE.get() == "en" or asked.form == "journal" else partial(_translated, translating)

    @router.websocket("/ws/training")
    async def training(websocket: WebSocket) -> None:
        """Everything that happens in a run, each event a message. Closed with 1000 when nothing more can come, 1008
        when it was asked wrongly, 1009 or 1008 for a viewer that says too much, 1011 when the journal can't be read,
        1012 when the server ends, 1013 for a viewer that does not keep up."""
        asked = _asked(websocket)
        try:
            viewer = await live.watch(asked.run_id, asked.after, asked.form)
        except RunUnknown:
            raise
        except OneSeekError as error:
            await websocket.accept()
            await _close(websocket, *_ending(error))
            return
        with closing(viewer):
            await websocket.accept()
            if ending := await _show(websocket, viewer, say_as(asked), batch=asked.batch):
                await _close(websocket, *ending)

    @router.get(
        "/api/training/{run_id}/events",
        status_code=200,
        response_class=_Events,
        responses={**_EVENTS, **refuses(404, 409)},
    )
    async def events(
        run_id: str,
        asked: Annotated[Asked, Query()],
        last_event_id: Annotated[int | None, Header(ge=0, le=2**53)] = None,
    ) -> Response:
        """Everything that happens in a run, as server-sent events. Who comes back says with `Last-Event-ID` what is
        known already."""
        after = asked.after if last_event_id is None else last_event_id
        viewer = await live.watch(run_id, after, asked.form)
        if viewer.done:
            viewer.close()
            return Response(status_code=204)
        return _Events(viewer, say_as(asked), batch=asked.batch)

    return router


def joined(messages: Sequence[Message]) -> str:
    """Messages as one JSON array."""
    return f"[{','.join(message.text for message in messages)}]"


# -- in the viewer's language ------------------------------------------------------------------------------------------

_SAYS = re.compile(r'"(?:problem|fix|cause)":"[^"]|"quarantined":\{"|"warnings":\["')
"""Where JSON says something to people. Hardly any event does; the others are told as they were encoded for all."""


async def _as_it_is(messages: Sequence[Message]) -> Sequence[Message]:
    return messages


async def _translated(translating: asyncio.Semaphore, messages: Sequence[Message]) -> Sequence[Message]:
    """Beside the event loop, one viewer's at a time: nobody waits for it who watches in English."""
    if not any(_SAYS.search(message.text) for message in messages):
        return messages
    async with translating:
        return await asyncio.to_thread(lambda: [_in_the_language(message) for message in messages])


def _in_the_language(message: Message) -> Message:
    return message._replace(text=spoken_json(message.text)) if _SAYS.search(message.text) else message


# -- the socket ----------------------------------------------------------------------------------------------------


def _asked(websocket: WebSocket) -> AskedOverSocket:
    try:
        return AskedOverSocket.model_validate(dict(websocket.query_params))
    except ValidationError as error:
        raise RequestValidationError([{**each, "loc": ("query", *each["loc"])} for each in error.errors()]) from None


async def _show(websocket: WebSocket, viewer: Viewer, say: Say, *, batch: bool) -> tuple[int, str] | None:
    """Send until somebody has had enough; code and reason of the close, None for who has gone."""
    sending = asyncio.create_task(_send(websocket, viewer, say, batch=batch))
    hearing = asyncio.create_task(_hear(websocket))
    try:
        await asyncio.wait((sending, hearing, viewer.stuck), return_when=asyncio.FIRST_COMPLETED)
        ended = next((task for task in (hearing, sending) if task.done()), None)
        return ended.result() if ended else _ending(TooSlow())
    finally:
        sending.cancel()
        hearing.cancel()


async def _send(websocket: WebSocket, viewer: Viewer, say: Say, *, batch: bool) -> tuple[int, str] | None:
    try:
        async for found in viewer:
            messages = await say(found)
            for text in [joined(messages)] if batch else [message.text for message in messages]:
                await websocket.send({"type": "websocket.send", "text": text})
    except WebSocketDisconnect:
        return None
    except (TooSlow, ServerEnding, OneSeekError) as error:
        return _ending(error)
    return 1000, "Nothing more can come."


async def _hear(websocket: WebSocket) -> tuple[int, str] | None:
    """Nothing is expected of a viewer but that it goes."""
    loop = asyncio.get_running_loop()
    said, since = 0, loop.time()
    while (message := await websocket.receive())["type"] != "websocket.disconnect":
        if len(message.get("text") or message.get("bytes") or "") > LONGEST_SAID:
            return 1009, "Nothing is expected of viewers."
        if loop.time() - since >= 60:
            said, since = 0, loop.time()
        said += 1
        if said > MOST_SAID:
            return 1008, "Nothing is expected of viewers."
    return None


async def _close(websocket: WebSocket, code: int, reason: str) -> None:
    """Say why it ends. Who does not read is not told: the connection is cut by the server that carries it."""
    brief = reason.encode()[:_LONGEST_REASON].decode(errors="ignore")
    with suppress(TimeoutError, WebSocketDisconnect):
        async with asyncio.timeout(_LAST_WORD):
            await websocket.close(code, brief)


def _ending(error: Exception) -> tuple[int, str]:
    match error:
        case TooSlow():
            return 1013, "Too slow. Come back with `after`, the last seq that you have."
        case ServerEnding():
            return 1012, "The server is being ended. Come back with `after`, the last seq that you have."
        case Refused():
            return 1008, str(error)
        case _:
            return 1011, str(error)


# -- server-sent events --------------------------------------------------------------------------------------------

_EXAMPLE = f"""retry: {RETRY}

id: 12
event: epoch_end
data: {{"type":"epoch_end","seq":12,"run_id":"run-20251122-143025","epoch":3}}

"""

_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events as they happen; `id` is the seq. It ends when nothing more can come",
        "content": {"text/event-stream": {"schema": {"type": "string"}, "example": _EXAMPLE}},
    },
    204: {"description": "Nothing more can come; browsers come back no more"},
}


class _Events(StreamingResponse):
    """Lasts until nothing more can come, the viewer goes or does not keep up."""

    media_type = "text/event-stream"

    def __init__(self, viewer: Viewer, say: Say, *, batch: bool) -> None:
        # A proxy that gathers answers before it passes them on would gather for ever.
        headers = {"X-Accel-Buffering": "no"}
        super().__init__(_stream(viewer, say, batch=batch), headers=headers)
        self._viewer = viewer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with closing(self._viewer):
            answering = asyncio.ensure_future(super().__call__(scope, receive, send))
            try:
                await asyncio.wait((answering, self._viewer.stuck), return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not answering.done():
                    answering.cancel()
            with suppress(asyncio.CancelledError):
                await answering


async def _stream(viewer: Viewer, say: Say, *, batch: bool) -> AsyncIterator[str]:
    yield f"retry: {RETRY}\n\n"
    try:
        async for found in viewer:
            messages = await say(found)
            if batch:
                yield _event(Message(messages[-1].seq, "batch", joined(messages)))
            else:
                yield "".join(map(_event, messages))
    except (TooSlow, ServerEnding):
        return
    except OneSeekError as error:
        _, body, _ = told(error)
        yield f"event: error\ndata: {msgspec.json.encode(spoken(body)).decode()}\n\n"


def _event(message: Message) -> str:
    return f"id: {message.seq}\nevent: {message.kind}\ndata: {message.text}\n\n"
