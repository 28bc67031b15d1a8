"""A finding: one thing that is wrong with a request, and the fix to type. Rules make them, `check` asks all rules."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import msgspec

from oneseek.config.reference import settings
from oneseek.config.schema import TrainingConfig
from oneseek.errors import OneSeekError, Refused
from oneseek.preflight.facts import Facts

Severity = Literal["error", "warning"]


class Change(msgspec.Struct, frozen=True):
    """A setting to write into a configuration: its dotted field and its value there; None removes it."""

    field: str
    value: Any


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """An `error` refuses the run, a `warning` never does. `field` is the setting to change, `model` a model's key.

    `rule` is filled in by the rule that the finding comes from. `changes` are the fix where settings alone are the fix,
    or one of several. What a warning says may be `meant`: then nothing is changed unless somebody asks for that very
    change.
    """

    rule: str = ""
    severity: Severity
    field: str
    problem: str
    fix: str
    model: str | None = None
    changes: tuple[Change, ...] = ()
    meant: bool = False


class PreflightError(Refused):
    """The request was refused, for all the reasons in `findings`."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        errors = sum(finding.severity == "error" for finding in findings)
        super().__init__(
            f"Nothing was started: {errors} {'error' if errors == 1 else 'errors'} in what was asked for.",
            "Correct what is listed above." if errors else "",
        )
        self.findings = tuple(findings)

    def __str__(self) -> str:
        lines = [f"{finding.severity}: {finding.field}: {finding.problem} {finding.fix}" for finding in self.findings]
        return "\n".join([self.problem, *lines])


Rule = Callable[[TrainingConfig, Facts], Iterator[Finding]]

_rules: dict[str, Rule] = {}


def rule(judge: Rule) -> Rule:
    """Register a rule. Its id is the function's name with dashes; its findings carry that id.

    Raises:
        ValueError: another rule has the same name.
    """
    name = judge.__name__.replace("_", "-")
    if name in _rules:
        raise ValueError(f"there are two rules called {name}")

    @functools.wraps(judge)
    def named(config: TrainingConfig, facts: Facts) -> Iterator[Finding]:
        for finding in judge(config, facts):
            yield msgspec.structs.replace(finding, rule=name)

    _rules[name] = named
    return named


def registered() -> dict[str, Rule]:
    """Every rule by its id."""
    return dict(_rules)


def check(config: TrainingConfig, facts: Facts) -> tuple[Finding, ...]:
    """All findings, `in_order`."""
    return in_order([finding for judge in registered().values() for finding in judge(config, facts)])


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Errors before warnings, then in the order of the schema's fields, then by rule; otherwise as they came."""
    return tuple(sorted(findings, key=_place))


def wire(finding: Finding) -> dict[str, Any]:
    """A finding as programs get it."""
    told: dict[str, Any] = msgspec.to_builtins(finding)
    del told["meant"]
    told["changes"] = [msgspec.json.decode(msgspec.json.encode(change)) for change in finding.changes]
    return told


def body(error: OneSeekError) -> dict[str, Any]:
    """An error as programs get it: `--json` and HTTP alike."""
    code = next(kind.__name__ for kind in type(error).__mro__ if not kind.__name__.startswith("_"))
    shown: dict[str, Any] = {"code": code, "message": error.problem, "fix": error.fix}
    if isinstance(error, PreflightError):
        shown["findings"] = [wire(finding) for finding in error.findings]
    return shown


def _place(finding: Finding) -> tuple[bool, int, int, str]:
    sections, fields = tuple(TrainingConfig.model_fields), tuple(settings())
    return (
        finding.severity != "error",
        _index(sections, finding.field.partition(".")[0]),
        _index(fields, finding.field),
        finding.rule,
    )


def _index(names: tuple[str, ...], name: str) -> int:
    """Its place, after all others where it is none of them."""
    return names.index(name) if name in names else len(names)
