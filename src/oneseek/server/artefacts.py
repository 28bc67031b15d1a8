"""What a run left behind: listed, sent file by file or as one archive, verified, certified."""

from __future__ import annotations

import errno
import os
import re
import stat
import tarfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal
from urllib.parse import quote

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from oneseek import runs
from oneseek.certificate.seal import sealed
from oneseek.errors import RunError, StorageError
from oneseek.files.layout import Home, RunDirectory
from oneseek.runs import Certified, Verified
from oneseek.server import bodies
from oneseek.server.errors import ErrorBody, Refusal
from oneseek.server.places import hiding

Find = Callable[[str], RunDirectory]

_BLOCK = 1 << 18  # bytes that are read and sent at once
_TAR_BLOCK = 512  # bytes; each file in an archive is filled up to a multiple of it
_FOLDER = getattr(os, "O_DIRECTORY", 0)
_NO_LINK = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # a pipe would wait for a writer
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.ASCII)
_KEPT = {"Cache-Control": "private, no-cache", "Accept-Ranges": "bytes"}
_RUN = "run-20251122-143025"


class Artefact(msgspec.Struct):
    """A file of a run. `path` is relative to its directory, with slashes; `size` in bytes; `sha256` in hex, as the file
    was sealed; null where it was not."""

    path: str
    size: int
    sha256: str | None


class Artefacts(msgspec.Struct):
    run_id: str
    artefacts: list[Artefact]


class Certification(Certified, frozen=True, kw_only=True):
    """What became of it. `already`: nothing was left to do. Where it is still only "completed", `problem` says why, and
    `fix` what to do."""

    status: Literal["certified", "completed"]


def routes(find: Find, home: Home, environment: Mapping[str, str], work: Executor) -> APIRouter:
    """find: a run by its id; RunUnknown where there is none. environment: as `runs.certify` and `runs.verify` read it,
    in a form that reaches the processes of `work`."""
    hide = hiding(home)
    router = APIRouter(prefix="/api/runs/{run_id}")

    @router.get(
        "/artefacts",
        responses=bodies.answers(Artefacts, _ARTEFACTS) | bodies.refuses(404, 409),
    )
    def artefacts(run_id: str) -> Response:
        """Every file of a run but what it still works with. Links are no files."""
        directory = find(run_id)
        seal = sealed(directory)
        digests = {name: file.sha256 for name, file in seal.files.items()} if seal else {}
        files = [Artefact(_spelt(name), at.st_size, digests.get(name)) for name, at in _files(directory).items()]
        return bodies.answer(Artefacts(run_id, files))

    @router.get("/artefacts/{path:path}", responses=_DOWNLOAD | bodies.refuses(404, 409))
    def artefact(run_id: str, path: str, request: Request) -> Response:
        """One file, by its path in the listing. With Range, the part of it that is asked for."""
        name = request.scope["path"].partition("/artefacts/")[2]  # `path` would lack a newline at its end
        directory = find(run_id)
        if name not in _files(directory):
            raise _no_file(directory)
        return _download(_opened(directory, name), name, request.headers)

    @router.get("/archive", responses=_ARCHIVE | bodies.refuses(404, 409))
    def archive(run_id: str) -> Response:
        """The same files as a tar archive: unpacked, `oneseek verify` takes it."""
        directory = find(run_id)
        if runs.is_running(directory):
            raise RunError(f"{run_id} is running: its files still change.", "Ask for the archive when it has ended.")
        return _archive(directory)

    @router.get("/verify", responses=bodies.answers(Verified, _VERIFIED) | bodies.refuses(404, 409))
    def verify(run_id: str) -> Response:
        """Whether nothing of a run was changed, and who signed it. This server's keys and ledger are trusted."""
        find(run_id)
        found = work.submit(runs.verify, run_id, home, environment=environment).result()
        return bodies.answer(hide(found.wire()))

    @router.post("/certify", responses=bodies.answers(Certification, _CERTIFIED) | bodies.refuses(404, 409))
    def certify(run_id: str) -> Response:
        """Seal a completed run and enter it in the ledger. Doing it again does no harm."""
        found = runs.certify(find(run_id), home, environment)
        status = "completed" if found.problem else "certified"
        return bodies.answer(hide({"status": status, **msgspec.to_builtins(found)}))

    return router


# -- files ---------------------------------------------------------------------------------------------------------


def _files(directory: RunDirectory) -> dict[str, os.stat_result]:
    """Every regular file of a run by its path, with slashes, in their order; nothing of `work/`, and no link followed.

    Raises:
        StorageError: a folder can't be listed.
    """
    found = {}
    try:
        for folder, subfolders, names in os.walk(directory.root, onerror=_raise):
            if Path(folder) == directory.root and directory.work.name in subfolders:
                subfolders.remove(directory.work.name)
            for path in (Path(folder, name) for name in names):
                with suppress(FileNotFoundError):  # it was replaced just now
                    if stat.S_ISREG((at := path.lstat()).st_mode):
                        found[path.relative_to(directory.root).as_posix()] = at
    except OSError as error:
        raise _unreadable(f"The files of {directory.run_id}", error) from error
    return dict(sorted(found.items()))


