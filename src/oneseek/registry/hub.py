"""A base model on the hub, described without downloading it: what it is, what training needs of it, how large it is.

HF_ENDPOINT alone says which host is asked, and a hub id is checked letter by letter before anything is. Redirects are
followed because the hub keeps large files elsewhere; the HTTP client sends the token to the hub's own address only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self
from urllib.parse import quote, urlsplit

import msgspec

from oneseek import __version__
from oneseek.errors import ModelError
from oneseek.files.durable import sha256_bytes, sha256_file
from oneseek.names import match_selection, matching_keys
from oneseek.registry.cache import Repository, cache_directory
from oneseek.registry.capabilities import ModelInfo, model_info
from oneseek.registry.discover import (
    MAX_SMALL_FILE,
    Discovery,
    ModelDigests,
    Read,
    describe_cached,
    described,
    digests_from,
    lacks_parts,
    model_files,
)
from oneseek.registry.model_files import JSON_FILES, ModelFiles
from oneseek.registry.safetensors import header_bytes_needed
from oneseek.registry.vocabulary import Vocabulary, parse_vocabulary
from oneseek.registry.weights import weight_files

if TYPE_CHECKING:
    import httpx2

HubErrorKind = Literal["not-an-id", "missing", "gated", "offline", "broken", "busy", "no-safetensors", "disk"]

# Files of a tokenizer, besides those in JSON_FILES.
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "added_tokens.json",
)  # fmt: skip
# The headers of most weight files are shorter, so that one request tells all.
_FIRST_BYTES = 2**16
_AT_ONCE = 8
_REDIRECTS = 5

# The hub's alphabet: https://huggingface.co/docs/huggingface_hub/package_reference/utilities (validate_repo_id).
_NAME = r"(?![\w.-]*(?:--|\.\.))[A-Za-z0-9_](?:[\w.-]{0,94}[A-Za-z0-9_])?"
_HUB_ID = re.compile(rf"(?P<id>{_NAME}/{_NAME})(?:@(?P<revision>[A-Za-z0-9_][\w./-]{{0,200}}))?", re.ASCII)


class HubError(ModelError):
    """Why a model on the hub can't be used; `kind` tells the reasons apart."""

    def __init__(self, kind: HubErrorKind, problem: str, fix: str) -> None:
        super().__init__(problem, fix)
        self.kind = kind


class _Lfs(msgspec.Struct):
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, msgspec.Meta(ge=0)]


class _Sibling(msgspec.Struct):
    rfilename: str
    size: Annotated[int, msgspec.Meta(ge=0)]
    blob_id: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{40}$")] = msgspec.field(name="blobId")
    lfs: _Lfs | None = None


class _Answer(msgspec.Struct):
    """The part that is read of what the hub says of a model."""

    sha: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{40}$")]
    siblings: list[_Sibling]


class RemoteFile(msgspec.Struct, frozen=True):
    """A file on the hub: its size in bytes, and the digest that names its blob: the SHA-256 of its bytes where it is
    stored with LFS, as all large ones are (64 digits), else git's SHA-1 (40)."""

    name: str
    size: int
    digest: str


class RemoteModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model on the hub. `revision` is what was asked for, `commit` what it means now; `files` are those that lie at
    the top of it, by name; `contents` the bytes of those in JSON_FILES."""

    hub_id: str
    revision: str
    commit: str
    files: dict[str, RemoteFile]
    contents: dict[str, bytes] = {}

    @property
    def needed(self) -> list[RemoteFile]:
        """What training needs, the weights last: no pickle, no other format of the same weights, nothing in folders."""
        sizes = {name: file.size for name, file in self.files.items()}
        known = ModelFiles(directory="", path="", sizes=sizes, contents=self.contents, headers={}, unreadable={})
        weights = [name for name in weight_files(known) if name.endswith(".safetensors")]
        return [self.files[name] for name in (*JSON_FILES, *_TOKENIZER_FILES, *weights) if name in self.files]

    @property
    def weights(self) -> list[RemoteFile]:
        """Those of `needed` that hold weights; none where the hub has no safetensors."""
        return [file for file in self.needed if file.name.endswith(".safetensors")]


def is_hub_id(text: str) -> bool:
    """Whether this can be a model's id on the hub: `org/name`, or `org/name@revision`. Asks nobody."""
    return _parsed(text) is not None


def parse_hub_id(text: str) -> tuple[str, str]:
    """The id and the revision (`main` unless given) of `org/name@revision`.

    Raises:
        HubError: it is none.
    """
    parsed = _parsed(text)
    if parsed is None:
        raise HubError("not-an-id", f"{text!r} is not the id of a model on the hub.", "Write it as org/name.")
    return parsed


