"""Runs as they go on: a watched journal is read once, folded once and encoded once, however many are watching.

A viewer has no queue of its own: it is a place in what the run's follower holds for all. So one that reads slowly costs
the others nothing; one that falls behind what is held, or takes nothing for a while, has to come back later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, Self

import msgspec

from oneseek.errors import JournalDamaged, OneSeekError, Refused, RunUnknown, StorageError
from oneseek.events.state import RunState, apply, begin
from oneseek.events.wire import initial_state, wire
from oneseek.files.layout import RunDirectory
from oneseek.journal.file import require_regular
from oneseek.journal.record import GENESIS, decode
from oneseek.runs.find import status
from oneseek.runs.recorder import is_running

Form = Literal["wire", "journal"]
"""Events in wire form, or the journal's own lines, for programs that check its chain and fold it themselves."""

MEMORY = 64 << 20
"""Bytes that are held for viewers, of all runs together and shared evenly: the newest records of each. What is older is
read from the journal again, for each viewer that asks for it."""

PIECE = 64 << 10
"""Bytes that are read from a journal, or given to a viewer, at once; one record alone may be longer."""

_REREADING = 2  # viewers at once

_log = logging.getLogger("oneseek.server")


@dataclass(frozen=True)
class Pace:
    """Seconds. A watched journal is looked at every `poll`, the process behind it every `look`. A viewer is told
    something every `heartbeat`, and has to take it within `patience`. When nobody watches a run any more, it is held
    for `held`; when no process is behind a complete one, its certificate is waited for for `certificate`."""

    poll: float = 0.05
    look: float = 2.0
    heartbeat: float = 15.0
    patience: float = 20.0
    held: float = 60.0
    certificate: float = 60.0


AS_USUAL = Pace()


class Message(NamedTuple):
    """JSON for a viewer, who knows everything up to record `seq` with it. `kind` is its `type`, `record` for a line of
    the journal."""

    seq: int
    kind: str
    text: str


class Moment(NamedTuple):
    """A run after record `seq`, written at the time `at`. `status` is the derived one, as it is listed."""

    seq: int
    at: str
    state: RunState
    status: str


class TooSlow(Exception):
    """A viewer does not keep up."""


class ServerEnding(Exception):
    """The server is being ended; the next one has every event."""


class Live:
    """The runs that are watched, for one event loop. find: a run's directory; RunUnknown where there is none."""

    def __init__(self, find: Callable[[str], RunDirectory], pace: Pace = AS_USUAL, memory: int = MEMORY) -> None:
        self._find = find
        self._pace = pace
        self._memory = memory
        self._followers: dict[str, _Follower] = {}
        self._rereading = asyncio.Semaphore(_REREADING)

    @property
    def viewers(self) -> int:
        """How many are watching."""
        return sum(len(follower.viewers) for follower in self._followers.values())

    async def state(self, run_id: str) -> Moment:
        """How a run stands now.

        Raises:
            RunUnknown: there is none.
            JournalDamaged: its journal is not what was written.
            StorageError: it can't be read.
        """
        return await (await self._follower(run_id)).now()

    async def watch(self, run_id: str, after: int | None = None, form: Form = "wire") -> Viewer:
        """Somebody who is told each record behind record `after`, once and in order. Without `after` that is the state
        so far and the records behind it; in the form of the journal, which has no such message, every record.

        Raises:
            RunUnknown: there is no such run.
            Refused: its journal has no record `after` yet.
            JournalDamaged: its journal is not what was written.
            StorageError: it can't be read.
        """
        follower = await self._follower(run_id)
        last = (await follower.now()).seq
        if after is not None and after > last:
            raise Refused(f"{run_id} has no record {after}; its last is {last}.", "Watch it without `after`.")
        first = await follower.snapshot() if after is None and form == "wire" else None
        viewer = Viewer(follower, first.seq if first else after or 0, form, first, self._rereading, self._left)
        follower.add(viewer)
        return viewer

    def close(self) -> None:
        """Tell every viewer that the server is being ended."""
        for follower in self._followers.values():
            follower.fail(ServerEnding())

    async def _follower(self, run_id: str) -> _Follower:
        found = self._followers.get(run_id)
        if found is None or found.failure:
            directory = await asyncio.to_thread(self._find, run_id)
            found = self._followers.get(run_id)
            if found is None or found.failure:
                found = self._followers[run_id] = _Follower(directory, self._pace, self._share)
        self._left(found)
        return found

    def _share(self) -> int:
        return self._memory // len(self._followers)

    def _left(self, follower: _Follower) -> None:
        """Somebody is done with a follower: it is held for a while, for who comes back."""
        if follower.expiry:
            follower.expiry.cancel()
        follower.expiry = asyncio.get_running_loop().call_later(self._pace.held, self._expire, follower)

    def _expire(self, follower: _Follower) -> None:
        if follower.viewers:
            self._left(follower)
        elif self._followers.get(follower.run_id) is follower:
            del self._followers[follower.run_id]


