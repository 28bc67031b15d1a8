"""Every rule as data: docs/rules.md is made of it."""

from __future__ import annotations

import inspect
from collections import defaultdict

from oneseek.config.reference import filled
from oneseek.preflight import registered


def table() -> str:
    """One Markdown table for each theme: what each rule looks at and why, in its own words."""
    themes: dict[str, list[str]] = defaultdict(list)
    for name, judge in registered().items():
        module = inspect.getmodule(inspect.unwrap(judge))
        heading = inspect.cleandoc(getattr(module, "__doc__", "") or "").splitlines()[0]
        words = " ".join(inspect.cleandoc(judge.__doc__ or "").split())
        themes[heading].append(f"| `{name}` | {words} |")
    return "\n\n".join(
        "\n".join([f"### {heading}", "", "| rule | why it is there |", "|---|---|", *sorted(rows)])
        for heading, rows in sorted(themes.items())
    )


def page(written: str) -> str:
    """`written` with its table of rules as the code has it now.

    Raises:
        ValueError: a marker is missing.
    """
    return filled(written, "rules", table())
