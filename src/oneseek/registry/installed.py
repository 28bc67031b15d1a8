"""What the installed transformers knows of a model type. Its tables are read as text: importing it takes seconds."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

Renaming = tuple[str, str]
"""A regular expression, and what transformers writes in its place into the names of a checkpoint's tensors."""


@cache
def causal_types() -> frozenset[str] | None:
    """The model types of which transformers has a causal language model; None where its table is not found.

    A folder's name is not always a type's (gemma3_text is in gemma3), so folders do not tell.
    """
    table = re.search(r"^MODEL_FOR_CAUSAL_LM_MAPPING_NAMES = .*?^\)", _text("models/auto/modeling_auto.py"), _LINES)
    return frozenset(re.findall(r"\(\"([\w-]+)\", ", table[0])) if table else None


@cache
def renamings(model_type: str) -> tuple[Renaming, ...]:
    """How transformers renames the tensors of this type when it loads them: one after the other, in this order.

    Only renamings by model type are found, which are all that change the name of a layer in a causal language model;
    of weights that are split or joined on loading the names stay those of the file.
    """
    text = _text("conversion_mapping.py")
    if f'"{model_type}"' not in text:
        return ()
    lists = _lists(text)
    return tuple(_renamings(lists.get(model_type, [])))


_LINES = re.MULTILINE | re.DOTALL


def _text(name: str) -> str:
    """A source file of transformers; "" where there is none."""
    found = importlib.util.find_spec("transformers")
    places = found.submodule_search_locations if found else None
    path = Path(next(iter(places), "")) / name if places else None
    return path.read_text(encoding="utf-8") if path and path.is_file() else ""


@cache
def _lists(text: str) -> dict[str, list[ast.expr]]:
    """Every list of conversions by what it is for: entries of a dictionary, or assigned or added to one."""
    lists: dict[str, list[ast.expr]] = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Dict):
            pairs = [(key, value) for key, value in zip(node.keys, node.values, strict=True) if key is not None]
        elif isinstance(node, ast.Assign | ast.AugAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            pairs = [(target.slice, node.value)] if isinstance(target, ast.Subscript) else []
        else:
            continue
        for key, value in pairs:
            if isinstance(key, ast.Constant) and isinstance(value, ast.List):
                lists.setdefault(str(key.value), []).extend(value.elts)
    return lists


def _renamings(calls: list[ast.expr]) -> Iterator[Renaming]:
    for call in calls:
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "WeightRenaming":
            given = [*call.args, *(keyword.value for keyword in call.keywords)]
            texts = [value.value for value in given if isinstance(value, ast.Constant)]
            if len(texts) == 2 and all(isinstance(value, str) for value in texts):
                yield str(texts[0]), str(texts[1]).replace("\\.", ".")
