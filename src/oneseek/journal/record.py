"""The form of a journal: encode a record, decode a journal, find where a torn one is still whole.

A line is the JSON of a record. `digest`, always last, is the SHA-256 of the line's bytes before it; `prev` is the
digest of the record before. So no bit of a record can be changed unseen, and none removed or put in between.
"""

from __future__ import annotations

import hashlib

import msgspec

from oneseek.errors import JournalDamaged
from oneseek.events import AnyEvent

GENESIS = hashlib.sha256(b"").hexdigest()
_DIGEST = b',"digest":"%s"}'
_DIGEST_LENGTH = len(_DIGEST % GENESIS.encode())


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """An event with its place: `seq` from 1, `at` the wall clock as ISO 8601 in UTC (informative: order is `seq`)."""

    seq: int
    at: str
    prev: str
    event: AnyEvent


class Journal(msgspec.Struct, frozen=True, kw_only=True):
    """A decoded journal. `whole` is how many bytes of the file the records take; what is behind them is a torn tail.
    `head` is the digest of the last record."""

    records: tuple[Record, ...]
    whole: int
    head: str

    @property
    def next_seq(self) -> int:
        return len(self.records) + 1


_decoder = msgspec.json.Decoder(Record)


def encode(record: Record) -> tuple[bytes, str]:
    """The line of a record, newline included, and its digest."""
    body = msgspec.json.encode(record)[:-1]
    digest = hashlib.sha256(body).hexdigest()
    return body + _DIGEST % digest.encode() + b"\n", digest


def decode(data: bytes, *, seq: int = 1, prev: str = GENESIS) -> Journal:
    """The records of a journal, or of its continuation from record `seq` behind one with digest `prev`.

    A last line without a newline is torn: it was never acknowledged, and is left out.

    Raises:
        JournalDamaged: a whole line is not what was written.
    """
    records: list[Record] = []
    whole = 0
    while (end := data.find(b"\n", whole)) >= 0:
        record, digest = _decode_line(data[whole:end], seq, prev)
        records.append(record)
        seq, prev, whole = seq + 1, digest, end + 1
    return Journal(records=tuple(records), whole=whole, head=prev)


def _decode_line(line: bytes, seq: int, prev: str) -> tuple[Record, str]:
    body = line[:-_DIGEST_LENGTH]
    digest = hashlib.sha256(body).hexdigest()
    if line[-_DIGEST_LENGTH:] != _DIGEST % digest.encode():
        raise _damaged(seq, "its digest is another")
    try:
        record = _decoder.decode(body + b"}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(seq, f"it can't be read ({error})") from error
    if record.seq != seq:
        raise _damaged(seq, f"it says it is record {record.seq}")
    if record.prev != prev:
        raise _damaged(seq, "it does not follow the record before it")
    return record, digest


def _damaged(seq: int, problem: str) -> JournalDamaged:
    return JournalDamaged(
        f"Record {seq} of the journal is damaged: {problem}.",
        "The run can't be trusted any more; start a new one, or restore the journal from a backup.",
    )
