"""The form of a journal: encode a record, decode a journal, find where a torn one is still whole.

A line is the JSON of a record. `prev` is the SHA-256 of the line before it (without its newline), of nothing for the
first; so no record can be changed, removed or put in between without breaking the chain behind it.
"""

from __future__ import annotations

import hashlib

import msgspec

from oneseek.errors import JournalDamaged
from oneseek.events import AnyEvent

GENESIS = hashlib.sha256(b"").hexdigest()


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """An event with its place: `seq` from 1, `at` the wall clock as ISO 8601 in UTC (informative: order is `seq`)."""

    seq: int
    at: str
    prev: str
    event: AnyEvent


class Journal(msgspec.Struct, frozen=True, kw_only=True):
    """A decoded journal. `whole` is how many bytes of the file the records take; what is behind them is a torn tail."""

    records: tuple[Record, ...]
    whole: int
    head: str

    @property
    def next_seq(self) -> int:
        return len(self.records) + 1


_decoder = msgspec.json.Decoder(Record)


def encode(seq: int, at: str, prev: str, event: AnyEvent) -> bytes:
    """The line of a record, newline included."""
    return msgspec.json.encode(Record(seq=seq, at=at, prev=prev, event=event)) + b"\n"


def line_digest(line: bytes) -> str:
    return hashlib.sha256(line.rstrip(b"\n")).hexdigest()


def decode(data: bytes, *, seq: int = 1, prev: str = GENESIS) -> Journal:
    """The records of a journal, or of its continuation from record `seq` behind a line with digest `prev`.

    A last line that is torn (no newline, or not a record) is left out: it was never acknowledged.

    Raises:
        JournalDamaged: a record that has others behind it is not what was written.
    """
    records: list[Record] = []
    whole = 0
    while whole < len(data):
        end = data.find(b"\n", whole)
        if end < 0:
            break
        line = data[whole:end]
        problem = ""
        try:
            record = _decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            problem = f"it can't be read ({error})"
        else:
            if record.seq != seq:
                problem = f"it says it is record {record.seq}"
            elif record.prev != prev:
                problem = "it does not follow the record before it"
        if problem:
            if data.find(b"\n", end + 1) < 0:
                break
            raise JournalDamaged(
                f"Record {seq} of the journal is damaged: {problem}.",
                "The run can't be trusted any more; start a new one, or restore the journal from a backup.",
            )
        records.append(record)
        seq, prev, whole = seq + 1, line_digest(line), end + 1
    return Journal(records=tuple(records), whole=whole, head=prev)