def _opened(directory: RunDirectory, name: str) -> BinaryIO:
    """A file of the listing, open for reading.

    Raises:
        Refusal: 404 it went just now, or a link came in its place.
        StorageError: it can't be read.
    """
    try:
        return open_without_links(directory.root, name)
    except PermissionError as error:
        raise _unreadable(name, error) from error
    except OSError as error:
        raise _no_file(directory) from error


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


def _blocks(file: BinaryIO, name: str, start: int, stop: int) -> Iterator[bytes]:
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
            raise _changed(name)
        yield block


def _no_file(directory: RunDirectory) -> Refusal:
    run = directory.run_id
    return Refusal(404, f"{run} has no such file.", f"GET /api/runs/{run}/artefacts lists what it has.")


def _raise(error: OSError) -> None:
    raise error


def _unreadable(what: str, error: OSError) -> StorageError:
    return StorageError(f"{what} can't be read: {error.strerror or error}.", "Check the disk and who may read it.")


def _changed(name: str) -> StorageError:
    return StorageError(f"{name} changed while it was sent.", "Ask for it again.")


def _spelt(name: str) -> str:
    """A name as JSON can hold it, which may be no UTF-8."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


# -- one file ------------------------------------------------------------------------------------------------------


def _download(file: BinaryIO, name: str, asked: Mapping[str, str]) -> Response:
    """A file as an attachment, or the one part of it that is asked for; nothing where who asks has it already."""
    at = os.fstat(file.fileno())
    tag = f'"{at.st_mtime_ns:x}-{at.st_size:x}"'
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
    headers |= {"Content-Length": str(stop - start), "Content-Disposition": _attachment(name.rpartition("/")[2])}
    return StreamingResponse(
        _closing(file, _blocks(file, name, start, stop)), 206 if part else 200, headers, "application/octet-stream"
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


def _attachment(name: str) -> str:
    """Content-Disposition with a name in any letters. https://www.rfc-editor.org/rfc/rfc6266#section-4.3"""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", name)
    exact = "" if plain == name else f"; filename*=UTF-8''{quote(name, safe='', errors='surrogateescape')}"
    return f'attachment; filename="{plain}"{exact}'


# -- all of them ---------------------------------------------------------------------------------------------------


def _archive(directory: RunDirectory) -> Response:
    """A tar archive (POSIX pax) of known length: whatever ends it early shows."""
    files = _files(directory)
    heads = {name: _head(f"{directory.run_id}/{name}", at) for name, at in files.items()}
    length = sum(len(heads[name]) + at.st_size + _filling(at) for name, at in files.items()) + 2 * _TAR_BLOCK
    headers = {"Content-Length": str(length), "Content-Disposition": _attachment(f"{directory.run_id}.tar")}
    return StreamingResponse(_members(directory, files, heads), headers=headers, media_type="application/x-tar")


def _members(
    directory: RunDirectory, files: Mapping[str, os.stat_result], heads: Mapping[str, bytes]
) -> Iterator[bytes]:
    """What is in it, as it is sent.

    Raises:
        StorageError: a file is not the one that was listed, or there are others now.
    """
    for name, at in files.items():
        with _opened(directory, name) as file:
            if _mark(os.fstat(file.fileno())) != _mark(at):
                raise _changed(name)
            yield heads[name]
            yield from _blocks(file, name, 0, at.st_size)
        yield bytes(_filling(at))
    before, now = ({(name, *_mark(at)) for name, at in each.items()} for each in (files, _files(directory)))
    if before != now:
        raise _changed(min(before ^ now)[0])
    yield bytes(2 * _TAR_BLOCK)


def _head(name: str, at: os.stat_result) -> bytes:
    """Who owns a file here, and who may read it, is nobody's business elsewhere."""
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = at.st_size, int(at.st_mtime), 0o644
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _filling(at: os.stat_result) -> int:
    return -at.st_size % _TAR_BLOCK


def _mark(at: os.stat_result) -> tuple[int, int, int]:
    """What is another where a file was written or replaced."""
    return at.st_size, at.st_mtime_ns, at.st_ctime_ns


# -- described -----------------------------------------------------------------------------------------------------

_BYTES = {"schema": {"type": "string", "format": "binary"}}
_DOWNLOAD: dict[int | str, Any] = {
    200: {"description": "The file", "content": {"application/octet-stream": _BYTES}},
    206: {"description": "The part of it that was asked for", "content": {"application/octet-stream": _BYTES}},
    304: {"description": "Who asks has it already (If-None-Match)"},
    **bodies.answers(ErrorBody, status=416, description="The part begins behind the end of the file"),
}
_ARCHIVE: dict[int | str, Any] = {200: {"description": "The archive", "content": {"application/x-tar": _BYTES}}}
_ARTEFACTS = {"run_id": _RUN, "artefacts": [{"path": "journal.jsonl", "size": 20480, "sha256": "01234567" * 8}]}
_CHECK = {"number": 1, "name": "format", "result": "ok", "detail": "20 files, nothing missing and none besides"}
_VERIFIED = {"ok": True, "run": _RUN, "checks": [_CHECK]}
_CERTIFIED = {"run_id": _RUN, "status": "certified", "already": False, "problem": None, "fix": ""}