def describe_remote(hub_id: str) -> ModelInfo:
    """A base model on the hub, from its small files and the headers of its weights, as if it lay here.

    tokenizer.json is fetched only where nothing else names the end of a text. `path` is where the cache will have it,
    `missing_bytes` what a download still fetches.
    Raises:
        HubError: the hub has no such model, does not let us in, or can't be reached.
    """
    with Hub(hub_id) as hub:
        model = hub.look_up()
        repository = Repository(cache_directory(os.environ), model.hub_id)
        with ThreadPoolExecutor(_AT_ONCE) as several:
            headers = several.map(lambda file: (file.name, hub.header(model, file)), model.weights)

        def vocabulary() -> Vocabulary | None:
            file = model.files.get("tokenizer.json")
            return parse_vocabulary(hub.read(model, file)) if file and file.size <= MAX_SMALL_FILE else None

        info = model_info(
            model_files(
                repository.name,
                repository.snapshot(model.commit).absolute(),
                {name: file.size for name, file in model.files.items()},
                model.contents,
                dict(headers),
                {},
                vocabulary,
            )
        )
    return msgspec.structs.replace(
        info,
        problems=tuple(
            msgspec.structs.replace(problem, fix=without_safetensors(model.hub_id))
            if problem.kind in ("only-pickle", "no-weights")
            else problem
            for problem in info.problems
        ),
        source="hub",
        hub_id=model.hub_id,
        revision=model.commit,
        missing_bytes=missing_bytes(model, repository),
    )


def without_safetensors(hub_id: str) -> str:
    """What to do about a model of which the hub has no safetensors."""
    return (
        f"Choose a revision that has safetensors ({hub_id}@REVISION) or another model; or, where it has a "
        f"pytorch_model.bin, get it with `hf download {hub_id}`, and run `oneseek models convert {hub_id}`."
    )


def locate(
    wanted: str,
    found: Discovery,
    cache: Path,
    read: Read = described,
    ask: Callable[[str], ModelInfo] = describe_remote,
) -> ModelInfo:
    """The base model that a name of the selection means: one that is here, else, for a hub id, one on the hub.

    A hub id means a directory by its last segment; but a model of the cache only by its whole id, as two organisations
    can have models of one name. With a revision it means no directory, of which nobody knows the revision.
    read: how the directory of one that is here is read. ask: describes one on the hub.
    Raises:
        SelectionError: nothing that is here matches, or several do.
        HubError: it is not here, or not whole, and the hub can't tell.
    """
    known = {info.key: info for info in found.models}
    if not is_hub_id(wanted):
        return known[match_selection(wanted, known)]
    hub_id, revision = parse_hub_id(wanted)
    repository, pinned = Repository(cache, hub_id), "@" in wanted
    directories = {key: info for key, info in known.items() if info.source == "directory"}
    if not pinned and matching_keys(hub_id, directories):
        return directories[match_selection(hub_id, directories)]
    commit = repository.commit(revision) if pinned else repository.offered()
    if commit and not lacks_parts(cached := describe_cached(repository, commit, read)):
        return cached
    return ask(wanted)


def pickled(model: ModelInfo) -> Path:
    """The directory of a model that has no safetensors, to write them into.

    Raises:
        ModelError: it has them, or is not here.
    """
    if model.parameters:
        raise ModelError(f"{model.display_name} has safetensors already.", "There is nothing to convert.")
    if model.source == "hub":
        raise ModelError(f"{model.display_name} is not here.", without_safetensors(str(model.hub_id)))
    return Path(model.path)


def remote_digests(info: ModelInfo) -> ModelDigests:
    """What the recipe records of a model that `describe_remote` described, before its weights are here: the hub knows
    the SHA-256 of every large file; the few small ones are fetched.

    Raises:
        HubError: as `describe_remote`.
    """
    with Hub(f"{info.hub_id}@{info.revision}") as hub:
        model = hub.look_up()
        names = {file.name for file in model.weights}
        # The digest is over every safetensors file of the directory, and some programs fetch more of them.
        here = {path.name for path in Path(info.path).glob("*.safetensors")} - names
        wanted = sorted(names | {"config.json", "tokenizer.json"})
        if absent := [name for name in wanted if name not in model.files]:
            raise HubError("missing", f"{info.hub_id} has no {absent[0]} on the hub.", "Select another base model.")
        remote = [model.files[name] for name in wanted]
        known = {
            file.name: file.digest if len(file.digest) == 64 else sha256_bytes(hub.read(model, file)) for file in remote
        }
    return digests_from(info, known | {name: sha256_file(Path(info.path) / name) for name in here})


