"""What the ledger keeps of a run: what the run says of itself, and when the ledger heard it. RFC 8785 JSON."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

import msgspec
import rfc8785

from oneseek.errors import ProofInvalid
from oneseek.ledger.tiles import LARGEST_ENTRY

Event = Literal["dna_v2_training_completed"]

# Of one length and form, so that they stand in the order of their times when compared as text.
_DAY, _TIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2}", r"[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z"
Timestamp = Annotated[str, msgspec.Meta(pattern=rf"\A{_DAY}T{_TIME}\Z")]


class Statement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a completed run states. `base_models` are the keys of the verified models, `manifest_sha256` is hex."""

    event: Event = "dna_v2_training_completed"
    run_id: str
    dna: str
    base_models: tuple[str, ...] = msgspec.field(name="baseModels")
    final_weights: dict[str, float]
    manifest_sha256: str


class Entry(Statement, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A statement as it stands in the log; `timestamp` is the ledger's clock, ISO 8601 in UTC with milliseconds."""

    timestamp: Timestamp

    @property
    def statement(self) -> Statement:
        return Statement(**{name: getattr(self, name) for name in Statement.__struct_fields__})


def encode(said: Statement | Entry) -> bytes:
    """Its one spelling. A statement's or an entry's bytes.

    Raises:
        ProofInvalid: it is longer than an entry may be.
    """
    data: bytes = rfc8785.dumps(msgspec.to_builtins(said))
    if len(data) > LARGEST_ENTRY:
        raise ProofInvalid(
            f"{said.run_id} would take {len(data)} bytes in the ledger; {LARGEST_ENTRY} are the most.",
            "Train fewer base models in one run.",
        )
    return data


def stamped(statement: Statement, timestamp: str) -> Entry:
    """The entry that a statement becomes."""
    return Entry(**msgspec.structs.asdict(statement), timestamp=timestamp)


def statement_of(data: bytes) -> Statement:
    """A statement from its bytes.

    Raises:
        ProofInvalid: they are none, or not in its one spelling.
    """
    return _decoded(data, Statement)


def entry_of(data: bytes) -> Entry:
    """An entry from its bytes.

    Raises:
        ProofInvalid: they are none, or not in its one spelling.
    """
    return _decoded(data, Entry)


Said = TypeVar("Said", Statement, Entry)


def _decoded(data: bytes, kind: type[Said]) -> Said:
    name = kind.__name__.lower()
    try:
        said = msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProofInvalid(f"This is no ledger {name}: {error}.") from error
    if encode(said) != data:
        raise ProofInvalid(f"This ledger {name} is not spelt as RFC 8785 JSON.")
    return said
