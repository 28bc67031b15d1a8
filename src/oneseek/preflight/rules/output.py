"""Where results go."""

from __future__ import annotations

from collections.abc import Iterator

from oneseek import estimate
from oneseek.config.schema import TrainingConfig
from oneseek.names import format_version, next_version, parse_version
from oneseek.preflight.facts import Facts
from oneseek.preflight.finding import Finding, rule
from oneseek.preflight.rules.models import gib
from oneseek.registry.capabilities import lora_targets


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
        )


@rule
def enough_disk(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
    """Checkpoints and adapters of all models fit on the disk."""
    if facts.free_disk_bytes is None:
        return
    needed = 0
    for model in facts.models:
        lora = config.lora_for(model.key)
        targets = lora_targets(model, lora.target_modules)
        inside = config.training.checkpoint_every is not None
        needed += estimate.disk(model, lora_r=lora.r, targets=targets, inside_epochs=inside)
    if needed > facts.free_disk_bytes:
        yield Finding(
            severity="warning",
            field="output.directory",
            problem=f"The run may need {gib(needed)} of disk; {gib(facts.free_disk_bytes)} are free.",
            fix="Free space, lower lora.r, or set output.directory to another disk.",
        )
