"""What a viewer of a run is told, and what it costs, without any socket."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oneseek import runs
from oneseek.errors import JournalDamaged, OneSeekError, Refused, RunUnknown, StorageError
from oneseek.events import AnyEvent, EpochStarted, RunFinished, RunInterrupted, RunStopped
from oneseek.events.state import RunState, replay
from oneseek.files.layout import RunDirectory
from oneseek.journal.file import Writer
from oneseek.server import live as live_module
from oneseek.server.live import Form, Live, Message, Pace, ServerEnding, TooSlow, Viewer
from support.histories import accepted, committed, histories, planned, progress
from support.runs import Town
from support.watched import RUN, Told, seqs

QUICK = Pace(poll=0.002, look=0.01)
STARTED = EpochStarted(epoch=1, learning_rates={"alfa": 1e-4, "beta": 1e-4})
FINISHED = RunFinished(champion="alfa", final_weights={"alfa": 1.0}, quarantined={}, reason="all_epochs")


@pytest.fixture
def told(tmp_path: Path) -> Told:
    """A journal of three records."""
    return Told.begin(tmp_path, accepted(), planned(), STARTED)


def steps(count: int) -> list[AnyEvent]:
    return [progress("alfa", 1, step) for step in range(count)]


def decoded(messages: list[Message]) -> list[dict[str, Any]]:
    return [json.loads(message.text) for message in messages]


async def next_of(viewer: Viewer) -> list[dict[str, Any]]:
    async with asyncio.timeout(10):
        return decoded(list(await anext(viewer)))


async def until(viewer: Viewer, seq: int) -> list[dict[str, Any]]:
    """Everything up to record `seq`, heartbeats left out."""
    found: list[dict[str, Any]] = []
    while not found or found[-1]["seq"] < seq:
        found += [each for each in await next_of(viewer) if each.get("type") != "heartbeat"]
    return found


async def heartbeat(viewer: Viewer, status: str) -> dict[str, Any]:
    """The next heartbeat with that status."""
    while True:
        for each in await next_of(viewer):
            if each["type"] == "heartbeat" and each["status"] == status:
                return each


async def to_the_end(viewer: Viewer) -> list[dict[str, Any]]:
    async with asyncio.timeout(10):
        return [each async for messages in viewer for each in decoded(list(messages))]


def test_a_new_viewer_gets_the_state_so_far_then_every_later_record(told: Told) -> None:
    async def watch() -> list[dict[str, Any]]:
        live = Live(told.find, QUICK)
        with closing(await live.watch(RUN)) as viewer:
            first = await next_of(viewer)
            told.append(*steps(2), committed(1, {"alfa": 2.0, "beta": 3.0}))
            return first + await until(viewer, 6)

    messages = asyncio.run(watch())

    assert [each["type"] for each in messages] == ["initial_state", "progress", "progress", "epoch_end"]
    assert seqs(messages) == [3, 4, 5, 6]
    assert messages[0]["run_id"] == RUN


def test_a_run_that_ends_while_it_is_looked_at_was_never_interrupted(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    standing = live_module._standing

    def as_it_lets_go(directory: RunDirectory, state: RunState) -> tuple[str, bool]:
        if not state.over:  # its process, which was still there when the journal was read
            told.append(committed(1, {"alfa": 2.0, "beta": 3.0}), FINISHED)
        return standing(directory, state)

    async def watch() -> list[dict[str, Any]]:
        monkeypatch.setattr(live_module, "_standing", as_it_lets_go)
        live = Live(told.find, Pace(poll=0.002, look=0.01, certificate=0.0))
        with closing(await live.watch(RUN, after=0)) as viewer:
            return await to_the_end(viewer)

    messages = asyncio.run(watch())

    assert {each["status"] for each in messages if each["type"] == "heartbeat"} == {"completed"}
    assert messages[-1]["seq"] == 5


@pytest.mark.parametrize("after", [0, 1, 3])
def test_who_says_what_is_known_gets_every_later_record_once_and_no_snapshot(told: Told, after: int) -> None:
    async def watch() -> list[dict[str, Any]]:
        live = Live(told.find, QUICK)
        with closing(await live.watch(RUN, after)) as viewer:
            told.append(*steps(2))
            return await until(viewer, 5)

    messages = asyncio.run(watch())

    assert seqs(messages) == list(range(after + 1, 6))
    assert "initial_state" not in [each["type"] for each in messages]


def test_who_knows_more_than_there_is_is_refused(told: Told) -> None:
    with pytest.raises(Refused, match="has no record 4; its last is 3"):
        asyncio.run(Live(told.find).watch(RUN, after=4))


def test_an_unknown_run_is_unknown(told: Told) -> None:
    with pytest.raises(RunUnknown):
        asyncio.run(Live(told.find).watch("run-20250101-000000"))
    with pytest.raises(RunUnknown):
        asyncio.run(Live(told.find).state("run-20250101-000000"))


def test_in_the_form_of_the_journal_its_own_lines_are_told_from_the_first(told: Told) -> None:
    async def watch() -> list[Message]:
        with closing(await Live(told.find, QUICK).watch(RUN, form="journal")) as viewer:
            return list(await anext(viewer))

    messages = asyncio.run(watch())

    assert [message.text for message in messages] == told.lines


@settings(max_examples=25)
@given(
    events=histories(),
    piece=st.sampled_from([64, 3000, 1 << 16]),
    memory=st.sampled_from([0, 20_000, 1 << 26]),
    joins=st.lists(
        st.tuples(st.integers(0, 30), st.sampled_from([None, 0, 1, 5]), st.sampled_from(["wire", "journal"])),
        min_size=1,
        max_size=6,
    ),
    seed=st.integers(0, 1000),
)
def test_between_what_was_and_what_comes_no_record_is_missing_or_told_twice(
    events: list[AnyEvent],
    piece: int,
    memory: int,
    joins: list[tuple[int, int | None, Form]],
    seed: int,
) -> None:
    events += [*steps(12), RunInterrupted(cause="the end")]
    with tempfile.TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch:
        patch.setattr(live_module, "PIECE", piece)
        told = Told.begin(Path(scratch), *events[:2])
        writing = threading.Thread(target=write_unevenly, args=(told, events[2:], random.Random(seed)))

        async def watch(live: Live, wait: int, after: int | None, form: Form) -> tuple[int, list[str]]:
            await asyncio.sleep(wait / 1000)
            after = None if after is None else min(after, (await live.state(RUN)).seq)
            with closing(await live.watch(RUN, after, form)) as viewer:
                found: list[Message] = []
                while not found or found[-1].seq < len(events):
                    async with asyncio.timeout(20):
                        found += [each for each in await anext(viewer) if each.kind != "heartbeat"]
            if form == "journal":
                return after or 0, [str(json.loads(each.text)["seq"]) + each.text for each in found]
            first = found.pop(0).seq if after is None else after
            return first, [str(json.loads(each.text)["seq"]) for each in found]

        async def everybody() -> list[tuple[int, list[str]]]:
            live = Live(told.find, Pace(poll=0.0005, look=0.01), memory)
            writing.start()
            return await asyncio.gather(*(watch(live, *join) for join in joins))

        shown = asyncio.run(everybody())
        writing.join()

        for (_, _, form), (first, found) in zip(joins, shown, strict=True):
            expected = [str(seq) for seq in range(first + 1, len(events) + 1)]
            if form == "journal":
                expected = [str(seq) + told.lines[seq - 1] for seq in range(first + 1, len(events) + 1)]
            assert found == expected


def write_unevenly(told: Told, events: list[AnyEvent], chance: random.Random) -> None:
    with Writer(told.directory.journal) as writer:
        for event in events:
            time.sleep(chance.choice([0, 0, 0.001, 0.003]))
            writer.append(event, durable=False)


def test_a_line_is_not_told_before_it_is_whole(told: Told, tmp_path: Path) -> None:
    ahead = Told.begin(tmp_path / "ahead", accepted())
    ahead.directory.journal.write_bytes(told.directory.journal.read_bytes())
    ahead.append(*steps(1))
    line = ahead.lines[-1].encode() + b"\n"

    async def watch() -> list[dict[str, Any]]:
        with closing(await Live(told.find, QUICK).watch(RUN, after=3)) as viewer:
            found = asyncio.create_task(until(viewer, 4))
            for part in (line[:50], line[50:-1], line[-1:]):
                await asyncio.sleep(0.02)
                assert not found.done()
                with told.directory.journal.open("ab") as file:
                    file.write(part)
            return await found

    assert seqs(asyncio.run(watch())) == [4]


# -- heartbeats and the end ----------------------------------------------------------------------------------------


def test_a_quiet_run_has_a_heartbeat_with_its_place_and_status(told: Told) -> None:
    async def watch() -> list[dict[str, Any]]:
        with closing(await Live(told.find, Pace(poll=0.002, heartbeat=0.02)).watch(RUN)) as viewer:
            return [(await next_of(viewer))[0] for _ in range(3)]

    with told.running():
        state, *beats = asyncio.run(watch())

    assert state["type"] == "initial_state"
    assert [set(each) for each in beats] == [{"type", "seq", "run_id", "status", "timestamp"}] * 2
    assert [(each["type"], each["seq"], each["run_id"], each["status"]) for each in beats] == [
        ("heartbeat", 3, RUN, "training")
    ] * 2


def test_while_records_come_there_are_no_heartbeats(told: Told) -> None:
    async def watch() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        with closing(await Live(told.find, Pace(poll=0.002, heartbeat=0.3)).watch(RUN)) as viewer:
            for event in steps(20):
                told.append(event)
                await asyncio.sleep(0.02)
                found += await next_of(viewer)
        return found

    with told.running():
        assert "heartbeat" not in [each["type"] for each in asyncio.run(watch())]


def test_a_killed_process_is_told_without_a_record(told: Told) -> None:
    async def watch() -> tuple[dict[str, Any], dict[str, Any]]:
        with closing(await Live(told.find, QUICK).watch(RUN)) as viewer:
            with told.running():
                before = await heartbeat(viewer, "training")
            return before, await heartbeat(viewer, "interrupted")

    before, after = asyncio.run(watch())

    assert (before["seq"], after["seq"]) == (3, 3)


def test_who_comes_back_is_told_the_status_behind_what_was_missed(told: Told) -> None:
    async def watch() -> list[dict[str, Any]]:
        live = Live(told.find)
        await live.state(RUN)
        with closing(await live.watch(RUN, after=1)) as viewer:
            return [each for _ in range(2) for each in await next_of(viewer)]

    messages = asyncio.run(watch())

    assert [each["type"] for each in messages] == ["run_planned", "epoch_start", "heartbeat"]
    assert messages[-1]["status"] == "interrupted"


def test_a_certified_run_says_so_and_ends(town: Town) -> None:
    directory, state = town.train()

    async def watch() -> list[dict[str, Any]]:
        with closing(await Live(lambda _: directory, QUICK).watch(state.run_id)) as viewer:
            first = await next_of(viewer)
            await asyncio.to_thread(runs.certify, directory, town.home, {})
            return first + await to_the_end(viewer)

    messages = asyncio.run(watch())

    assert [(each["type"], each["status"]) for each in messages] == [
        ("initial_state", "completed"),
        ("heartbeat", "certified"),
    ]


def test_whoever_comes_to_a_certified_run_gets_the_state_and_the_end(town: Town) -> None:
    directory, state = town.train()
    runs.certify(directory, town.home, {})

    async def watch(after: int | None) -> list[dict[str, Any]]:
        with closing(await Live(lambda _: directory).watch(state.run_id, after)) as viewer:
            return await to_the_end(viewer)

    assert [each["type"] for each in asyncio.run(watch(None))] == ["initial_state"]
    assert [each["type"] for each in asyncio.run(watch(0))][-2:] == ["training_complete", "heartbeat"]


def test_a_complete_run_that_nobody_certifies_ends_after_a_while(told: Told) -> None:
    told.append(committed(1, {"alfa": 1.0, "beta": 2.0}), FINISHED)

    async def watch() -> tuple[float, list[dict[str, Any]]]:
        pace = Pace(poll=0.002, look=0.005, certificate=0.1)
        with closing(await Live(told.find, pace).watch(RUN)) as viewer:
            began = time.monotonic()
            with told.running():
                await asyncio.sleep(0.15)  # what is published and sealed meanwhile takes as long as it takes
                found = await next_of(viewer)
                assert not viewer.done
            return time.monotonic() - began, found + await to_the_end(viewer)

    seconds, messages = asyncio.run(watch())

    assert seconds >= 0.15
    assert messages[0]["type"] == "initial_state"


@pytest.mark.parametrize("last", [RunStopped(), RunInterrupted(cause="Ctrl-C")], ids=["stopped", "interrupted"])
def test_a_run_that_can_be_resumed_is_watched_on(told: Told, last: AnyEvent) -> None:
    told.append(last)

    async def watch() -> None:
        pace = Pace(poll=0.002, look=0.005, certificate=0.01)
        with closing(await Live(told.find, pace).watch(RUN)) as viewer:
            await next_of(viewer)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await anext(viewer)
            assert not viewer.done

    asyncio.run(watch())


def test_when_the_server_ends_every_viewer_is_told(told: Told) -> None:
    async def watch() -> None:
        live = Live(told.find, QUICK)
        viewers = [await live.watch(RUN) for _ in range(3)]
        for viewer in viewers:
            await next_of(viewer)
        live.close()
        for viewer in viewers:
            with pytest.raises(ServerEnding):
                await anext(viewer)

    asyncio.run(watch())


# -- the slow ------------------------------------------------------------------------------------------------------


def test_who_does_not_take_what_was_given_is_stuck_and_nobody_else_notices(told: Told) -> None:
    async def watch() -> None:
        live = Live(told.find, Pace(poll=0.002, look=0.01, patience=0.05))
        stalled, reading = await live.watch(RUN), await live.watch(RUN)
        await anext(stalled)
        found = asyncio.create_task(until(reading, 33))
        for event in steps(30):
            told.append(event)
            await asyncio.sleep(0.005)
        assert seqs(await found) == list(range(3, 34))
        assert stalled.stuck.done()
        assert not reading.stuck.done()

    asyncio.run(watch())


def test_waiting_for_the_next_record_is_not_being_slow(told: Told) -> None:
    async def watch() -> None:
        with closing(await Live(told.find, Pace(poll=0.002, look=0.01, patience=0.02)).watch(RUN)) as viewer:
            await next_of(viewer)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await anext(viewer)
            assert not viewer.stuck.done()

    asyncio.run(watch())


def test_who_falls_behind_what_is_held_has_to_come_back(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "PIECE", 500)

    async def watch() -> None:
        live = Live(told.find, QUICK, memory=2000)
        slow = await live.watch(RUN, after=3)
        await next_of(slow)
        told.append(*steps(20))
        await live.state(RUN)
        with pytest.raises(TooSlow):
            await anext(slow)
        with closing(await live.watch(RUN, after=3)) as back:
            assert seqs(await until(back, 23)) == list(range(4, 24))

    asyncio.run(watch())


def test_a_burst_alone_makes_nobody_slow(told: Told) -> None:
    async def watch() -> None:
        live = Live(told.find, QUICK, memory=2000)
        with closing(await live.watch(RUN, after=3)) as viewer:
            await next_of(viewer)
            told.append(*steps(100))
            assert seqs(await until(viewer, 103)) == list(range(4, 104))

    asyncio.run(watch())


# -- what it costs -------------------------------------------------------------------------------------------------


def count_calls(monkeypatch: pytest.MonkeyPatch, holder: Any, name: str) -> list[None]:
    calls: list[None] = []
    real: Callable[..., Any] = getattr(holder, name)

    def counting(*args: Any) -> Any:
        calls.append(None)
        return real(*args)

    monkeypatch.setattr(holder, name, counting)
    return calls


def test_a_hundred_viewers_who_come_back_cost_one_reading_and_get_the_same_text(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = count_calls(monkeypatch, live_module, "wire")

    async def watch() -> list[str]:
        live = Live(told.find, QUICK)
        texts = []
        for _ in range(100):
            with closing(await live.watch(RUN, after=0)) as viewer:
                texts += [message.text for message in await anext(viewer)]
        return texts

    texts = asyncio.run(watch())

    assert len(encoded) == 3
    assert len(texts) == 300
    assert len({id(text) for text in texts}) == 3


def test_a_thousand_new_viewers_get_the_same_snapshot(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    made = count_calls(monkeypatch, live_module, "initial_state")

    async def watch() -> None:
        live = Live(told.find, QUICK)
        viewers = await asyncio.gather(*(live.watch(RUN) for _ in range(1000)))
        assert live.viewers == 1000
        assert len({id((await anext(viewer))[0].text) for viewer in viewers}) == 1
        for viewer in viewers:
            viewer.close()
        assert live.viewers == 0

    asyncio.run(watch())

    assert len(made) == 1


def test_nothing_is_looked_at_when_nobody_watches(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = count_calls(monkeypatch, live_module._Follower, "_stamp")

    async def watch() -> tuple[int, int]:
        with closing(await Live(told.find, QUICK).watch(RUN)):
            await asyncio.sleep(0.05)
        watched = len(looks)
        await asyncio.sleep(0.02)
        looks.clear()
        await asyncio.sleep(0.05)
        return watched, len(looks)

    watched, unwatched = asyncio.run(watch())

    assert watched > 3
    assert unwatched == 0


def test_what_nobody_watches_is_held_for_a_while_then_forgotten(told: Told) -> None:
    found: list[str] = []

    async def watch() -> None:
        live = Live(lambda run_id: found.append(run_id) or told.directory, Pace(poll=0.002, held=0.1))  # type: ignore[func-returns-value]
        for _ in range(3):
            (await live.watch(RUN)).close()
        assert len(found) == 1
        await asyncio.sleep(0.2)
        await live.state(RUN)
        assert len(found) == 2

    asyncio.run(watch())


def test_no_more_is_held_than_allowed(told: Told) -> None:
    told.append(*steps(3000))

    async def watch() -> None:
        live = Live(told.find, QUICK, memory=200_000)
        await live.state(RUN)
        held = live._followers[RUN]._held
        texts = [message.text for messages in held.values() for message in messages]
        assert sum(map(len, texts)) <= 200_000
        with closing(await live.watch(RUN, after=0)) as viewer:
            assert seqs(await until(viewer, 3003)) == list(range(1, 3004))

    asyncio.run(watch())


# -- what can go wrong ---------------------------------------------------------------------------------------------


def test_a_damaged_journal_is_told_to_everybody_and_to_who_comes_later(told: Told) -> None:
    async def watch() -> None:
        live = Live(told.find, QUICK)
        viewer = await live.watch(RUN)
        await next_of(viewer)
        good = told.directory.journal.read_bytes()
        told.damage()
        with pytest.raises(JournalDamaged, match="Record 4"):
            await next_of(viewer)
        with pytest.raises(JournalDamaged):
            await live.watch(RUN)
        told.directory.journal.write_bytes(good)
        with closing(await live.watch(RUN)) as mended:
            assert seqs(await next_of(mended)) == [3]

    asyncio.run(watch())


def test_a_journal_that_became_shorter_is_damaged(told: Told) -> None:
    async def watch() -> None:
        with closing(await Live(told.find, QUICK).watch(RUN)) as viewer:
            await next_of(viewer)
            told.directory.journal.write_text(told.lines[0] + "\n")
            with pytest.raises(JournalDamaged, match="shorter"):
                await next_of(viewer)

    asyncio.run(watch())


def test_a_journal_that_became_shorter_is_damaged_for_who_reads_it_again(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "PIECE", 1000)
    told.append(*steps(50))

    async def watch() -> None:
        with closing(await Live(told.find, Pace(poll=60), memory=0).watch(RUN, after=0)) as viewer:
            await next_of(viewer)
            told.directory.journal.write_text(told.lines[0] + "\n")
            with pytest.raises(JournalDamaged, match="shorter"):
                await until(viewer, 53)

    asyncio.run(watch())


def test_a_run_that_is_removed_is_unknown(told: Told) -> None:
    async def watch() -> None:
        live = Live(told.find, QUICK)
        with closing(await live.watch(RUN)) as viewer:
            await next_of(viewer)
            told.directory.journal.unlink()
            with pytest.raises(RunUnknown) as gone:
                await next_of(viewer)
            assert str(told.directory.root) not in str(gone.value)
        with pytest.raises(RunUnknown):
            await live.state(RUN)

    asyncio.run(watch())


def test_a_journal_that_cannot_be_read_says_so_without_its_path(told: Told) -> None:
    told.directory.journal.unlink()
    told.directory.root.rmdir()
    told.directory.root.write_bytes(b"")

    with pytest.raises(StorageError, match=RUN) as unreadable:
        asyncio.run(Live(told.find).state(RUN))

    assert str(told.directory.root) not in str(unreadable.value)


def test_a_run_that_was_never_accepted_is_unknown(tmp_path: Path) -> None:
    told = Told.begin(tmp_path)

    with pytest.raises(RunUnknown):
        asyncio.run(Live(told.find).state(RUN))
    with pytest.raises(RunUnknown):
        asyncio.run(Live(told.find).watch(RUN, after=0))


def test_what_nobody_foresaw_ends_the_viewers_and_is_logged(
    told: Told, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def watch() -> None:
        with closing(await Live(told.find, QUICK).watch(RUN)) as viewer:
            await next_of(viewer)
            monkeypatch.setattr(live_module, "wire", lambda *_: 1 / 0)
            told.append(*steps(1))
            with pytest.raises(OneSeekError, match="The server failed"):
                await next_of(viewer)

    with caplog.at_level(logging.ERROR, "oneseek.server"):
        asyncio.run(watch())

    assert [record.message for record in caplog.records] == ["unforeseen"]


def test_the_state_is_the_fold_of_the_journal_at_every_record(told: Told) -> None:
    events: list[AnyEvent] = [accepted(), planned(), STARTED]

    async def ask() -> None:
        live = Live(told.find)
        for count, event in enumerate(steps(3), start=4):
            told.append(event)
            events.append(event)
            moment = await live.state(RUN)
            assert (moment.seq, moment.state, moment.status) == (count, replay(events), "interrupted")
            assert moment.at == json.loads(told.lines[-1])["at"]
        with told.running():
            assert (await live.state(RUN)).status == "training"

    asyncio.run(ask())