def missing_bytes(model: RemoteModel, repository: Repository) -> int:
    """What a download of the model still fetches, in bytes."""
    return sum(
        file.size - _size(repository.partial(file.digest))
        for file in model.needed
        if _size(repository.snapshot(model.commit) / file.name) != file.size
        and _size(repository.blob(file.digest)) != file.size
    )


class Hub:
    """A connection to the hub for one model, as a context manager. What goes wrong on it is a HubError."""

    def __init__(self, hub_id: str) -> None:
        self.hub_id, self._revision = parse_hub_id(hub_id)
        self._endpoint = _endpoint()
        if _is_true("HF_HUB_OFFLINE") or _is_true("TRANSFORMERS_OFFLINE"):
            raise self._offline("HF_HUB_OFFLINE is set.")
        from httpx2 import Client, Timeout

        timeout, token = _timeout(), _token()
        self._knows_us = token is not None
        self._client = Client(
            # Sizes and ranges are those of the file, so it must come as it is.
            headers={"User-Agent": f"oneseek/{__version__}", "Accept-Encoding": "identity"}
            | ({"Authorization": f"Bearer {token}"} if token else {}),
            follow_redirects=True,
            max_redirects=_REDIRECTS,
            timeout=Timeout(timeout),
            event_hooks={"request": [self._stay_encrypted]},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def look_up(self) -> RemoteModel:
        """The model's files, with the bytes of the small ones that describe it."""
        revision = quote(self._revision, safe="")
        answer = self._get(f"/api/models/{self.hub_id}/revision/{revision}?blobs=true", limit=MAX_SMALL_FILE)
        try:
            told = msgspec.json.decode(answer, type=_Answer)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self.broken(f"its answer is none of a hub ({error})") from error
        files = {
            part.rfilename: RemoteFile(
                part.rfilename,
                part.lfs.size if part.lfs else part.size,
                part.lfs.sha256 if part.lfs else part.blob_id,
            )
            for part in told.siblings
            if re.fullmatch(r"\w[\w.-]*", part.rfilename, re.ASCII)
        }
        model = RemoteModel(hub_id=self.hub_id, revision=self._revision, commit=told.sha, files=files)
        small = [files[name] for name in JSON_FILES if name in files and files[name].size <= MAX_SMALL_FILE]
        contents = {file.name: self.read(model, file) for file in small}
        return msgspec.structs.replace(model, contents=contents)

    def read(self, model: RemoteModel, file: RemoteFile) -> bytes:
        """The whole of a small file."""
        data = self._get(address(model, file), limit=file.size)
        if len(data) != file.size:
            raise self.broken(f"{file.name} ended after {len(data):,} of {file.size:,} bytes")
        return data

    def header(self, model: RemoteModel, file: RemoteFile) -> bytes:
        """The first bytes of a safetensors file, its header among them."""
        first = self._get(address(model, file), limit=min(_FIRST_BYTES, file.size))
        return first + self._get(address(model, file), limit=header_bytes_needed(first, file.size), start=len(first))

    def _get(self, address: str, *, limit: int, start: int = 0) -> bytes:
        """Bytes `start` to `limit` at most, also where the server does not know ranges and begins at the first."""
        data = bytearray()
        if start >= limit:
            return b""
        with self.stream(address, f"bytes={start}-{limit - 1}") as (began, chunks):
            for chunk in chunks:
                data += chunk
                if began + len(data) >= limit:
                    break
        return bytes(data[start - began : limit - began])

    @contextmanager
    def stream(self, address: str, wanted: str) -> Iterator[tuple[int, Iterator[bytes]]]:
        """The bytes from an address as they come, and the place in the file of the first of them.

        wanted: the value of the Range header.
        """
        from httpx2 import HTTPError

        try:
            with self._client.stream("GET", self._endpoint + address, headers={"Range": wanted}) as response:
                self._let_pass(response)
                yield _first_byte(response), response.iter_raw()
        except HTTPError as error:
            raise self._trouble(error) from error

    def broken(self, what: str) -> HubError:
        return HubError(
            "broken",
            f"{self.hub_id} could not be read from {self._endpoint}: {what}.",
            "Try again; what was downloaded is kept.",
        )

    def _let_pass(self, response: httpx2.Response) -> None:
        """Refuse every answer that is not the file. The hub says 401 also for what does not exist: it shows nobody
        who is unknown to it which private models there are."""
        status, code = response.status_code, response.headers.get("X-Error-Code", "")
        page = f"{self._endpoint}/{self.hub_id}"
        enter = "set HF_TOKEN to another token: this one does not open it" if self._knows_us else "set HF_TOKEN"
        if response.is_success:
            return
        if code == "GatedRepo" or status == 403:
            raise HubError(
                "gated",
                f"{self.hub_id} is gated: only who has accepted its licence gets the files (status {status}).",
                f"Accept the licence at {page}, and {enter}.",
            )
        if code == "RevisionNotFound":
            raise HubError(
                "missing",
                f"{self.hub_id} has no revision {self._revision!r}.",
                f"Choose a branch, tag or commit that {page} shows.",
            )
        if status in (401, 404):
            raise HubError(
                "missing" if status == 404 or code == "RepoNotFound" else "gated",
                f"{self._endpoint} shows no model {self.hub_id} (status {status}): it does not exist, or not for "
                "everybody.",
                f"Check the spelling. If it is private or gated, accept its licence at {page}, and {enter}.",
            )
        if status == 416:  # nothing lies behind where we wanted to go on
            raise self.broken("a file is shorter than the hub says")
        if status == 429 or status >= 500:
            raise HubError(
                "busy", f"{self._endpoint} can't serve {self.hub_id} now (status {status}).", "Try again in a while."
            )
        raise self.broken(f"it answered with status {status}")

    def _trouble(self, error: httpx2.HTTPError) -> HubError:
        from httpx2 import ConnectError, ConnectTimeout, ProxyError, TimeoutException

        if isinstance(error, (ConnectError, ConnectTimeout, ProxyError)):
            return self._offline(f"{self._endpoint} can't be reached: {error}.")
        if isinstance(error, TimeoutException):
            return self.broken("nothing came for a while, and we stopped waiting")
        return self.broken(f"the connection broke off ({error})")

    def _offline(self, reason: str) -> HubError:
        place = Repository(cache_directory(os.environ), self.hub_id).root
        return HubError(
            "offline",
            f"{self.hub_id} is not here, and can't be downloaded: {reason}",
            f"Run `oneseek models pull {self.hub_id}` where the hub can be reached, and copy what it downloads to "
            f"{place}; or select a model that is here.",
        )

    def _stay_encrypted(self, request: httpx2.Request) -> None:
        """No redirect leads from https to where others can read along, or into the network behind a firewall."""
        if self._endpoint.startswith("https:") and request.url.scheme != "https":
            raise self.broken("it points to an address without https")


def address(model: RemoteModel, file: RemoteFile) -> str:
    """Where the hub has a file, below HF_ENDPOINT."""
    return f"/{model.hub_id}/resolve/{model.commit}/{quote(file.name)}"


def _parsed(text: str) -> tuple[str, str] | None:
    match = _HUB_ID.fullmatch(text)
    if match is None or match["id"].endswith(".git"):
        return None
    revision = match["revision"] or "main"
    # A revision becomes a path in the cache.
    return None if {"", ".", ".."} & set(revision.split("/")) else (match["id"], revision)


def _endpoint() -> str:
    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    wrong = HubError("offline", "HF_ENDPOINT is not the address of a hub.", "Write it as https://huggingface.co.")
    try:
        parts = urlsplit(endpoint)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and "@" not in parts.netloc
    except ValueError:  # brackets that are no address, a port that is none
        raise wrong from None
    if not known:
        raise wrong
    return endpoint


def _timeout() -> float:
    """Seconds. Looked at before huggingface_hub is imported, which breaks on what is no number."""
    given = os.environ.get("HF_HUB_DOWNLOAD_TIMEOUT") or "10"
    seconds = float(given) if re.fullmatch(r"\d+(\.\d+)?", given) else 0.0
    if not seconds:
        raise HubError(
            "offline", f"HF_HUB_DOWNLOAD_TIMEOUT is {given!r}.", "Set it to a whole number of seconds, or unset it."
        )
    return seconds


def _token() -> str | None:
    """HF_TOKEN, else what `hf auth login` has saved."""
    from huggingface_hub import get_token

    try:
        token = get_token()
    except OSError as error:
        raise HubError(
            "gated", f"The saved token for the hub can't be read: {error}.", "Set HF_TOKEN, or give read permission."
        ) from error
    if token is not None and not (token.isascii() and token.isprintable()):
        raise HubError("gated", "The token for the hub holds characters that no token has.", "Set HF_TOKEN anew.")
    return token


def _is_true(name: str) -> bool:
    return os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")


def _first_byte(response: httpx2.Response) -> int:
    """Where in the file the body begins: 0 where the server took no notice of the range."""
    told = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(told[1]) if response.status_code == 206 and told else 0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return 0
