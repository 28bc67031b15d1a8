from __future__ import annotations

import errno
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneseek.errors import JournalDamaged, RunError, StorageError
from oneseek.events import AnyEvent, RunInterrupted, RunResumed
from oneseek.events.state import apply, begin, replay
from oneseek.journal.file import Reader, Writer, read
from oneseek.journal.record import GENESIS, Record, decode, encode
from support.histories import accepted, histories

AT = "2025-11-22T14:30:25.123Z"


def written(events: list[AnyEvent]) -> bytes:
    data, prev = b"", GENESIS
    for seq, event in enumerate(events, start=1):
        line, prev = encode(Record(seq=seq, at=AT, prev=prev, event=event))
        data += line
    return data


@given(histories())
def test_what_is_read_back_is_what_was_written(events: list[AnyEvent]) -> None:
    journal = decode(written(events))

    assert [record.event for record in journal.records] == events
    assert [record.seq for record in journal.records] == list(range(1, len(events) + 1))


@given(histories(), st.data())
def test_a_journal_cut_anywhere_holds_the_whole_records_before_the_cut(
    events: list[AnyEvent], data: st.DataObject
) -> None:
    whole = written(events)
    cut = data.draw(st.integers(0, len(whole)))

    journal = decode(whole[:cut])

    assert written([record.event for record in journal.records]) == whole[: journal.whole]
    assert b"\n" not in whole[journal.whole : cut]


@given(histories())
def test_replay_equals_the_live_state_at_every_prefix(events: list[AnyEvent]) -> None:
    state = begin(events[0])
    for count, event in enumerate(events[1:], start=2):
        state = apply(state, event)
        decoded = decode(written(events[:count]))

        assert replay(record.event for record in decoded.records) == state


@given(histories())
def test_resuming_leaves_nothing_of_the_epoch_that_was_not_committed(events: list[AnyEvent]) -> None:
    state = replay(events)
    assert state is not None

    resumed = apply(state, RunResumed(epoch=state.epochs_done))

    assert (resumed.progress, resumed.finished, resumed.failing) == ({}, {}, {})
    assert (resumed.committed, resumed.weights, resumed.live) == (state.committed, state.weights, state.live)
    assert resumed.status in ("preparing", "training")


@given(histories(), st.data())
def test_a_changed_bit_is_found_and_its_record_named(events: list[AnyEvent], data: st.DataObject) -> None:
    whole = bytearray(written(events))
    position = data.draw(st.integers(0, len(whole) - 2))  # without its last newline the last line counts as torn
    whole[position] ^= 1 << data.draw(st.integers(0, 7))

    with pytest.raises(JournalDamaged, match="Record"):
        decode(bytes(whole))


@given(histories(), st.data())
def test_a_removed_or_repeated_record_is_found(events: list[AnyEvent], data: st.DataObject) -> None:
    lines = written(events).splitlines(keepends=True)
    place = data.draw(st.integers(0, len(lines) - 2))

    for changed in (lines[:place] + lines[place + 1 :], lines[: place + 1] + lines[place:]):
        with pytest.raises(JournalDamaged):
            decode(b"".join(changed))


@pytest.mark.parametrize("torn", [b'{"seq":2', b"\x00\x00\x00", b"{"])
def test_opening_cuts_off_a_torn_tail_before_anything_is_appended(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(written([accepted()]) + torn)

    with Writer(path) as writer:
        writer.append(RunInterrupted(cause="Ctrl-C"), durable=True)

    assert [type(record.event).__name__ for record in read(path).records] == ["RunAccepted", "RunInterrupted"]


def test_a_full_disk_leaves_the_journal_whole_and_it_goes_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.jsonl"

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with Writer(path) as writer:
        writer.append(accepted(), durable=True)
        with monkeypatch.context() as broken:
            broken.setattr("oneseek.journal.file.os.fsync", full)
            with pytest.raises(StorageError, match="no space is left"):
                writer.append(RunInterrupted(cause="lost"), durable=True)
        writer.append(RunInterrupted(cause="kept"), durable=True)

    assert [record.event for record in read(path).records] == [accepted(), RunInterrupted(cause="kept")]


def test_a_follower_gets_each_record_once_and_no_half_one(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    reader = Reader(path)
    assert list(reader.new()) == []

    with Writer(path) as writer:
        writer.append(accepted(), durable=False)
        first = [record.seq for record in reader.new()]
        with path.open("ab") as other:
            other.write(b'{"seq":2,')
        half = [record.seq for record in reader.new()]

    assert (first, half) == ([1], [])


def test_a_missing_journal_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="has no journal"):
        read(tmp_path / "run-1" / "journal.jsonl")
