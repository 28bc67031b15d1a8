"""Whether a run's directory is what was certified, from the directory alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from oneseek.certificate.checks import adapters, files, history, ledger, sources
from oneseek.certificate.checks.evidence import DOCUMENTS, NONSENSE, Evidence, NotCheckable
from oneseek.certificate.keys import Pins
from oneseek.certificate.manifest import Manifest
from oneseek.certificate.report import NAMES, Check, Outcome, Report
from oneseek.errors import OneSeekError
from oneseek.ledger.log import Log

_CHECKS: tuple[Callable[[Evidence], str], ...] = (
    files.check_format,
    files.check_signature,
    files.check_digests,
    files.check_encoding,
    history.check_journal,
    history.check_documents,
    adapters.check_adapters,
    history.check_dna,
    ledger.check_leaf,
    ledger.check_inclusion,
    ledger.check_consistency,
    ledger.check_keys,
    sources.check_dataset,
    sources.check_base_models,
)

_WITHOUT_A_SEAL = (history.check_journal, adapters.check_adapters, history.check_documents, history.check_dna)

_MORE_THAN_THE_DIRECTORY = ("consistency", "dataset", "base models")
"""What they compare with may not be here. All others must be ok: what can't be checked proves nothing."""

_LONGEST = 500  # characters of a detail


def verify(
    root: Path,
    *,
    pins: Pins,
    log: Log | OneSeekError | None = None,
    dataset: Path | None = None,
    validation: Path | None = None,
    models: Path | None = None,
) -> Report:
    """Check a run's directory. Nothing is written, nothing outside of it is read but what is named here, and nothing
    that may lie in it raises: each finding is a failed check.

    pins: the public keys that are trusted.
    log: the ledger as it is now, or why it can't be opened; it is asked where it has the key of the run's own.
    dataset, validation: the files that the run was trained and validated on.
    models: a directory of base models (`registry.discover`); every byte of their weights is read.
    """
    evidence = Evidence(root, pins, log, dataset, validation, models)
    numbered = enumerate(zip(NAMES, _CHECKS, strict=True), start=1)
    checks = tuple(Check(number, name, *_made(check, evidence)) for number, (name, check) in numbered)
    ok = all(
        check.result == "ok" or (check.result == "not checkable" and check.name in _MORE_THAN_THE_DIRECTORY)
        for check in checks
    )
    return Report(ok, checks)


def contradiction(root: Path, manifest: Manifest) -> str | None:
    """What in a directory contradicts its own journal, before it is sealed as `manifest`; None where nothing does."""
    nobody = Pins(frozenset(), frozenset())
    evidence = Evidence(root, nobody, None, None, None, None, unsealed=manifest)
    for check in (_check_documents_spelt, *_WITHOUT_A_SEAL):
        outcome, detail = _made(check, evidence)
        if outcome != "ok":
            return detail
    return None


def _check_documents_spelt(evidence: Evidence) -> str:
    files.check_spelling(evidence, DOCUMENTS)
    return ""


def _made(check: Callable[[Evidence], str], evidence: Evidence) -> tuple[Outcome, str]:
    try:
        return "ok", _readable(check(evidence))
    except NotCheckable as reason:
        return "not checkable", _readable(str(reason))
    except OneSeekError as lie:
        return "failed", _readable(lie.problem)
    except NONSENSE as error:
        return "failed", _readable(f"there is something that no run of OneSeek has: {error!r}")


def _readable(text: str) -> str:
    """For terminals and JSON: whatever stands in a file, no character commands the one or breaks the other."""
    cut = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in cut)
