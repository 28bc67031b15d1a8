"""The Hugging Face cache: where it is, which repositories lie in it, and where each of their files belongs.

A repository is `models--ORG--NAME`. Its `refs/REVISION` hold the commit that a branch or tag meant when it was last
seen, `blobs/` the files under the digests that the hub gives them, `snapshots/COMMIT/` links to them by name. Source:
https://huggingface.co/docs/huggingface_hub/guides/manage-cache. Everything that uses the hub shares it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from oneseek.errors import ModelError
from oneseek.files.durable import write_bytes

_PREFIX = "models--"
_COMMIT = re.compile(r"[0-9a-f]{40}")


def cache_directory(environment: Mapping[str, str]) -> Path:
    """HF_HUB_CACHE, else hub/ in HF_HOME, else ~/.cache/huggingface/hub (XDG_CACHE_HOME counts). It need not exist."""
    if given := environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE"):
        return _expanded(given)
    caches = environment.get("XDG_CACHE_HOME") or "~/.cache"
    return _expanded(environment.get("HF_HOME") or f"{caches}/huggingface") / "hub"


@dataclass(frozen=True)
class Repository:
    """One model's place in the cache. `hub_id` is `org/name`, for a few old models `name`."""

    cache: Path
    hub_id: str

    @property
    def root(self) -> Path:
        return self.cache / (_PREFIX + self.hub_id.replace("/", "--"))

    @property
    def name(self) -> str:
        """The last segment of the hub id, by which the model is selected."""
        return self.hub_id.rpartition("/")[2]

    def blob(self, digest: str) -> Path:
        return self.root / "blobs" / digest

    def partial(self, digest: str) -> Path:
        """What there is so far of a blob that is being downloaded."""
        return self.root / "blobs" / f"{digest}.incomplete"

    def lock(self, digest: str) -> Path:
        """Held while a blob is downloaded, by whichever program does it."""
        return self.cache / ".locks" / self.root.name / f"{digest}.lock"

    def snapshot(self, commit: str) -> Path:
        return self.root / "snapshots" / commit

    def commit(self, revision: str) -> str | None:
        """The commit that a branch, a tag or a commit means here; None where nothing of it is here."""
        if _COMMIT.fullmatch(revision):
            return revision if self.snapshot(revision).is_dir() else None
        try:
            commit = (self.root / "refs" / revision).read_text(errors="replace").strip()
        except OSError:
            return None  # a ref that can't be read names no commit
        return commit if _COMMIT.fullmatch(commit) and self.snapshot(commit).is_dir() else None

    def offered(self) -> str | None:
        """The commit that is listed: that of `main`, else the one that was begun last."""
        try:
            begun = [path for path in (self.root / "snapshots").iterdir() if _COMMIT.fullmatch(path.name)]
        except (FileNotFoundError, NotADirectoryError):
            return None
        newest = max(begun, key=lambda path: (path.stat().st_mtime_ns, path.name), default=None)
        return self.commit("main") or (newest.name if newest else None)

    def remember(self, revision: str, commit: str) -> None:
        """From now on `revision` means `commit` here."""
        if revision != commit:
            ref = self.root / "refs" / revision
            ref.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(ref, commit.encode())


def repositories(cache: Path) -> list[Repository]:
    """Every model of the cache, whole or not, by name.

    Raises:
        ModelError: the cache is there and cannot be listed.
    """
    try:
        names = sorted(path.name for path in cache.iterdir() if path.name.startswith(_PREFIX) and path.is_dir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ModelError(
            f"The Hugging Face cache {cache} cannot be listed: {error.strerror or error}.",
            "Name another one in HF_HUB_CACHE, or give read permission.",
        ) from error
    return [Repository(cache, name.removeprefix(_PREFIX).replace("--", "/")) for name in names]


def _expanded(path: str) -> Path:
    return Path(os.path.expandvars(path)).expanduser()
