"""The files that a page is made of: read once, compressed once, and named by their content."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DIRECTORY = Path(__file__).parent / "assets"

_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_BASE = "oneseek.css"
"""The style that every page begins with. It is sent with the page's own, which saves a request."""


@dataclass(frozen=True)
class Asset:
    """A file as it is sent. `compressed`: by gzip."""

    content: bytes
    compressed: bytes
    media_type: str


class Assets:
    """Every file by its name. `version` changes when any of them does, so browsers may keep each for ever: modules
    import each other by relative addresses, below the same version."""

    def __init__(self, directory: Path = DIRECTORY) -> None:
        files = {path.name: path.read_bytes() for path in sorted(directory.iterdir()) if path.suffix in _TYPES}
        digest = hashlib.sha256()
        for name, content in files.items():
            digest.update(f"{name} {len(content)}\n".encode() + content)
        self.version = digest.hexdigest()[:12]
        self._assets = {name: _asset(name, _with_base(name, files)) for name, content in files.items()}

    def find(self, version: str, name: str) -> Asset | None:
        """A file of this version; None where there is none, or the version is another one."""
        return self._assets.get(name) if version == self.version else None

    def text(self, name: str) -> str:
        """What a file says."""
        return self._assets[name].content.decode()

    @property
    def modules(self) -> tuple[str, ...]:
        """The names of all modules."""
        return tuple(name for name in self._assets if name.endswith(".js"))


def compressed(content: bytes) -> bytes:
    """By gzip, the same bytes every time."""
    return gzip.compress(content, 9, mtime=0)


def _with_base(name: str, files: Mapping[str, bytes]) -> bytes:
    content = files[name]
    return files[_BASE] + b"\n" + content if name.endswith(".css") and name != _BASE else content


def _asset(name: str, content: bytes) -> Asset:
    media_type = _TYPES[Path(name).suffix]
    return Asset(content, compressed(content), media_type)
