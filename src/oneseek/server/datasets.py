"""Datasets over HTTP: sent, looked at, counted, converted, fetched, removed. What takes long is done in `work`."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from oneseek.config.schema import DataSection, split_list
from oneseek.datasets import store
from oneseek.datasets.formats import Format, Method, Strategy, UsedFormat
from oneseek.datasets.read import JudgedRow, rows_of, scan
from oneseek.datasets.scan import Container, Duplicates, suggestions
from oneseek.datasets.statistics import Statistics, file_statistics
from oneseek.datasets.store import Stored
from oneseek.datasets.write import convert_file
from oneseek.errors import OneSeekError
from oneseek.files.layout import Home
from oneseek.registry.discover import selected
from oneseek.server.bodies import BODY, answer, answers, asks, received, refuses
from oneseek.server.download import BYTES, DOWNLOAD, download, open_without_links, unreadable
from oneseek.server.errors import Refusal
from oneseek.server.leaving import unless_left
from oneseek.server.places import hiding
from oneseek.server.speech import speaking, spoken
from oneseek.server.uploads import new_path
from oneseek.server.uploads import received as received_file

MOST_ROWS = 20
"""Of a preview."""

_LONGEST_SHOWN = 1 << 20  # bytes of a row
_CURL = "curl --data-binary @rows.jsonl 'ADDRESS/api/datasets?name=rows.jsonl'"


class Dataset(Stored, frozen=True, kw_only=True):
    """A stored dataset, and what can be done with it."""

    used_as: UsedFormat
    strategy: Strategy
    method: Method
    converts_to: tuple[Format, ...]


class Added(Dataset, frozen=True, kw_only=True):
    """A dataset that was just kept: also its repeated rows and its first. Content that was there keeps its name.
    `left_out` are fields that a conversion left out, as the source's format does not use them."""

    duplicates: Duplicates
    first: tuple[dict[str, Any], ...]
    left_out: tuple[str, ...] = ()


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """A row as it stands in the file, and why it can't be used (null where it can). `row` is null where there is none,
    or it is too long to be shown."""

    line: int
    row: Any
    problem: str | None


class Preview(msgspec.Struct, frozen=True):
    """The first rows of a dataset."""

    rows: tuple[Shown, ...]


