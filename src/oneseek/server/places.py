"""The server's own directories, which no answer names: what lies below one is called by its place there."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from oneseek.errors import OneSeekError
from oneseek.files.layout import Home


class Places:
    """`/srv/oneseek/datasets/rows.jsonl` is told as `datasets/rows.jsonl` where /srv/oneseek is one of `directories`,
    and /srv/oneseek itself as `oneseek`."""

    def __init__(self, *directories: Path) -> None:
        forms = {form for each in directories for form in (each.absolute(), each.resolve()) if len(form.parts) > 1}
        deepest_first = sorted(map(str, forms), key=len, reverse=True)
        self._place = re.compile(rf"(?<![\w./-])(?:{'|'.join(map(re.escape, deepest_first))})(?:/|(?![\w-]|\.\w))")

    def hide(self, document: Any) -> Any:
        """A document of dicts, lists and plain values, all its texts without these directories."""
        if isinstance(document, str):
            return self._place.sub(_told, document)
        if isinstance(document, dict):
            return {name: self.hide(value) for name, value in document.items()}
        if isinstance(document, (list, tuple)):
            return [self.hide(value) for value in document]
        return document

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """The same for the errors of what is done inside."""
        try:
            yield
        except OneSeekError as error:
            error.problem, error.fix = self.hide(error.problem), self.hide(error.fix)
            raise

    async def in_errors(self) -> AsyncIterator[None]:
        """The same as a route's dependency."""
        with self.hidden():
            yield


def without_places(home: Home) -> Callable[[Any], Any]:
    """`Places.hide` of a home's directories."""
    return Places(*filter(None, (home.root, home.models, home.cache))).hide


def _told(found: re.Match[str]) -> str:
    return "" if found[0].endswith("/") else Path(found[0]).name
