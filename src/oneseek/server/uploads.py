"""Files that arrive as the body of a request: on disk and checked when they are given on, and gone afterwards."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from oneseek.errors import StorageError
from oneseek.files.durable import make_directory, remove_directory, storage_errors
from oneseek.files.layout import Home
from oneseek.names import size
from oneseek.server.errors import Refusal

_PIECE = 1 << 20  # bytes that are written at once
_LEFT = 256 << 20  # bytes of disk that are left for the journals of runs


def sweep(home: Home) -> None:
    """Remove what a server left that was killed. Only the one server of a home may do so, before it serves.

    Raises:
        StorageError: it can't be removed.
    """
    with storage_errors(home.uploads):
        remove_directory(home.uploads)


def new_path(home: Home, name: str) -> Path:
    """Where a file can be put together that is to be called `name`: of the name it has the ending alone, by which CSV
    is told.

    Raises:
        StorageError: its directory can't be made.
    """
    with storage_errors(home.uploads):
        make_directory(home.uploads)
    ending = Path(name).suffix.lower()
    return home.uploads / f"{secrets.token_hex(16)}{ending if ending[1:].isalnum() and ending.isascii() else ''}"


@asynccontextmanager
async def received(request: Request, home: Home, name: str, largest: int) -> AsyncIterator[Path]:
    """The body of a request as a file, on disk, for as long as the context lasts, unless it is moved away.

    largest: in bytes.

    Raises:
        Refusal: 400 it breaks off, or has another digest than the request says; 413 it is too large.
        StorageError: it can't be written, or hardly any disk would be left.
    """
    announced, promised = _announced(request, largest), _promised(request)
    path = new_path(home, name)
    _refuse_full(path, announced)
    try:
        found = await _write(request, path, largest)
        if promised not in (None, found):
            raise Refusal(400, "The body has another SHA-256 than its header says.", "Send it again.")
        yield path
    finally:
        await run_in_threadpool(path.unlink, missing_ok=True)  # what is large takes a while


async def _write(request: Request, path: Path, largest: int) -> bytes:
    """The SHA-256 of what was written."""
    digest, done, piece = hashlib.sha256(), 0, bytearray()
    with storage_errors(path):
        file = path.open("xb", buffering=0)
    with file:
        try:
            async for chunk in request.stream():
                done += len(chunk)
                if done > largest:
                    raise _too_large(largest)
                piece += chunk
                if len(piece) >= _PIECE:
                    await run_in_threadpool(_put, file, path, piece, digest.update)
                    piece.clear()
        except ClientDisconnect:
            raise Refusal(400, "The body broke off.", "Send it again.") from None
        await run_in_threadpool(_put, file, path, piece, digest.update)
        await run_in_threadpool(_sync, file, path)
    return digest.digest()


def _put(file: BinaryIO, path: Path, piece: bytearray, digest: Callable[[bytearray], None]) -> None:
    _refuse_full(path, len(piece))
    digest(piece)
    with storage_errors(path), memoryview(piece) as left:
        written = 0
        while written < len(piece):
            written += file.write(left[written:])


def _sync(file: BinaryIO, path: Path) -> None:
    with storage_errors(path):
        os.fsync(file.fileno())


def _refuse_full(path: Path, wanted: int) -> None:
    free = shutil.disk_usage(path.parent).free - _LEFT
    if wanted > free:
        raise StorageError(
            f"The file takes {size(wanted)} more on the server's disk, which has {size(max(0, free))} for it.",
            "Free some space there, then send it again.",
        )


def _announced(request: Request, largest: int) -> int:
    """Bytes that the body is said to have; 0 where nothing is said."""
    length = int(request.headers.get("Content-Length", "0"))  # the server has refused what is no number
    if length > largest:
        raise _too_large(largest)
    return length


def _too_large(largest: int) -> Refusal:
    return Refusal(413, f"The file has more than {size(largest)}.", "Split it, or have the limit of the server raised.")


def _promised(request: Request) -> bytes | None:
    """The SHA-256 that a request says its body has: https://www.rfc-editor.org/rfc/rfc9530, and Digest, which came
    before it. Other algorithms are passed over."""
    for header, mark in (("Content-Digest", ":"), ("Digest", "")):
        for member in request.headers.get(header, "").split(","):
            algorithm, _, value = member.strip().partition("=")
            if algorithm.lower() == "sha-256":
                return _decoded(value, header, mark)
    return None


def _decoded(value: str, header: str, mark: str) -> bytes:
    try:
        digest = base64.b64decode(value.strip(":"), validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != hashlib.sha256().digest_size:
        raise Refusal(
            400, f"{header} holds no SHA-256.", f"Write it as {header}: sha-256={mark}BASE64{mark}, or leave it away."
        )
    return digest
