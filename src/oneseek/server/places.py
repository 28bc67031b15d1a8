"""The server's own directories, which no answer names: what lies below one is called by its place there, and a dataset
of the store by its name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from oneseek.datasets.store import stored_name
from oneseek.files.layout import Home

Hide = Callable[[Any], Any]
"""Gives back a document of dicts, lists and plain values, all its texts without the server's directories."""


def hiding(home: Home) -> Hide:
    """With it, `/srv/oneseek/datasets/rows.jsonl` is told as `datasets/rows.jsonl` where /srv/oneseek is the home's
    root, its models or the cache, and /srv/oneseek itself as `oneseek`; what the store keeps there as
    `datasets/0123….jsonl` as people call it."""
    directories = filter(None, (home.root, home.models, home.cache))
    forms = {form for each in directories for form in (each.absolute(), each.resolve()) if len(form.parts) > 1}
    deepest_first = sorted(map(str, forms), key=len, reverse=True)
    place = re.compile(rf"(?<![\w./-])(?:{'|'.join(map(re.escape, deepest_first))})(?:/|(?![\w-]|\.\w))")

    stored = re.compile(rf"(?<![\w./-]){home.datasets.name}/([0-9a-f]{{64}}\.[a-z]{{3,7}})(?!\w|\.\w)")

    def named(found: re.Match[str]) -> str:
        name = stored_name(home.datasets / found[1])
        return found[0] if name == found[1] else name

    def hide(document: Any) -> Any:
        if isinstance(document, str):
            return stored.sub(named, place.sub(_told, document))
        if isinstance(document, dict):
            return {name: hide(value) for name, value in document.items()}
        if isinstance(document, (list, tuple)):
            return [hide(value) for value in document]
        return document

    return hide


def as_it_is(document: Any) -> Any:
    """Hides nothing: where there is no home."""
    return document


def _told(found: re.Match[str]) -> str:
    return "" if found[0].endswith("/") else Path(found[0]).name
