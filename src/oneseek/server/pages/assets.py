"""The files that a page is made of: read once, compressed once, and named by their content."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from oneseek.server.pages.words import translated

DIRECTORY = Path(__file__).parent / "assets"

_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_BASE = "oneseek.css"
_STYLES = {
    "oneseek.css": (),
    "door.css": ("passphrase.css", "door.css"),
    "access.css": ("passphrase.css", "lists.css", "access.css"),
    "train.css": ("train.css", "dataset.css"),
    "models.css": ("lists.css", "models.css"),
    "datasets.css": ("lists.css", "dataset.css", "datasets.css"),
    "run.css": ("charts.css", "proof.css", "run.css", "result.css"),
    "runs.css": ("charts.css", "proof.css", "lists.css", "runs.css"),
    "ledger.css": ("proof.css", "lists.css", "ledger.css"),
}
"""The style of a page is sent as one, which saves requests: the base, its own, and what it shares with others."""


@dataclass(frozen=True)
class Asset:
    """A file as it is sent. `compressed`: by gzip."""

    content: bytes
    compressed: bytes
    media_type: str


class Assets:
    """Every file by its name, with modules that speak a language. `version` changes when any of them does, so browsers
    may keep each for ever: modules import each other by relative addresses, below the same version."""

    def __init__(self, directory: Path = DIRECTORY, language: str = "en") -> None:
        files = {path.name: path.read_bytes() for path in sorted(directory.iterdir()) if path.suffix in _TYPES}
        for name in files:
            if name.endswith(".js"):
                files[name] = translated(files[name].decode(), language).encode()
        digest = hashlib.sha256()
        for name, content in files.items():
            digest.update(f"{name} {len(content)}\n".encode() + content)
        self.version = digest.hexdigest()[:12]
        self._assets = {name: _asset(name, _whole(name, files)) for name in files}

    def find(self, version: str, name: str) -> Asset | None:
        """A file of this version; None where there is none, or the version is another one."""
        return self._assets.get(name) if version == self.version else None


def compressed(content: bytes) -> bytes:
    """By gzip, the same bytes every time."""
    return gzip.compress(content, 9, mtime=0)


def _whole(name: str, files: Mapping[str, bytes]) -> bytes:
    if not name.endswith(".css"):
        return files[name]
    return b"\n".join(files[part] for part in (_BASE, *_STYLES.get(name, (name,))))


def _asset(name: str, content: bytes) -> Asset:
    media_type = _TYPES[Path(name).suffix]
    return Asset(content, compressed(content), media_type)
