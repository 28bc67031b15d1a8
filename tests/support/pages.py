"""Pages that say what commands print: their blocks, and whether it was printed.

Numbers differ from machine to machine, and tables with them: digits, white space and rules are masked before lines are
compared. A line of three dots stands for any lines.
"""

from __future__ import annotations

import re

BLOCK = re.compile(r"^```(console|python|json)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def masked(line: str) -> str:
    """A line without what may differ: numbers, ids, paths, table rules and the length of white space."""
    line = re.sub(r"[\d.,]*\d[\d.,]*(e-?\d+)?", "#", re.sub(r"\b[0-9a-f]{8}([0-9a-f]{8})?\b", "#", line))
    return " ".join(re.sub(r"[─━]+", "─", line).split())


def missing_lines(expected: str, printed: str) -> list[str]:
    """The expected lines that were not printed in this order."""
    rest = iter([masked(line) for line in printed.splitlines()])
    wanted = [masked(line) for line in expected.splitlines() if line.strip() not in ("", "...")]
    return [line for line in wanted if line not in rest]


def commands(text: str) -> list[tuple[str, str]]:
    """Each command of a console block with what it should print. A command goes on behind a backslash."""
    parts = re.split(r"^\$ ", text, flags=re.MULTILINE)
    found = [re.match(r"((?:[^\n]*\\\n)*[^\n]*)\n(.*)", part, re.DOTALL) for part in parts if part]
    return [(each[1], each[2]) for each in found if each]