class Conversion(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """The format to write, and what the new dataset is called. The container is told by the name's ending unless it is
    given."""

    to: Format
    name: str
    container: Container | None = None


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset that was removed: its hash, and its name unless it was damaged."""

    removed: str
    name: str | None


def routes(home: Home, work: Executor, in_use: Callable[[str], Sequence[str]], *, largest: int) -> APIRouter:
    """Everything below /api/datasets. A dataset is called by its name, or by the first eight or more digits of its
    hash.

    in_use: the ids of runs that are not over and use the dataset of a hash. largest: bytes of one that is sent.
    """
    hide = speaking(hiding(home))
    router = APIRouter()

    @router.get("/api/datasets", responses=answers(store.Listing))
    def list_datasets() -> Response:
        """Every stored dataset, by name; then what is damaged."""
        return answer(hide(msgspec.to_builtins(store.listing(home))))

    @router.post(
        "/api/datasets",
        status_code=201,
        responses=answers(Added, _EXAMPLE, status=201)
        | answers(Added, status=200, description="The same content was there already")
        | refuses(413, 415),
        openapi_extra={"requestBody": {"required": True, "content": {"application/octet-stream": BYTES}}},
    )
    async def add(request: Request, name: str) -> Response:
        """Keep a dataset: the body is the file itself. With a header Content-Digest (or Digest) its SHA-256 is
        compared."""
        if request.headers.get("Content-Type", "").strip().lower().startswith("multipart/"):
            raise Refusal(415, "The body is a form, not a file.", f"Send the file itself: {_CURL}")
        store.checked(name)
        async with received_file(request, home, name, largest) as path:
            taken_in = await asyncio.wrap_future(work.submit(_taken_in, home, path, name))
            return await run_in_threadpool(_added, *taken_in)

    @router.get("/api/datasets/{dataset}", responses=answers(Dataset) | refuses(404))
    def show(dataset: str) -> Response:
        """One dataset."""
        return answer(spoken(msgspec.to_builtins(_described(store.get(home, dataset, thoroughly=False)))))

    @router.get("/api/datasets/{dataset}/preview", responses=answers(Preview) | refuses(404))
    async def preview(request: Request, dataset: str, rows: Annotated[int, Query(ge=1, le=MOST_ROWS)] = 5) -> Response:
        """Its first rows."""
        return answer(await unless_left(request, work.submit(_previewed, home, dataset, rows)))

    @router.get("/api/datasets/{dataset}/statistics", responses=answers(Statistics) | refuses(404))
    async def statistics(
        request: Request,
        dataset: str,
        models: Annotated[str, Query(alias="baseModels")] = "",
        max_length: Annotated[int, Query(alias="maxLength", ge=8, le=2**31 - 1)] = _MAX_LENGTH,
    ) -> Response:
        """How long its rows are, in characters, and in the tokens of each base model of a list with commas."""
        counting = work.submit(_counted, home, dataset, tuple(split_list(models)), max_length)
        found = await unless_left(request, counting)
        return await run_in_threadpool(lambda: answer(hide(msgspec.to_builtins(found))))

    @router.get(
        "/api/datasets/{dataset}/content",
        responses=DOWNLOAD | refuses(404),
    )
    def content(dataset: str, request: Request) -> Response:
        """Its file, to be saved. With Range, the part of it that is asked for."""
        stored = store.get(home, dataset, thoroughly=False)
        try:
            file = open_without_links(home.datasets, store.path_of(home, stored).name)
        except OSError as error:
            raise unreadable(stored.name, error) from error
        return download(file, stored.name, request.headers, stored.sha256)

    @router.post(
        "/api/datasets/{dataset}/convert",
        status_code=201,
        responses=answers(Added, status=201)
        | answers(Added, status=200, description="The same content was there already")
        | refuses(404, *BODY),
        openapi_extra=asks(Conversion, {"to": "messages", "name": "town.parquet"}),
    )
    def convert(dataset: str, asked: Annotated[Conversion, received(Conversion)]) -> Response:
        """Keep it in another format or container too. Nothing is lost by it: rows that the other format can't hold are
        named, and nothing is kept then."""
        return _added(*work.submit(_converted, home, dataset, asked).result())

    @router.delete("/api/datasets/{dataset}", responses=answers(Removed) | refuses(404, 409))
    def remove(dataset: str) -> Response:
        """Remove it, unless a run uses it that is not over."""

        def refuse(sha256: str) -> None:
            if runs := in_use(sha256):
                raise Refusal(
                    409,
                    f"The dataset {sha256[:12]} is used by {', '.join(runs)}.",
                    "Remove it when that is over; or stop it first.",
                )

        removed = store.remove(home, dataset, refuse)
        return answer(Removed(removed=removed.sha256, name=removed.name if isinstance(removed, Stored) else None))

    return router


def _described(stored: Stored) -> Dataset:
    return Dataset(**msgspec.structs.asdict(stored), **suggestions(stored.format))


def _added(added: Added, new: bool) -> Response:
    return answer(spoken(msgspec.to_builtins(added)), 201 if new else 200)


# -- done in `work` ------------------------------------------------------------------------------------------------


def _taken_in(home: Home, path: Path, name: str) -> tuple[Added, bool]:
    """Move a file of `uploads` into the store; also whether it was not there yet. One that was keeps its name: others
    may know it by that."""
    with _called({path: name}):
        found = scan(path, longest=0, drawn=0)
        stored, _ = store.keep(home, path, found, name, rename=False, move=True)
    told = {**found.wire(), **msgspec.structs.asdict(stored)}
    del told["path"]
    return Added(**told), not path.exists()


def _converted(home: Home, given: str, asked: Conversion) -> tuple[Added, bool]:
    name, source = store.checked(asked.name), store.get(home, given)
    path = new_path(home, name)
    try:
        with _called({path: name, store.path_of(home, source): source.name}):
            written = convert_file(store.path_of(home, source), asked.to, path, asked.container)
        added, new = _taken_in(home, path, name)
    finally:
        path.unlink(missing_ok=True)
    return msgspec.structs.replace(added, left_out=written.left_out), new


def _previewed(home: Home, given: str, count: int) -> Preview:
    stored = store.get(home, given, thoroughly=False)
    with _called({store.path_of(home, stored): stored.name}):
        return Preview(tuple(_shown(row) for row in islice(rows_of(store.path_of(home, stored)), count)))


def _shown(judged: JudgedRow) -> Shown:
    if len(judged.data) > _LONGEST_SHOWN:
        problem = judged.fault.reason if judged.fault else f"The row has {len(judged.data):,} bytes: it is not shown."
        return Shown(line=judged.line, row=None, problem=problem)
    return Shown(line=judged.line, row=judged.row, problem=judged.fault.reason if judged.fault else None)


def _counted(home: Home, given: str, names: Sequence[str], max_length: int) -> Statistics:
    stored = store.get(home, given)
    models = selected(names, home.models, home.cache)
    with _called({store.path_of(home, stored): stored.name}):
        found = file_statistics(store.path_of(home, stored), models, max_length, home.statistics)
    return msgspec.structs.replace(found, path=stored.name)


@contextmanager
def _called(names: Mapping[Path, str]) -> Iterator[None]:
    """Files of the store have names that people know. In a fix they may stand in a command to be typed."""
    try:
        yield
    except OneSeekError as error:
        for path, name in names.items():
            error.problem = error.problem.replace(str(path), name)
            error.fix = error.fix.replace(str(path), shlex.quote(name))
        raise


_MAX_LENGTH: int = DataSection.model_fields["max_length"].default
_EXAMPLE = {
    "name": "town.jsonl",
    "sha256": "9f2feb0f1ef425b292f2f94bc8482494b2b2c0c9a1e5fd1b0ef5b9ce6b3c1d2a",
    "size_bytes": 61,
    "format": "text",
    "container": "jsonl",
    "rows": 2,
    "bad_rows": [],
    "added_at": "2026-11-21T07:19:00Z",
    "used_as": "text",
    "strategy": "standard",
    "method": "sft",
    "converts_to": [],
    "duplicates": {"count": 0, "examples": []},
    "first": [{"text": "The mill is by the river."}, {"text": "It closes at six."}],
    "left_out": [],
}
