"""The ledger of a home, to be read over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import APIRouter, Query, Response

from oneseek.errors import CertificateInvalid, LedgerDamaged, LedgerUnavailable, RunError
from oneseek.files.layout import Home
from oneseek.ledger import merkle
from oneseek.ledger.entry import Entry
from oneseek.ledger.log import Log
from oneseek.runs import ledger as ledgers
from oneseek.server import bodies
from oneseek.server.errors import Refusal
from oneseek.server.places import hiding
from oneseek.server.speech import speaking

MOST_AT_ONCE = 1000
"""Entries in one answer."""

PATIENCE = 60.0
"""Seconds that the whole answer may take, of which the ledger service takes most if there is one."""

_AT_ONCE = 4  # requests that ask the ledger; a slow service keeps no more threads than these, and none of other routes

Found = TypeVar("Found")


class Summary(msgspec.Struct):
    """`size` in entries, `root` of the tree over them in hex, `key` as c2sp.org/signed-note writes it. A ledger begins
    with the first run: before that it has no `origin` and no `key`."""

    origin: str | None
    size: int
    root: str
    key: str | None


_NOT_BEGUN = Summary(None, 0, merkle.EMPTY.hex(), None)


class Line(Entry, frozen=True, kw_only=True):
    """An entry and its number, from 0."""

    index: int


class Lines(msgspec.Struct):
    """`size`: how many entries the ledger has."""

    size: int
    entries: list[Line]


class Checked(msgspec.Struct):
    """What an audit has read and compared: `entries`, `checkpoints` that the ledger itself has signed, and those that
    runs here have `kept`. Of the runs `elsewhere`, which are in another ledger, nothing was compared."""

    entries: int
    checkpoints: int
    kept: int
    elsewhere: list[str]


class Problem(msgspec.Struct):
    """What is not as it was signed, and what to do."""

    problem: str
    fix: str


class Audit(msgspec.Struct):
    """`checked` is None where a problem was found: the audit ends with the first. `root` is that of the whole tree."""

    ok: bool
    size: int | None
    root: str | None
    checked: Checked | None
    problems: list[Problem]


def routes(home: Home, environment: Mapping[str, str], work: Executor) -> APIRouter:
    """environment: LEDGER_URL is read from it. work: where all of it is read.

    The ledger is opened for each request: it may begin with a later run, be restored from a backup, or be a service,
    whose client is for one thread; and nothing is kept that has to be closed.
    """
    router = APIRouter(prefix="/api/ledger")
    threads, tell = ThreadPoolExecutor(_AT_ONCE, "ledger"), speaking(hiding(home))

    async def asked(question: Callable[[Log], Found]) -> Found:
        return await _within(threads, lambda: _asked(question, home, environment))

    @router.get("", responses=bodies.answers(Summary, _SUMMARY) | _REFUSES)
    async def summary() -> Response:
        """How large the ledger is, and its key."""

        def found(log: Log) -> Summary:
            now = ledgers.newest_checkpoint(log)
            return Summary(now.origin, now.size, now.root.hex(), str(log.key))

        try:
            return bodies.answer(await asked(found))
        except RunError:
            return bodies.answer(_NOT_BEGUN)

    @router.get("/checkpoint", responses=_text_like(_CHECKPOINT) | _REFUSES)
    async def checkpoint() -> Response:
        """What the ledger signed last, as a signed note."""
        return _text(await asked(lambda log: log.checkpoint()))

    @router.get("/key", responses=_text_like(_KEY) | _REFUSES)
    async def key() -> Response:
        """The public keys that others pin: oneseek verify RUN --key FILE."""
        keys = await _within(threads, lambda: ledgers.known_keys(home, environment))
        return _text(keys.text)

    @router.get("/entries", responses=bodies.answers(Lines, _LINES) | _REFUSES)
    async def entries(
        start: Annotated[int, Query(ge=0)] = 0, stop: Annotated[int | None, Query(ge=0)] = None
    ) -> Response:
        """Entries from index `start` up to `stop`, 1,000 at most."""

        def found(log: Log) -> dict[str, Any]:
            size = ledgers.newest_checkpoint(log).size
            first = min(start, size)
            last = max(first, min(first + MOST_AT_ONCE if stop is None else stop, size))
            if last - first > MOST_AT_ONCE:
                raise Refusal(400, f"{last - first} entries are too many at once.", f"Ask for {MOST_AT_ONCE} at most.")
            return {"size": size, "entries": [each.wire() for each in ledgers.entries(log, first, last)]}

        return bodies.answer(await asked(found))

    @router.get("/proofs/{index}", responses=_text_like(_PROOF) | bodies.refuses(404) | _REFUSES)
    async def proof(index: int) -> Response:
        """That an entry is in the ledger: c2sp.org/tlog-proof. It was checked."""

        def found(log: Log) -> str:
            size = ledgers.newest_checkpoint(log).size
            if not 0 <= index < size:
                raise Refusal(404, f"There is no entry {index}: the ledger has {ledgers.counted(size)}.", _FROM_ZERO)
            return ledgers.prove(log, index).logged.proof.text

        return _text(await asked(found))

    @router.get("/audit", responses=bodies.answers(Audit, _AUDIT) | _REFUSES)
    async def audit() -> Response:
        """Whether nothing in the ledger was changed, removed or put in between: every entry is read and hashed, and
        compared with everything that was signed. Takes seconds where there are many."""
        doing = work.submit(_audited, home, dict(environment))
        return bodies.answer(tell(msgspec.to_builtins(await _in_time(asyncio.wrap_future(doing)))))

    return router


def _audited(home: Home, environment: Mapping[str, str]) -> Audit:
    try:
        found = ledgers.audited(home, environment)
    except (LedgerDamaged, CertificateInvalid) as error:
        return Audit(False, None, None, None, [Problem(error.problem, error.fix)])
    done = found.audit
    checked = Checked(done.entries, done.checkpoints, done.kept, list(found.elsewhere))
    return Audit(True, done.entries, done.root, checked, [])


def _asked(question: Callable[[Log], Found], home: Home, environment: Mapping[str, str]) -> Found:
    with ledgers.reading(home, environment) as log:
        return question(log)


async def _within(threads: ThreadPoolExecutor, ask: Callable[[], Found]) -> Found:
    """What the ledger answers, in time.

    Raises:
        LedgerUnavailable: it is too slow. Its thread goes on for as long as the ledger's client has patience.
    """
    return await _in_time(asyncio.wrap_future(threads.submit(ask)))


async def _in_time(answer: asyncio.Future[Found]) -> Found:
    try:
        async with asyncio.timeout(PATIENCE):
            return await answer
    except TimeoutError:
        raise LedgerUnavailable(
            f"The ledger has not answered within {PATIENCE:.0f} seconds.", "Ask again in a while."
        ) from None


def _text(text: str) -> Response:
    return Response(text, media_type="text/plain")


# -- described -----------------------------------------------------------------------------------------------------


def _text_like(example: str) -> dict[int | str, Any]:
    content = {"text/plain": {"schema": {"type": "string"}, "example": example}}
    return {200: {"description": "Done", "content": content}}


_FROM_ZERO = "The first is 0."
_REFUSES = bodies.refuses(409, 502, 503)
_ORIGIN = "oneseek-ledger/0123456789abcdef"
_SUMMARY = {"origin": _ORIGIN, "size": 2, "root": "01234567" * 8, "key": f"{_ORIGIN}+01234567+AQIDBA=="}
_CHECKPOINT = f"{_ORIGIN}\n2\nAQIDBA==\n\n— {_ORIGIN} AQIDBA==\n"
_PROOF = f"c2sp.org/tlog-proof@v1\nindex 0\nAQIDBA==\n\n{_CHECKPOINT}"
_KEY = f"# The ledger {_ORIGIN}, which enters them:\n{_ORIGIN}+01234567+AQIDBA==\n"
_AUDIT = {
    "ok": True,
    "size": 2,
    "root": "01234567" * 8,
    "checked": {"entries": 2, "checkpoints": 2, "kept": 2, "elsewhere": []},
    "problems": [],
}
_LINES = {
    "size": 1,
    "entries": [
        {
            "index": 0,
            "event": "dna_v2_training_completed",
            "run_id": "run-20251122-143025",
            "dna": "OneSeek-7B-Zero.v1.0.01234567.89abcdef.01234567",
            "baseModels": ["kb-llama-3-1-8b-swedish", "mistral-7b"],
            "final_weights": {"kb-llama-3-1-8b-swedish": 0.75, "mistral-7b": 0.25},
            "manifest_sha256": "01234567" * 8,
            "timestamp": "2025-11-22T15:02:11.123Z",
        }
    ],
}
