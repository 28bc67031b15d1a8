"""What a run's directory says, read once for all checks; and why a check can't be made where it says nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm

from oneseek.certificate import ledger_proof, manifest
from oneseek.certificate.checks.directory import LARGEST_DOCUMENT, Directory
from oneseek.certificate.checks.weights import largest, read_adapter, weights_file
from oneseek.certificate.documents import Document
from oneseek.certificate.keys import Pins
from oneseek.certificate.ledger_proof import LedgerProof
from oneseek.certificate.manifest import Manifest
from oneseek.certificate.tensors import Tensor
from oneseek.errors import CertificateInvalid, JournalDamaged, OneSeekError
from oneseek.events import (
    AnyEvent,
    DownloadProgressed,
    EpochCommitted,
    EpochStarted,
    ProgressReported,
    RunAccepted,
    RunFailed,
    RunFinished,
    RunPlanned,
    RunQueued,
    RunResumed,
    RunStopped,
    WeightsAdjusted,
)
from oneseek.events.state import RunState, apply, begin
from oneseek.journal.record import GENESIS, Record, decode
from oneseek.ledger.log import Log

LARGEST_JOURNAL = 256 << 20  # bytes
_LARGEST_LINE = 16 << 20  # bytes: the rows that a plan leaves out may be many
_MOST_MODELS = 1000
_MOST_WORK = 100_000_000
"""Numbers that are looked at, at most, to decide every epoch again: in each, those of all models in all before it."""

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
    """What a journal tells: the run that it makes, what was decided from which state, the number of records, and when
    it began and ended."""

    state: RunState
    decided: tuple[tuple[RunState, EpochCommitted | RunFinished], ...]
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
        unsealed: Manifest | None = None,
    ) -> None:
        """`unsealed`: what the directory is about to be sealed as, where it is not yet."""
        self.directory = Directory(root)
        self.pins = pins
        self.log = log
        self.dataset = dataset
        self.validation = validation
        self.models = models
        self._found: dict[str, Any] = {} if unsealed is None else {MANIFEST: unsealed}
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

    def tensors(self, key: str) -> Iterator[Tensor]:
        """Those of a verified model's adapter, one at a time."""
        try:
            yield from self.read_tensors(key)
        except (OneSeekError, *NONSENSE) as error:
            raise NotCheckable(f"the adapter of {key} can't be read") from error

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
        """Raises NotCheckable where it is not what was sealed: nobody stands for what is in it."""
        if name in self.directory.files and not self.is_sealed(name):
            raise NotCheckable(f"{name} is not what was sealed")
        return self._once(name, lambda: read_document(self.directory, name))

    def read_tensors(self, key: str) -> Iterator[Tensor]:
        """Read again each time: together, adapters may be larger than the memory."""
        return read_adapter(self.directory, key, self._parameters().get(key, 0))

    def is_sealed(self, name: str) -> bool:
        """Whether a file that is there is the one that the manifest lists."""
        listed = self.manifest.files.get(name)
        if listed is None or self.directory.files[name] != listed.size:
            return False
        return self._once(f"SHA-256 of {name}", lambda: self.directory.sha256(name)) == listed.sha256

    def check_size(self, name: str) -> None:
        """Before any of a file is read.

        Raises:
            CertificateInvalid: it is larger than what its name says can be.
        """
        most = {JOURNAL: LARGEST_JOURNAL, **dict.fromkeys(DOCUMENTS, LARGEST_DOCUMENT)}.get(name)
        if name.startswith("adapters/") and name == weights_file(key := name.split("/")[1]):
            try:
                most = largest(self._parameters().get(key, 0))
            except NotCheckable:  # without its journal, nothing tells how large it may be
                return
        if most is not None and self.directory.files.get(name, 0) > most:
            raise CertificateInvalid(f"{name} has {self.directory.files[name]} bytes; {most} are the most.")

    def _parameters(self) -> dict[str, int]:
        """Of each model's adapter, as planned."""
        planned = self.finished[0].planned
        return {plan.key: plan.trainable_parameters for plan in planned.models} if planned else {}

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
    """The journal, folded block by block, in a time that grows with its length and no faster.

    Raises:
        CertificateInvalid: it is missing, too large, of a run that is trained outside, or no run wrote such records in
            this order.
        JournalDamaged: a record is not what was written, or is not whole.
    """
    if (there := directory.files.get(JOURNAL, 0)) > LARGEST_JOURNAL:
        raise CertificateInvalid(f"{JOURNAL} has {there} bytes; {LARGEST_JOURNAL} are the most.")
    state: RunState | None = None
    decided: list[tuple[RunState, EpochCommitted | RunFinished]] = []
    keys: frozenset[str] = frozenset()
    first: Record | None = None
    last: Record | None = None
    waiting, seq, prev = b"", 1, GENESIS
    for blocks in _whole_lines(directory.blocks(JOURNAL)):
        part = decode(waiting + blocks, seq=seq, prev=prev)
        for last in part.records:
            first = first or last
            if state is None:
                state = begin(last.event)
                keys = _keys(state.accepted)
                if state.accepted.engine == "outside":
                    raise CertificateInvalid(f"{JOURNAL} is what another program told: its run is never certified.")
                continue
            if fault := _fault(state, keys, last.event):
                raise CertificateInvalid(f"Record {last.seq} of {JOURNAL}, {type(last.event).__name__}: {fault}.")
            if isinstance(last.event, EpochCommitted | RunFinished):
                decided.append((state, last.event))
            if not isinstance(last.event, _ONLY_SHOWN):
                state = apply(state, last.event)
        waiting, seq, prev = (waiting + blocks)[part.whole :], seq + len(part.records), part.head
    if waiting:
        raise JournalDamaged(f"Record {seq} of the journal is not whole.")
    if state is None or first is None or last is None:
        raise JournalDamaged("The journal has no record.")
    return History(state, tuple(decided), seq - 1, first.at, last.at)


