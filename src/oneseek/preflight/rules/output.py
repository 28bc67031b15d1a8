"""Where results go."""

from __future__ import annotations

from collections.abc import Iterator

from oneseek import estimate
from oneseek.config.schema import TrainingConfig
from oneseek.names import format_version, next_version, parse_version
from oneseek.preflight.facts import Facts
from oneseek.preflight.finding import Change, Finding, rule
from oneseek.preflight.rules.models import gib


@rule
def output_writable(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """Results can be written where they are to go."""
    if facts.output_error is not None:
        yield Finding(
            severity="error",
            field="output.directory",
            problem=facts.output_error.problem,
            fix=facts.output_error.fix,
        )


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
        yield Finding(
            severity="error", field="output.directory", problem=facts.key_error.problem, fix=facts.key_error.fix
        )