class Viewer:
    """All that waits for somebody who watches a run, each time it is asked for. It ends when nothing more can come.

    Raises:
        TooSlow: it fell behind what is held.
        ServerEnding: the server is being ended.
        OneSeekError: the journal is damaged, gone, or can't be read.
    """

    def __init__(
        self,
        follower: _Follower,
        seq: int,
        form: Form,
        first: Message | None,
        rereading: asyncio.Semaphore,
        left: Callable[[_Follower], None],
    ) -> None:
        self.stuck: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Is done when what was given was not taken in time: whoever sends it has to be broken off."""
        self._follower = follower
        self._seq = seq
        self._form: Form = form
        self._first = first
        self._beats = follower.beats if first else -1  # who gets no snapshot is told the status by a heartbeat
        self._live = False
        self._given_at: float | None = None
        self._reread = _Place()
        self._rereading = rereading
        self._left = left
        self._news = asyncio.Event()

    @property
    def done(self) -> bool:
        """Whether it knows everything, and nothing more can come."""
        return self._follower.over and self._seq == self._follower.place.seq and not self._first

    def close(self) -> None:
        """Watch no longer."""
        self._follower.viewers.discard(self)
        self._left(self._follower)

    def wake(self) -> None:
        """There may be something to tell."""
        self._news.set()

    def look(self, now: float, patience: float) -> None:
        """See whether what was given was taken."""
        if self._given_at is not None and now - self._given_at > patience and not self.stuck.done():
            self.stuck.set_result(None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Sequence[Message]:
        self._given_at = None
        messages = await self._next()
        self._given_at = asyncio.get_running_loop().time()
        return messages

    async def _next(self) -> Sequence[Message]:
        if self._first:
            first, self._first = self._first, None
            return [first]
        while True:
            self._news.clear()
            if self._follower.failure:
                raise self._follower.failure
            if self._seq < self._follower.place.seq:
                found = self._follower.held_after(self._seq, self._form) or await self._read_again()
                self._seq = found[-1].seq
                return found
            self._live = True
            if self._beats != self._follower.beats:
                self._beats = self._follower.beats
                return [self._follower.heartbeat()]
            if self._follower.over:
                raise StopAsyncIteration
            await self._news.wait()

    async def _read_again(self) -> Sequence[Message]:
        """The next records from the journal, for who begins far back."""
        if self._live:
            raise TooSlow
        while True:
            async with self._rereading:
                piece = await asyncio.to_thread(_read, self._follower.directory, self._reread)
            if piece.place.seq == self._reread.seq:
                raise _shorter(self._follower.run_id)
            self._reread = piece.place
            if found := [message for message in piece.messages[self._form] if message.seq > self._seq]:
                return found


class _Follower:
    """What is known and held of a run. It looks for more while somebody is watching, and whenever it is asked."""

    def __init__(self, directory: RunDirectory, pace: Pace, share: Callable[[], int]) -> None:
        self.directory = directory
        self.viewers: set[Viewer] = set()
        self.place = _Place()
        self.beats = 0
        self.failure: Exception | None = None
        self.expiry: asyncio.TimerHandle | None = None
        self._pace = pace
        self._share = share
        self._lock = asyncio.Lock()
        self._seen: tuple[int, int] | None = None  # size and time of the journal of which everything was read
        self._held: dict[Form, list[Message]] = {"wire": [], "journal": []}
        self._size = 0
        self._status = ""
        self._alone_since: float | None = None
        self._told_at = 0.0
        self._snapshot: tuple[Moment, Message] | None = None
        self._heartbeat: tuple[int, int, Message] | None = None
        self._following: asyncio.Task[None] | None = None

    @property
    def run_id(self) -> str:
        return self.directory.run_id

    @property
    def over(self) -> bool:
        """Whether nothing more can come: the run is certified, or complete, and nobody certifies it."""
        if self._alone_since is None:
            return False
        return self._status == "certified" or _now() - self._alone_since >= self._pace.certificate

    def add(self, viewer: Viewer) -> None:
        self.viewers.add(viewer)
        if self._following is None or self._following.done():
            self._told_at = _now()
            self._following = asyncio.create_task(self._follow())

    def fail(self, failure: Exception) -> None:
        """Nobody can be told anything more."""
        self.failure = failure
        self._wake()

    async def now(self) -> Moment:
        """The run as it is now."""
        async with self._lock:
            await self._read_on()
            await self._look()
            return self._moment

    async def snapshot(self) -> Message:
        """The state so far, for who begins to watch."""
        async with self._lock:
            moment = self._moment
            if self._snapshot is None or self._snapshot[0] != moment:
                body = await asyncio.to_thread(initial_state, *moment)
                self._snapshot = moment, _message(body)
            return self._snapshot[1]

    def heartbeat(self) -> Message:
        """That the run is still watched, and its status: the same for all who get it now."""
        if self._heartbeat is None or self._heartbeat[:2] != (self.beats, self.place.seq):
            body = {"type": "heartbeat", "seq": self.place.seq, "run_id": self.run_id, "status": self._status}
            at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            self._heartbeat = self.beats, self.place.seq, _message({**body, "timestamp": at})
        return self._heartbeat[2]

    def held_after(self, seq: int, form: Form) -> Sequence[Message]:
        """The records behind record `seq`, about a piece of them; none where they are not held any more."""
        held = self._held[form]
        start = seq + len(held) - self.place.seq
        if start < 0:
            return ()
        end, size = start, 0
        while end < len(held) and size < PIECE:
            size += len(held[end].text)
            end += 1
        return held[start:end]

    @property
    def _moment(self) -> Moment:
        if self.place.state is None:
            raise RunUnknown(f"{self.run_id} was never accepted.", "Start it again.")
        return Moment(self.place.seq, self.place.at, self.place.state, self._status)

    async def _follow(self) -> None:
        """While somebody is watching."""
        next_look = _now()
        try:
            while self.viewers and not self.failure:
                await asyncio.sleep(self._pace.poll)
                async with self._lock:
                    if await self._read_on() or _now() >= next_look:
                        await self._look()
                        next_look = _now() + self._pace.look
                if _now() - self._told_at >= self._pace.heartbeat:
                    self._beat()
        except OneSeekError as error:
            self.fail(error)
        except Exception:  # noqa: BLE001  nobody would notice that it ended
            _log.exception("unforeseen")
            self.fail(OneSeekError("The server failed.", "See the server's own log."))

    async def _read_on(self) -> bool:
        """Read what is new; whether the journal says another status now."""
        before = self.place.state and self.place.state.status
        while (stamp := self._stamp()) != self._seen:
            piece = await asyncio.to_thread(_read, self.directory, self.place)
            if piece.place.seq == self.place.seq or piece.place.offset == stamp[0]:
                self._seen = stamp
            self._hold(piece)
        return (self.place.state and self.place.state.status) != before

    def _stamp(self) -> tuple[int, int]:
        with _reading(self.directory):
            require_regular(self.directory.journal)
            found = self.directory.journal.stat()
        if found.st_size < self.place.offset:
            raise _shorter(self.run_id)
        return found.st_size, found.st_mtime_ns

    def _hold(self, piece: _Piece) -> None:
        """Hold what was read for the viewers, and no more than the run's share beside it."""
        self.place = piece.place
        wires, lines = self._held["wire"], self._held["journal"]
        gone, before, share = 0, len(wires), self._share()
        for form, messages in piece.messages.items():
            self._held[form] += messages
            self._size += sum(len(message.text) for message in messages)
        while self._size > share and gone < before:
            self._size -= len(wires[gone].text) + len(lines[gone].text)
            gone += 1
        del wires[:gone], lines[:gone]
        if len(wires) > before - gone:
            self._told_at = _now()
            self._wake()

    async def _look(self) -> None:
        """See what is true of the run, whatever its journal says last."""
        if self.place.state is None:
            return
        found, alone = await asyncio.to_thread(_standing, self.directory, self.place.state)
        if found == "interrupted" and self._stamp() != self._seen:  # its process wrote more, then let go
            await self._read_on()
            found, alone = await asyncio.to_thread(_standing, self.directory, self.place.state)
        if not alone:
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = _now()
        if found != self._status:
            self._status = found
            self._beat()
        if self.over:
            self._wake()
        for viewer in self.viewers:
            viewer.look(_now(), self._pace.patience)

    def _beat(self) -> None:
        self.beats += 1
        self._told_at = _now()
        self._wake()

    def _wake(self) -> None:
        for viewer in self.viewers:
            viewer.wake()


