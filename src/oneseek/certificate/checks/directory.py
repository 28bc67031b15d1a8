"""A directory that anybody may have filled: listed once, read without following a link or opening what is no file."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from oneseek.errors import CertificateInvalid

LARGEST_DOCUMENT = 32 << 20
"""Bytes of a file that is read whole."""

_MOST_ENTRIES = 1000  # in one folder, and folders in all; no run comes near it
_BLOCK = 1 << 20  # bytes
_FLAGS = os.O_RDONLY
for _name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):  # none of them is there on every system
    _FLAGS |= getattr(os, _name, 0)


class Directory:
    """`files` are the sizes of the regular files in it by path, with slashes, `folders` the folders that hold anything.
    `fault` is the first thing in it that no run has, in the order of the paths: a link, a device, an empty folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: dict[str, int] = {}
        self.folders: set[str] = set()
        self.fault: str | None = None
        self._read: dict[str, bytes] = {}
        self._list()

    def read(self, name: str) -> bytes:
        """All of a file; it is read once.

        Raises:
            CertificateInvalid: it is not there, can't be read, or is too large to be what its name says.
        """
        if name not in self._read:
            if self.files.get(name, 0) > LARGEST_DOCUMENT:
                raise CertificateInvalid(f"{name} has {self.files[name]} bytes; {LARGEST_DOCUMENT} are the most.")
            self._read[name] = b"".join(self.blocks(name))
        return self._read[name]

    def sha256(self, name: str) -> str:
        """In hex. Errors as of `read`."""
        digest = hashlib.sha256()
        for block in [self._read[name]] if name in self._read else self.blocks(name):
            digest.update(block)
        return digest.hexdigest()

    def blocks(self, name: str) -> Iterator[bytes]:
        """A file of any size, block by block, as long as it was when it was listed. Errors as of `read`."""
        with self.opened(name) as file:
            left = self.files[name]
            while left and (block := file.read(min(left, _BLOCK))):
                left -= len(block)
                yield block
            if left or file.read(1):
                raise CertificateInvalid(f"{name} changed while it was read.")

    @contextmanager
    def opened(self, name: str) -> Iterator[BinaryIO]:
        """A file, open for reading. Errors as of `read`."""
        if name not in self.files:
            raise CertificateInvalid(f"{name} is missing.")
        try:
            with open(self.root / name, "rb", opener=lambda path, _: os.open(path, _FLAGS)) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise CertificateInvalid(f"{name} changed while it was read.")
                yield file
        except OSError as error:
            raise CertificateInvalid(f"{name} can't be read: {error.strerror or error}.") from error

    def _list(self) -> None:
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            try:
                with os.scandir(self.root / folder) as found:
                    entries = sorted(islice(found, _MOST_ENTRIES + 1), key=lambda entry: entry.name)
            except OSError as error:
                self._blame(f"{folder or self.root} can't be listed: {error.strerror or error}.")
                continue
            if folder and not entries:
                self._blame(f"{folder} is an empty folder.")
            if len(entries) > _MOST_ENTRIES or len(self.folders) > _MOST_ENTRIES:
                self._blame(f"{folder or self.root} holds more than {_MOST_ENTRIES} files or folders.")
                return
            waiting += reversed([name for entry in entries if (name := self._note(folder, entry))])

    def _note(self, folder: str, entry: os.DirEntry[str]) -> str | None:
        """Its path, where it is a folder that is to be listed."""
        name = f"{folder}/{entry.name}" if folder else entry.name
        try:
            found = entry.stat(follow_symlinks=False)
        except OSError as error:
            self._blame(f"{name} can't be read: {error.strerror or error}.")
            return None
        if stat.S_ISDIR(found.st_mode):
            self.folders.add(name)
            return name
        if stat.S_ISREG(found.st_mode):
            self.files[name] = found.st_size
        else:
            what = "a link" if stat.S_ISLNK(found.st_mode) else "no regular file"
            self._blame(f"{name} is {what}; a run has none.")
        return None

    def _blame(self, fault: str) -> None:
        self.fault = self.fault or fault
