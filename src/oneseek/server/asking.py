"""Asking the adapters of a run, and the base models beside them: answers are sent while they are written."""

from __future__ import annotations

import asyncio
import logging
import subprocess
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager, closing, suppress
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Response
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from oneseek import runs
from oneseek.errors import OneSeekError
from oneseek.executors.answering import Begun
from oneseek.runs import Generated
from oneseek.server import bodies
from oneseek.server.artefacts import Find
from oneseek.server.errors import Refusal, told
from oneseek.server.leaving import left
from oneseek.server.places import Hide, as_it_is

PATIENCE = 30.0
"""Seconds to wait for one's turn, and for a client that does not read."""

MOST_PROMPTS = 32
LONGEST_PROMPT = 32_768
"""Characters."""

_log = logging.getLogger("oneseek.server")

Text = Annotated[str, msgspec.Meta(max_length=LONGEST_PROMPT)]
Name = Annotated[str, msgspec.Meta(max_length=200)]
Ask = Callable[..., Generator[Generated, None, None]]
Begin = Callable[[Begun], Generator[Generated, None, None]]

_HEADERS = [(b"content-type", b"application/x-ndjson"), (b"x-accel-buffering", b"no")]  # nginx would collect lines


class Questions(msgspec.Struct, rename="camel", forbid_unknown_fields=True, kw_only=True):
    """As the options of `oneseek generate`. `models`: which of the run's, all unless given; `base`: the base models
    answer too."""

    prompts: Annotated[list[Text], msgspec.Meta(max_length=MOST_PROMPTS)]
    models: Annotated[list[Name], msgspec.Meta(max_length=MOST_PROMPTS)] = []
    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    system: Text | None = None
    base: bool = True


def routes(find: Find, hide: Hide = as_it_is, ask: Ask = runs.generate) -> APIRouter:
    """find: a run by its id; RunUnknown where there is none. hide: of what goes wrong in the middle of an answer. ask:
    `runs.generate`, or what stands in for it."""
    router = APIRouter()
    turn = asyncio.Lock()

    @router.post(
        "/api/runs/{run_id}/generate",
        openapi_extra=bodies.asks(Questions, _QUESTIONS),
        responses=_LINES | bodies.refuses(404, 409, 429, *bodies.BODY),
    )
    async def generate(run_id: str, questions: Annotated[Questions, bodies.received(Questions)]) -> Response:
        """Put prompts to the models of a finished run. One generation at a time; it ends when who asked has gone."""
        asked = msgspec.structs.asdict(questions)
        models = asked.pop("models") or None

        def answers(begun: Begun) -> Generator[Generated, None, None]:
            yield from ask(find(run_id), models=models, begun=begun, **asked)

        return _Answers(turn, answers, hide)

    return router


class _Answers(Response):
    """Lines of JSON, each sent as it comes. Who asks is watched all the while."""

    def __init__(self, turn: asyncio.Lock, begin: Begin, hide: Hide) -> None:
        super().__init__()
        self._turn = turn
        self._begin = begin
        self._hide = hide

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        telling = asyncio.create_task(self._tell(send))
        leaving = asyncio.create_task(left(receive))
        try:
            await asyncio.wait((telling, leaving), return_when=asyncio.FIRST_COMPLETED)
            if telling.done():
                await telling
        finally:
            for task in (telling, leaving):
                task.cancel()
            await asyncio.wait((telling, leaving))

    async def _tell(self, send: Send) -> None:
        with suppress(ClientDisconnect):
            async with _taken(self._turn), _conversation(self._begin, self._hide) as lines:
                first = await anext(lines, b"")
                await _send(send, {"type": "http.response.start", "status": 200, "headers": _HEADERS})
                await _send(send, _body(first))
                async for line in lines:
                    await _send(send, _body(line))
                await _send(send, _body(b"", more=False))


@asynccontextmanager
async def _taken(turn: asyncio.Lock) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(PATIENCE):
            await turn.acquire()
    except TimeoutError:
        raise Refusal(
            429,
            "Another question is still being answered.",
            "Ask again in a while.",
            {"Retry-After": f"{PATIENCE:.0f}"},
        ) from None
    try:
        yield
    finally:
        turn.release()


@asynccontextmanager
async def _conversation(begin: Begin, hide: Hide) -> AsyncIterator[AsyncIterator[bytes]]:
    """The lines of a generation, which runs on one thread from its first step to its last. Leaving kills the process in
    which a model answers, whatever the thread waits for, and waits for the thread.

    The lines raise what fails before the first of them; what fails later is the last.
    """
    loop, lines = asyncio.get_running_loop(), asyncio.Queue[bytes | None]()
    processes: list[subprocess.Popen[bytes]] = []
    over = False

    def begun(process: subprocess.Popen[bytes]) -> None:
        processes.append(process)
        if over:
            process.kill()

    def ask() -> None:
        with closing(begin(begun)) as answers:
            for each in answers:
                if over:
                    return
                loop.call_soon_threadsafe(lines.put_nowait, msgspec.json.encode(each) + b"\n")

    async def said() -> AsyncIterator[bytes]:
        count = 0
        while (line := await lines.get()) is not None:
            count += 1
            yield line
        if count and (error := asking.exception()):
            yield _failure(error, hide)
        else:
            await asking

    asking = asyncio.create_task(asyncio.to_thread(ask))
    asking.add_done_callback(lambda _: lines.put_nowait(None))
    try:
        yield said()
    finally:
        over = True
        for process in processes:
            process.kill()
        await asyncio.gather(asking, return_exceptions=True)


async def _send(send: Send, message: Message) -> None:
    """Raises ClientDisconnect where nobody takes it: who does not read must not keep others from asking."""
    try:
        async with asyncio.timeout(PATIENCE):
            await send(message)
    except TimeoutError:
        raise ClientDisconnect from None


def _failure(error: BaseException, hide: Hide) -> bytes:
    if not isinstance(error, Exception):
        raise error
    if not isinstance(error, OneSeekError):
        _log.error("unforeseen", exc_info=error)
    return msgspec.json.encode(hide(told(error)[1])) + b"\n"


def _body(line: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": line, "more_body": more}


# -- described -----------------------------------------------------------------------------------------------------

_QUESTIONS = {"prompts": ["When is the library open?"], "maxNewTokens": 64}
_TOKEN = {"type": "token", "model": "mistral-7b", "variant": "adapter", "prompt": 0, "text": "At nine."}
_ANSWER = {**_TOKEN, "type": "answer", "finish_reason": "stop", "tokens": 3, "tokens_per_second": 21.5}
_NDJSON = {
    "schema": {"type": "string", "description": "A line for each piece of an answer, and one for each whole answer."},
    "example": "".join(f"{msgspec.json.encode(line).decode()}\n" for line in (_TOKEN, _ANSWER)),
}
_LINES: dict[int | str, Any] = {200: {"description": "The answers", "content": {"application/x-ndjson": _NDJSON}}}
