"""Where results go."""

from __future__ import annotations

from collections.abc import Iterator

from oneseek import estimate
from oneseek.config.schema import TrainingConfig
from oneseek.names import format_version, next_version, parse_version
from oneseek.preflight.facts import Facts, Trouble
from oneseek.preflight.finding import Change, Finding, Severity, rule
from oneseek.preflight.rules.models import gib


@rule
def output_writable(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """Results can be written where they are to go."""
    if facts.output_error is not None:
        yield _about_output("error", facts.output_error)


@rule
def version_is_free(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """Nothing that exists is overwritten."""
    if config.output.version in facts.versions:
        free = format_version(next_version([parse_version(version) for version in facts.versions]))
        yield Finding(
            severity="error",
            field="output.version",
            problem=f"Version {config.output.version} exists already.",
            fix=f"Set output.version to {free}, or leave it out to get the next free one.",
            changes=(Change("output.version", None),),
        )


@rule
def enough_disk(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """Checkpoints and adapters of all models fit on the disk."""
    if facts.free_disk_bytes is None:
        return
    needed = sum(estimate.disk_of(model, config).total for model in facts.models)
    if needed > facts.free_disk_bytes:
        yield Finding(
            severity="warning",
            field="output.directory",
            problem=f"The run may need {gib(needed)} of disk; {gib(facts.free_disk_bytes)} are free.",
            fix="Free space, lower lora.r, or set output.directory to another disk.",
        )


@rule
def signing_key_usable(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """Results that cannot be signed are found out before the run, not after it."""
    if facts.key_error is not None:
        yield _about_output("error", facts.key_error)


@rule
def ledger_address_valid(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """`LEDGER_URL` is an address that a ledger can have and be reached at safely: by https, or on this machine; and
    `SSL_CERT_FILE` and the proxy's variables name what can be used. Whether one answers is not asked; runs go without.
    """
    if facts.ledger_url_error is not None:
        yield _about_output("error", facts.ledger_url_error)


@rule
def ledger_usable(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """The ledger of this home is there and can be read; for a service, `LEDGER_TOKEN` is set. Where that is not so, the
    run is completed, and logged later."""
    if facts.ledger_error is not None:
        yield _about_output("warning", facts.ledger_error)


def _about_output(severity: Severity, trouble: Trouble) -> Finding:
    return Finding(severity=severity, field="output.directory", problem=trouble.problem, fix=trouble.fix)