# -- reading -------------------------------------------------------------------------------------------------------


class _Place(msgspec.Struct, frozen=True, kw_only=True):
    """How far a journal was read: `offset` bytes, to record `seq` of the time `at` with digest `head`, after which the
    run is `state`."""

    offset: int = 0
    seq: int = 0
    at: str = ""
    head: str = GENESIS
    state: RunState | None = None


class _Piece(NamedTuple):
    place: _Place
    messages: dict[Form, list[Message]]


def _read(directory: RunDirectory, place: _Place) -> _Piece:
    """The next whole records of a journal in both forms, and the place behind them."""
    with _reading(directory), directory.journal.open("rb") as file:
        file.seek(place.offset)
        data = file.read(PIECE)
        if len(data) == PIECE and b"\n" not in data:
            data += file.readline()
    found = decode(data, seq=place.seq + 1, prev=place.head)
    if not found.records:
        return _Piece(place, {"wire": [], "journal": []})
    state, wires, lines = place.state, [], []
    for record, line in zip(found.records, data.split(b"\n"), strict=False):
        state = apply(state, record.event) if state else begin(record.event)
        wires.append(_message(wire(record.seq, record.at, record.event, state)))
        lines.append(Message(record.seq, "record", line.decode()))
    last = found.records[-1]
    behind = _Place(offset=place.offset + found.whole, seq=last.seq, at=last.at, head=found.head, state=state)
    return _Piece(behind, {"wire": wires, "journal": lines})


def _message(body: dict[str, Any]) -> Message:
    return Message(body["seq"], body["type"], msgspec.json.encode(body).decode())


def _standing(directory: RunDirectory, state: RunState) -> tuple[str, bool]:
    """The derived status, and whether the run is complete and no process is behind it."""
    with _reading(directory):
        return status(directory, state), state.over and not is_running(directory)


@contextmanager
def _reading(directory: RunDirectory) -> Iterator[None]:
    """Errors say nothing of where the server keeps its files."""
    try:
        yield
    except FileNotFoundError as error:
        raise RunUnknown(f"{directory.run_id} is not there any more.", "Restore it from a backup.") from error
    except OSError as error:
        raise StorageError(
            f"The journal of {directory.run_id} can't be read: {error.strerror}.", "Check the disk, then try again."
        ) from error


def _shorter(run_id: str) -> JournalDamaged:
    return JournalDamaged(f"The journal of {run_id} is shorter than it was.", "Restore it from a backup.")


def _now() -> float:
    return asyncio.get_running_loop().time()
