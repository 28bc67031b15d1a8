"""What a run's directory says, read once for all checks; and why a check can't be made where it says nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm

from oneseek.certificate import ledger_proof, manifest
from oneseek.certificate.checks.directory import LARGEST_DOCUMENT, Directory
from oneseek.certificate.checks.weights import read_adapter, weights_file
from oneseek.certificate.documents import Document
from oneseek.certificate.keys import Pins
from oneseek.certificate.ledger_proof import LedgerProof
from oneseek.certificate.manifest import Manifest
from oneseek.certificate.tensors import Tensor
from oneseek.errors import CertificateInvalid, JournalDamaged, OneSeekError
from oneseek.events import RunFinished
from oneseek.events.state import RunState, apply, begin
from oneseek.journal.record import GENESIS, Record, decode
from oneseek.ledger.log import Log

JOURNAL, RECIPE, DNA = "journal.jsonl", "recipe.json", "oneseek_dna.json"
RESULTS, METRICS, PROVENANCE = "training_results.json", "live_metrics.json", "provenance.json"
QUARANTINES = ("quarantine.jsonl", "quarantine-validation.jsonl")
DOCUMENTS = (DNA, RESULTS, METRICS, RECIPE, PROVENANCE)
MANIFEST, SIGNATURE, PROOF = manifest.NOT_LISTED

NONSENSE = (
    ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, StopIteration, TypeError,
    UnsupportedAlgorithm, ValueError,
)  # fmt: skip
"""What functions raise that were given a run which OneSeek did not write: a field absent, a number without bounds."""

Found = TypeVar("Found")


class NotCheckable(Exception):
    """A check can't be made here; the text says why."""


class History(msgspec.Struct, frozen=True):
    """What a journal tells: the run that it makes, its number of records, and when it began and ended."""

    state: RunState
    records: int
    began_at: str
    ended_at: str


class Evidence:
    """A run's directory, and what it is to be compared with. Each thing is read once, whether there is one or not.

    What is asked for by its name raises NotCheckable where it can't be had. The check whose business it is asks by
    `read_...` instead, and gets the error that says why.
    """

    def __init__(
        self,
        root: Path,
        pins: Pins,
        log: Log | OneSeekError | None,
        dataset: Path | None,
        validation: Path | None,
        models: Path | None,
    ) -> None:
        self.directory = Directory(root)
        self.pins = pins
        self.log = log
        self.dataset = dataset
        self.validation = validation
        self.models = models
        self._found: dict[str, Any] = {}
        self._errors: dict[str, Exception] = {}

    @property
    def manifest(self) -> Manifest:
        return _given(MANIFEST, self.read_manifest)

    @property
    def history(self) -> History:
        return _given("the journal", self.read_history)

    @property
    def finished(self) -> tuple[RunState, RunFinished]:
        """The run and its last record."""
        state = self.history.state
        if state.result is None:
            raise NotCheckable("the run did not finish")
        return state, state.result

    @property
    def proof(self) -> LedgerProof:
        return _given(PROOF, self.read_proof)

    def document(self, name: str) -> Document:
        return _given(name, lambda: self.read_document(name))

    def tensors(self, key: str) -> list[Tensor]:
        """Those of a verified model's adapter."""
        return _given(f"the adapter of {key}", lambda: self.read_tensors(key))

    def lines(self, name: str) -> int:
        """How many lines a file has; none where it is not there."""
        return sum(block.count(b"\n") for block in self.directory.blocks(name)) if name in self.directory.files else 0

    def read_manifest(self) -> Manifest:
        return self._once(MANIFEST, lambda: manifest.parse(self.directory.read(MANIFEST)))

    def read_history(self) -> History:
        return self._once(JOURNAL, lambda: read_history(self.directory))

    def read_proof(self) -> LedgerProof:
        return self._once(PROOF, lambda: ledger_proof.parse(self.directory.read(PROOF)))

    def read_document(self, name: str) -> Document:
        return self._once(name, lambda: read_document(self.directory, name))

    def read_tensors(self, key: str) -> list[Tensor]:
        planned = self.finished[0].planned
        parameters = {plan.key: plan.trainable_parameters for plan in planned.models} if planned else {}
        return self._once(weights_file(key), lambda: read_adapter(self.directory, key, parameters.get(key, 0)))

    def _once(self, name: str, read: Callable[[], Found]) -> Found:
        if name in self._errors:
            raise self._errors[name]
        if name not in self._found:
            try:
                self._found[name] = read()
            except (OneSeekError, *NONSENSE) as error:
                self._errors[name] = error
                raise
        found: Found = self._found[name]
        return found


def _given(what: str, read: Callable[[], Found]) -> Found:
    try:
        return read()
    except (OneSeekError, *NONSENSE) as error:
        raise NotCheckable(f"{what} can't be read") from error


def read_history(directory: Directory) -> History:
    """The journal, folded block by block.

    Raises:
        CertificateInvalid: it is missing.
        JournalDamaged: a record is not what was written, or is not whole.
    """
    state: RunState | None = None
    first: Record | None = None
    last: Record | None = None
    waiting, seq, prev = b"", 1, GENESIS
    for blocks in _whole_lines(directory.blocks(JOURNAL)):
        part = decode(waiting + blocks, seq=seq, prev=prev)
        for last in part.records:
            first = first or last
            state = apply(state, last.event) if state else begin(last.event)
        waiting, seq, prev = (waiting + blocks)[part.whole :], seq + len(part.records), part.head
    if waiting:
        raise JournalDamaged(f"Record {seq} of the journal is not whole.")
    if state is None or first is None or last is None:
        raise JournalDamaged("The journal has no record.")
    return History(state, seq - 1, first.at, last.at)


def read_document(directory: Directory, name: str) -> Document:
    """A JSON object.

    Raises:
        CertificateInvalid: there is none.
    """
    data = directory.read(name)
    try:
        document: Any = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CertificateInvalid(f"{name} can't be read: {error}.") from error
    if not isinstance(document, dict):
        raise CertificateInvalid(f"{name} holds no JSON object.")
    return document


def _whole_lines(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes, each time as many blocks as it takes to end a line, or more than any line has."""
    waiting: list[bytes] = []
    for block in blocks:
        waiting.append(block)
        if b"\n" in block:
            yield b"".join(waiting)
            waiting = []
        elif sum(map(len, waiting)) > LARGEST_DOCUMENT:
            break
    yield b"".join(waiting)
