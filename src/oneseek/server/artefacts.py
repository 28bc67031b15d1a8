"""What a run left behind: listed, sent file by file or as one archive, verified, certified."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import msgspec
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from oneseek import runs
from oneseek.certificate.seal import sealed
from oneseek.errors import RunError
from oneseek.files.layout import Home, RunDirectory
from oneseek.runs import Certified, Verified
from oneseek.server import bodies
from oneseek.server.download import (
    BYTES,
    DOWNLOAD,
    attachment,
    blocks,
    changed,
    download,
    open_without_links,
    unreadable,
)
from oneseek.server.errors import Refusal
from oneseek.server.places import hiding
from oneseek.server.speech import speaking

Find = Callable[[str], RunDirectory]

_TAR_BLOCK = 512  # bytes; each file in an archive is filled up to a multiple of it
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
    tell = speaking(hiding(home))
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

    @router.get("/artefacts/{path:path}", responses=DOWNLOAD | bodies.refuses(404, 409))
    def artefact(run_id: str, path: str, request: Request) -> Response:
        """One file, by its path in the listing. With Range, the part of it that is asked for."""
        name = request.scope["path"].partition("/artefacts/")[2]  # `path` would lack a newline at its end
        directory = find(run_id)
        if name not in _files(directory):
            raise _no_file(directory)
        return download(_opened(directory, name), name, request.headers)

    @router.get("/archive", responses=_ARCHIVE | bodies.refuses(404, 409))
    def archive(run_id: str) -> Response:
        """The same files as a tar archive: unpacked, `oneseek verify` takes it."""
        directory = find(run_id)
        if runs.is_running(directory):
            raise RunError(f"{run_id} is running: its files still change.", "Ask for the archive when it has ended.")
        return _archive(directory)

    @router.get("/verify", responses=bodies.answers(Verified, _VERIFIED) | bodies.refuses(404, 409))
    def verify(
        run_id: str,
        sources: Annotated[bool, Query(description="also read the dataset and the base models that are here")] = False,
    ) -> Response:
        """Whether nothing of a run was changed, and who signed it. This server's keys and ledger are trusted."""
        directory = find(run_id)
        dataset, validation, models = _sources(directory, home) if sources else (None, None, None)
        found = work.submit(
            runs.verify,
            run_id,
            home,
            dataset=dataset,
            validation_dataset=validation,
            base_models=models,
            environment=environment,
        ).result()
        return bodies.answer(tell(found.wire()))

    @router.post("/certify", responses=bodies.answers(Certification, _CERTIFIED) | bodies.refuses(404, 409))
    def certify(run_id: str) -> Response:
        """Seal a completed run and enter it in the ledger. Doing it again does no harm."""
        found = runs.certify(find(run_id), home, environment)
        status = "completed" if found.problem else "certified"
        return bodies.answer(tell({"status": status, **msgspec.to_builtins(found)}))

    return router


def _sources(directory: RunDirectory, home: Home) -> tuple[Path | None, Path | None, Path | None]:
    """Dataset, validation dataset and base models of a run, as far as they are here."""
    state = runs.describe(directory).state
    used = (state.accepted.dataset.path, state.accepted.dataset.validation_path) if state else (None, None)
    dataset, validation = (Path(each) if each and Path(each).is_file() else None for each in used)
    return dataset, validation, home.models


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
        raise unreadable(f"The files of {directory.run_id}", error) from error
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
        raise unreadable(name, error) from error
    except OSError as error:
        raise _no_file(directory) from error


def _no_file(directory: RunDirectory) -> Refusal:
    run = directory.run_id
    return Refusal(404, f"{run} has no such file.", f"GET /api/runs/{run}/artefacts lists what it has.")


def _raise(error: OSError) -> None:
    raise error


def _spelt(name: str) -> str:
    """A name as JSON can hold it, which may be no UTF-8."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


# -- all of them ---------------------------------------------------------------------------------------------------


def _archive(directory: RunDirectory) -> Response:
    """A tar archive (POSIX pax) of known length: whatever ends it early shows."""
    files = _files(directory)
    heads = {name: _head(f"{directory.run_id}/{name}", at) for name, at in files.items()}
    length = sum(len(heads[name]) + at.st_size + _filling(at) for name, at in files.items()) + 2 * _TAR_BLOCK
    headers = {"Content-Length": str(length), "Content-Disposition": attachment(f"{directory.run_id}.tar")}
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
                raise changed(name)
            yield heads[name]
            yield from blocks(file, name, 0, at.st_size)
        yield bytes(_filling(at))
    before, now = ({(name, *_mark(at)) for name, at in each.items()} for each in (files, _files(directory)))
    if before != now:
        raise changed(min(before ^ now)[0])
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

_ARCHIVE: dict[int | str, Any] = {200: {"description": "The archive", "content": {"application/x-tar": BYTES}}}
_ARTEFACTS = {"run_id": _RUN, "artefacts": [{"path": "journal.jsonl", "size": 20480, "sha256": "01234567" * 8}]}
_CHECK = {"number": 1, "name": "format", "result": "ok", "detail": "20 files, nothing missing and none besides"}
_VERIFIED = {"ok": True, "run": _RUN, "checks": [_CHECK]}
_CERTIFIED = {"run_id": _RUN, "status": "certified", "already": False, "problem": None, "fix": ""}
