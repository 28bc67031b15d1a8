"""The one way in which metadata is written: whole or not at all, and on disk when the call returns."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from oneseek.errors import StorageError
from oneseek.files.spelling import spelt

TEMP_SUFFIX = ".tmp"
NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""What file systems without links answer."""


_CAUSES = {
    errno.ENOSPC: ("no space is left on the disk", "Free some space"),
    errno.EDQUOT: ("the disk quota is used up", "Free some space"),
    errno.EROFS: ("the file system is read-only", "Choose another directory with --set output.directory=DIR"),
    errno.EACCES: ("permission is denied", "Give yourself write permission, or choose another directory"),
    errno.EPERM: ("permission is denied", "Give yourself write permission, or choose another directory"),
    errno.EIO: ("the disk reported an input/output error", "Check the disk"),
}


class LinksUnsupportedError(Exception):
    """This file system, or this user, can't make symbolic links."""


def storage_cause(error: OSError) -> tuple[str, str] | None:
    """The cause and the fix, where it is the storage that failed; None for any other OSError."""
    return _CAUSES.get(error.errno or 0)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Every OSError inside becomes a StorageError that names `path`, the cause and the fix."""
    try:
        yield
    except OSError as error:
        cause, fix = storage_cause(error) or (error.strerror or str(error), "Check the path and the disk")
        raise StorageError(f"{path} could not be written: {cause}.", f"{fix}, then try again.") from error


def write_bytes(path: Path, data: bytes) -> None:
    """Put `data` at `path`: temporary file beside it, fsync, rename over it, fsync of the directory. Who may read and
    write a file that was there may do so with the new one.

    Raises:
        StorageError: it could not be written; what was at `path` is still there.
    """
    temporary = path.with_name(path.name + TEMP_SUFFIX)
    with storage_errors(path):
        try:
            with temporary.open("wb") as file:
                with suppress(FileNotFoundError):
                    temporary.chmod(stat.S_IMODE(path.stat().st_mode))
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            raise
        sync_directory(path.parent)


def write_json(path: Path, document: Any) -> None:
    """`document` as readable UTF-8 JSON. NaN is refused (ValueError): JSON has no such number."""
    write_bytes(path, spelt(document))


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable. Windows can't open directories, and needs no such call."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path, mode: int = 0o777) -> None:
    """Make a directory and those above it that are missing, on disk when the call returns; one that is there is left
    as it is.

    mode: of the directory itself, less what the umask takes.

    Raises:
        OSError: it could not be made; see `storage_errors`.
    """
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(mode, exist_ok=True)
    sync_directory(path.parent)


def create_exclusively(path: Path, data: bytes, mode: int = 0o666) -> bool:
    """Make `path` with `data` unless it is there already; says whether it was made. Of many at once, one makes it.

    mode: of the file, less what the umask takes.

    Raises:
        StorageError: it could not be written; nothing is left of it.
    """
    with storage_errors(path):
        make_directory(path.parent)
        try:
            file = open(path, "xb", opener=lambda name, flags: os.open(name, flags, mode))  # noqa: SIM115  closed below
        except FileExistsError:
            return False
        try:
            with file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            with suppress(OSError):
                path.unlink()  # else half of it would be taken for the whole for ever
            raise
        sync_directory(path.parent)
    return True


def write_directory(target: Path, files: Mapping[str, bytes]) -> None:
    """Make `target` a directory of exactly `files` (names may have folders), in one rename, all of it on disk.

    A `target` that is there is set aside first and removed after; between the two there is none, never a mixture.

    Raises:
        StorageError: it could not be written.
    """
    temporary = target.with_name(target.name + TEMP_SUFFIX)
    replaced = target.with_name(f"{target.name}.old{TEMP_SUFFIX}")
    with storage_errors(target):
        remove_directory(temporary)
        remove_directory(replaced)
        make_directory(temporary)
        for name, data in files.items():
            _write_file(temporary / name, data)
        for folder in sorted({temporary, *((temporary / name).parent for name in files)}, reverse=True):
            sync_directory(folder)
        if target.exists():
            target.rename(replaced)
        temporary.rename(target)
        sync_directory(target.parent)
        remove_directory(replaced)


def remove_directory(directory: Path) -> None:
    """Remove a directory and what is in it, if it is there."""
    if directory.exists():
        shutil.rmtree(directory)


def copy_tree(source: Path, target: Path) -> None:
    """Make `target` a copy of the directory `source`, by way of `target.tmp`; an existing `target` is left alone."""
    if target.exists():
        return
    temporary = target.with_name(target.name + TEMP_SUFFIX)
    with storage_errors(target):
        shutil.rmtree(temporary, ignore_errors=True)
        make_directory(target.parent)
        shutil.copytree(source, temporary)
        for copied in sorted(temporary.rglob("*")):
            if copied.is_dir():
                sync_directory(copied)
            elif copied.is_file():
                with copied.open("rb") as opened:
                    os.fsync(opened.fileno())
        sync_directory(temporary)
        temporary.rename(target)
        sync_directory(target.parent)


def copy_file(source: Path, target: Path) -> None:
    """Make `target` a copy of `source`, by way of `target.tmp`; an existing `target` is left alone."""
    if target.exists():
        return
    temporary = target.with_name(target.name + TEMP_SUFFIX)
    with storage_errors(target):
        make_directory(target.parent)
        shutil.copyfile(source, temporary)
        with temporary.open("rb") as opened:
            os.fsync(opened.fileno())
        temporary.replace(target)
        sync_directory(target.parent)


def point(link: Path, target: str) -> None:
    """Make `link` a relative link to its neighbour `target`, swapped in one step so that it always resolves.

    What stands there and is no link of ours is set aside under another name, never removed.

    Raises:
        LinksUnsupportedError: links can't be made here (Windows without the privilege, some file systems).
        StorageError: it could not be written.
    """
    temporary = link.with_name(link.name + TEMP_SUFFIX)
    if link.is_symlink() and str(link.readlink()) == target:
        return
    with storage_errors(link):
        temporary.unlink(missing_ok=True)
        try:
            temporary.symlink_to(target, target_is_directory=True)
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno not in NO_LINKS and not hasattr(error, "winerror"):
                raise
            raise LinksUnsupportedError(str(link)) from error
        if link.is_dir() and not link.is_symlink():
            set_aside(link)
        temporary.replace(link)
        sync_directory(link.parent)


def set_aside(path: Path) -> Path:
    """Give what stands at `path` the first free name of `<name>-before`, `<name>-before-2`, …; that name."""
    for attempt in itertools.count(1):
        aside = path.with_name(f"{path.name}-before" + (f"-{attempt}" if attempt > 1 else ""))
        if not aside.exists():
            path.rename(aside)
            return aside
    raise AssertionError("there is always another number")


def _write_file(path: Path, data: bytes) -> None:
    make_directory(path.parent)
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes, as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sweep(directory: Path) -> list[str]:
    """Remove what an interrupted write left behind in `directory` and below; the names removed."""
    removed = []
    for leftover in sorted(directory.rglob(f"*{TEMP_SUFFIX}")):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)
        removed.append(leftover.name)
    return removed
