"""What the code says to people, read off its syntax tree: every problem and fix, with a place for each value."""

from __future__ import annotations

import ast
import builtins
import itertools
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parent.parent.parent / "src" / "oneseek"
VALUE = "\x00"
"""Stands where the code puts a value."""

_NAMED = ("problem", "fix", "reason", "why")
_ERRORS = ("Refused", "Error", "Damaged", "Invalid", "Unknown", "Failed", "Unavailable")
_BEHIND_A_KIND = ("Refusal", "HubError", "Fault", "ModelProblem", "WorkerFailed")
_MOST_FORMS = 64  # of one text; of more, the first


def said_in(module: str) -> list[tuple[int, str]]:
    """Every text of a module (`registry/hub.py`) that it makes errors, troubles and findings of: (line, text). Where it
    depends on a condition, each of its forms."""
    tree = ast.parse((SOURCE / module).read_text("utf-8"))
    found = {(node.lineno, text) for node in ast.walk(tree) if isinstance(node, ast.Call) for text in _texts(node)}
    return sorted((line, text) for line, text in found if text.strip(VALUE + " .:,"))


def _texts(call: ast.Call) -> Iterator[str]:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    arguments: list[ast.expr] = []
    if name in _BEHIND_A_KIND:
        arguments = call.args[1:3]
    elif name == "Trouble" or (name.endswith(_ERRORS) and not hasattr(builtins, name)):
        arguments = call.args[:2]
    for part in (*arguments, *(keyword.value for keyword in call.keywords if keyword.arg in _NAMED)):
        yield from _forms(part)


def _forms(node: ast.expr) -> list[str]:
    """The texts that an expression can be."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=values):
            return _joined([_forms(part) for part in values])
        case ast.FormattedValue(value=ast.IfExp() | ast.Constant() | ast.JoinedStr() as value):
            return _forms(value)
        case ast.IfExp(body=body, orelse=other):
            return [*_forms(body), *_forms(other)]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _joined([_forms(left), _forms(right)])
        case _:
            return [VALUE]


def _joined(parts: list[list[str]]) -> list[str]:
    return ["".join(words) for words in itertools.islice(itertools.product(*parts), _MOST_FORMS)]
