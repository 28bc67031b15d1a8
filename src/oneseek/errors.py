"""What can go wrong, as one tree.

OneSeekError                 everything below carries a problem and a fix
├── Refused                  the request was wrong; nothing was started                      exit 2
│   ├── ConfigError          a setting: unknown, of the wrong type, out of bounds
│   ├── SelectionError       base models: none selected, no match, several matches
│   ├── DatasetError         a file that cannot be read as a dataset
│   │   └── DatasetUnknown   none of that name is stored
│   ├── ModelError           a base model directory that cannot be used
│   ├── RunError             a run: running already, over, changed since it began
│   │   └── RunUnknown       there is none of that name
│   ├── KeyRefused           a key: not there, of another kind, readable by others
│   ├── AccessRefused        a passphrase, link or token that opens nothing here
│   └── PreflightError       one or more findings
└── Failed                   the request was right; doing it failed                          exit 1
    ├── StorageError         disk full, read-only, input/output error
    ├── JournalDamaged       a record in the middle of a journal is not what was written
    ├── ProofInvalid         a signed note, checkpoint, proof or log entry is not what it says
    ├── CertificateInvalid   a manifest, signature or proof of a run is not what was certified
    ├── LedgerDamaged        a ledger is not what it signed; it signs nothing any more
    ├── LedgerUnavailable    a ledger service that does not answer, or refuses
    ├── ServerUnavailable    a OneSeek server that does not answer
    ├── TrainingFailed       no model is left to train, or none could be verified
    └── WorkerFailed         one model's worker: diverged, out of memory, crashed
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal


class OneSeekError(Exception):
    """A problem that a person can read, and the fix to type."""

    exit_code: ClassVar[int] = 1

    def __init__(self, problem: str, fix: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.problem} {self.fix}".strip()

    def __reduce__(self) -> Any:
        """Whatever else an error carries, it is the same on the other side of a process."""
        return _again, (type(self), self.args, self.__dict__)


def _again(kind: type[OneSeekError], args: tuple[Any, ...], carried: dict[str, Any]) -> OneSeekError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(carried)
    return error


class Refused(OneSeekError):
    exit_code = 2


class ConfigError(Refused):
    pass


class SelectionError(Refused):
    pass


class DatasetError(Refused):
    pass


class DatasetUnknown(DatasetError):
    pass


class ModelError(Refused):
    pass


class RunError(Refused):
    pass


class RunUnknown(RunError):
    pass


class KeyRefused(Refused):
    pass


class AccessRefused(Refused):
    pass


class Failed(OneSeekError):
    exit_code = 1


class StorageError(Failed):
    pass


class JournalDamaged(Failed):
    pass


class ProofInvalid(Failed):
    pass


class CertificateInvalid(Failed):
    pass


class LedgerDamaged(Failed):
    pass


class LedgerUnavailable(Failed):
    pass


class ServerUnavailable(Failed):
    pass


class TrainingFailed(Failed):
    pass


class WorkerFailed(Failed):
    """One model's worker could not go on. Only a `crashed` one is worth another try: the others would repeat."""

    def __init__(self, kind: Literal["diverged", "out_of_memory", "crashed", "refused"], problem: str, fix: str = ""):
        super().__init__(problem, fix)
        self.kind = kind
