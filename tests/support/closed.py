"""A folder of somebody else, for tests that may run as root, to whom every folder is open."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest


def close(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on nothing in it can be looked at."""
    for name in ("stat", "open"):
        _refuse(folder, name, monkeypatch)


def _refuse(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call = getattr(Path, name)

    def refusing(self: Path, *args: Any, **kwargs: Any) -> Any:
        if folder in self.parents:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return call(self, *args, **kwargs)

    monkeypatch.setattr(Path, name, refusing)
