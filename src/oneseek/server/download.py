"""Files as they are sent: opened without following a link, as attachments, in the part that is asked for."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from fastapi import Response
from fastapi.responses import StreamingResponse

from oneseek.errors import StorageError
from oneseek.server import bodies
from oneseek.server.errors import ErrorBody, Refusal

_BLOCK = 1 << 18  # bytes that are read and sent at once
_FOLDER = getattr(os, "O_DIRECTORY", 0)
_NO_LINK = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # a pipe would wait for a writer
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.ASCII)
_KEPT = {"Cache-Control": "private, no-cache", "Accept-Ranges": "bytes"}

BYTES = {"schema": {"type": "string", "format": "binary"}}
DOWNLOAD: dict[int | str, Any] = {
    200: {"description": "The file", "content": {"application/octet-stream": BYTES}},
    206: {"description": "The part of it that was asked for", "content": {"application/octet-stream": BYTES}},
    304: {"description": "Who asks has it already (If-None-Match)"},
    **bodies.answers(ErrorBody, status=416, description="The part begins behind the end of the file"),
}


def download(file: BinaryIO, name: str, asked: Mapping[str, str], version: str = "") -> Response:
    """A file as an attachment, or the one part of it that is asked for; nothing where who asks has it already.

    asked: the headers of the request. version: what is another where the content is; told by size and time unless it is
    known.
    """
    at = os.fstat(file.fileno())
    tag = f'"{version or f"{at.st_mtime_ns:x}-{at.st_size:x}"}"'
    headers = {**_KEPT, "ETag": tag}
    if _is_named(tag, asked.get("If-None-Match", "")):
        file.close()
        return Response(status_code=304, headers=headers)
    part = _part(asked.get("Range", ""), at.st_size) if asked.get("If-Range", tag) == tag else None
    start, stop = part or (0, at.st_size)
    if part:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{at.st_size}"
    if start >= stop and part:
        file.close()
        raise Refusal(
            416,
            f"The file has {at.st_size} bytes; the part that is asked for begins behind them.",
            "Ask for an earlier part, or for all of it.",
            {"Content-Range": f"bytes */{at.st_size}"},
        )
    headers |= {"Content-Length": str(stop - start), "Content-Disposition": attachment(name.rpartition("/")[2])}
    return StreamingResponse(
        _closing(file, blocks(file, name, start, stop)), 206 if part else 200, headers, "application/octet-stream"
    )


def _closing(file: BinaryIO, blocks: Iterator[bytes]) -> Iterator[bytes]:
    with file:
        yield from blocks


def _is_named(tag: str, names: str) -> bool:
    """Whether If-None-Match names it. https://www.rfc-editor.org/rfc/rfc9110#section-13.1.2"""
    return any(each.strip().removeprefix("W/") in (tag, "*") for each in names.split(","))


def _part(wanted: str, size: int) -> tuple[int, int] | None:
    """From where to where a Range asks; empty where it begins behind the end. None is all of it: a Range that is none,
    or asks for several parts, may be left alone. https://www.rfc-editor.org/rfc/rfc9110#section-14.2"""
    found = _RANGE.fullmatch(wanted.strip().lower())
    if found is None or not any(found.groups()):
        return None
    first, last = found.groups()
    if not first:
        return max(0, size - int(last)), size
    if last and int(last) < int(first):
        return None
    return min(int(first), size), min(int(last) + 1, size) if last else size


def attachment(name: str) -> str:
    """Content-Disposition with a name in any letters. https://www.rfc-editor.org/rfc/rfc6266#section-4.3"""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", name)
    exact = "" if plain == name else f"; filename*=UTF-8''{quote(name, safe='', errors='surrogateescape')}"
    return f'attachment; filename="{plain}"{exact}'


def open_without_links(root: Path, name: str) -> BinaryIO:
    """A regular file below `root`, folder by folder, so that none of them can be swapped for a link to elsewhere once
    it was looked at.

    Raises:
        OSError: it is none, is behind a link, or can't be read.
    """
    file = _opened_below(root, name)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise FileNotFoundError(errno.ENOENT, "no regular file", name)
    return file


def _opened_below(root: Path, name: str) -> BinaryIO:
    if os.open not in os.supports_dir_fd:  # Windows, where making a link is a privilege
        return (root / name).open("rb", buffering=0)
    *folders, last = name.split("/")
    at = os.open(root, os.O_RDONLY | _FOLDER)
    try:
        for folder in folders:
            above, at = at, os.open(folder, _NO_LINK | _FOLDER, dir_fd=at)
            os.close(above)
        return open(last, "rb", buffering=0, opener=lambda path, _: os.open(path, _NO_LINK, dir_fd=at))
    finally:
        os.close(at)


def blocks(file: BinaryIO, name: str, start: int, stop: int) -> Iterator[bytes]:
    """Its bytes from `start` up to `stop`, block by block. What grew meanwhile, as a journal does, began with them.

    Raises:
        StorageError: they are not all there any more, or may have changed: what was sent ends broken off.
    """
    before = os.fstat(file.fileno())
    file.seek(start)
    while start < stop:
        block = file.read(min(stop - start, _BLOCK))
        start += len(block)
        now = os.fstat(file.fileno())  # before the last block goes, after which nothing looks broken off any more
        if not block or (now.st_mtime_ns != before.st_mtime_ns and now.st_size <= before.st_size):
            raise changed(name)
        yield block


def changed(name: str) -> StorageError:
    return StorageError(f"{name} changed while it was sent.", "Ask for it again.")


def unreadable(what: str, error: OSError) -> StorageError:
    return StorageError(f"{what} can't be read: {error.strerror or error}.", "Check the disk and who may read it.")