_ONLY_SHOWN = (DownloadProgressed, ProgressReported)
"""By far the most records of a journal; of what they leave in the state, nothing is in a certified run."""


def _keys(accepted: RunAccepted) -> frozenset[str]:
    if len(accepted.models) > _MOST_MODELS:
        raise CertificateInvalid(f"{JOURNAL} is about {len(accepted.models)} models; {_MOST_MODELS} are the most.")
    return frozenset(model.key for model in accepted.models)


def _fault(state: RunState, keys: frozenset[str], event: AnyEvent) -> str | None:
    """Why no run could have written this record next; None where one could."""
    if state.over:
        return "nothing follows RunFinished"
    if state.status in ("failed", "stopped", "interrupted") and not isinstance(event, RunResumed | RunQueued):
        return f"the run is {state.status}, and was not resumed"
    if state.status == "queued" and not isinstance(event, RunResumed | RunStopped | RunFailed):
        return "the run waits for its turn"
    for key in _named(event):
        if key not in keys:
            return f"it is about {key}, which is no model of the run"
    match event:
        case RunPlanned() if state.planned:
            return "there was a plan before"
        case RunResumed() if event.epoch != state.epochs_done:
            return f"the run goes on from epoch {state.epochs_done}, not {event.epoch}"
        case EpochCommitted() if not state.planned:
            return "there is no plan"
        case EpochCommitted() if event.epoch != state.next_epoch or event.epoch > state.total_epochs:
            return f"epoch {event.epoch} follows {state.epochs_done} of {state.total_epochs}"
        case EpochCommitted() if event.epoch**2 * len(keys) > _MOST_WORK:
            return f"{event.epoch} epochs of {len(keys)} models are more than can be checked"
    return None


def _named(event: AnyEvent) -> Iterable[str]:
    """The models that a record is about."""
    match event:
        case RunPlanned():
            return [*(plan.key for plan in event.models), *event.unprepared]
        case EpochStarted() | WeightsAdjusted():
            return event.learning_rates
        case EpochCommitted():
            return [*event.results, *event.weights, *event.learning_rates, *event.quarantined]
        case RunFinished():
            return [event.champion, *event.final_weights, *event.quarantined]
    return [event.model] if hasattr(event, "model") else []


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
        elif sum(map(len, waiting)) > _LARGEST_LINE:
            break
    yield b"".join(waiting)
