"""A OneSeek server as its client sees it: datasets are sent, runs started, watched, stopped and resumed there."""

from __future__ import annotations

import base64
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from oneseek import errors as tree
from oneseek.config.parse import leaves
from oneseek.config.sources import Resolved
from oneseek.datasets.containers import Progress
from oneseek.errors import AccessRefused, ConfigError, OneSeekError, Refused, ServerUnavailable
from oneseek.files.durable import sha256_file, storage_errors
from oneseek.journal.record import GENESIS, Record, decode
from oneseek.ledger.client import http_client, is_this_machine, tls_failure, usable_token
from oneseek.preflight.finding import Finding, PreflightError, in_order
from oneseek.preflight.rules.numbers import settings_findings

if TYPE_CHECKING:
    import httpx2
    from websockets.sync.client import ClientConnection

PAUSES: Final = (0.25, 1.0)
"""Seconds before the second and the third try of what changes nothing; up to half as much is added."""

PATIENCE: Final = 600.0
"""Seconds that an answer may take, and that a broken connection is tried to be made anew: a large dataset is read
before the server answers."""

_CONNECTING = 10.0  # seconds
_LONGEST_PAUSE = 15.0  # seconds between two tries to come back
_PIECE = 1 << 20  # bytes of a file that are sent at once
_LARGEST_RECORD = 64 << 20  # bytes
_BUSY = (429, 502, 503, 504)
_DATASETS = ("dataset", "validation_dataset")
_CHECK = "Check ONESEEK_SERVER or --server, and that `oneseek serve` runs there."
_TOKEN = "Set ONESEEK_TOKEN to a token of that server: oneseek admin token create NAME --scope run."


class _Said(msgspec.Struct):
    code: str
    message: str
    fix: str = ""
    findings: list[Finding] = []


class _Error(msgspec.Struct):
    error: _Said


class _Heartbeat(msgspec.Struct):
    """Or a line of the journal, which has no `type`."""

    type: str = ""
    status: str = ""


class _Broken(Exception):
    """A connection that may be made again."""


class Client:
    """The server at `url`, for one thread.

    token: is sent in a header, and nowhere else. None where there is none: then the server says so.

    Raises:
        ConfigError: the address is none, or would let everybody on the way read the token; the token holds characters
            that no token has; SSL_CERT_FILE or a proxy's variable names nothing that can be used.
    """

    def __init__(self, url: str, token: str | None) -> None:
        self.url = address(url)
        self._token = usable_token(token, "ONESEEK_TOKEN")
        self._headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        self._http = http_client()

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def train(self, resolved: Resolved, bar: Callable[[str], Progress | None] = lambda _: None) -> dict[str, Any]:
        """Start a training with these settings, and answer what the server says of it. Datasets that are files here are
        sent first, unless the server has their content.

        bar: makes what is told how far one of them is.

        Raises:
            PreflightError: with all that is wrong with the settings, here and there.
            OneSeekError: as of every request: what the server refused, or ServerUnavailable.
        """
        body = settings(resolved)
        for name in _DATASETS:
            if (given := body.get("data", {}).get(name)) and Path(given).is_file():
                body["data"][name] = self.keep(Path(given), bar(f"Sending {Path(given).name}"))
        if resolved.problems:
            verdict = self._ask("POST", "/api/validate?partial=true", body)
            found = msgspec.convert(verdict["findings"], list[Finding])
            raise PreflightError(in_order([*settings_findings(resolved.problems), *found]))
        return self._ask("POST", "/api/admin/training/start-dna-v2", body)

    def keep(self, path: Path, progress: Progress | None = None) -> str:
        """The SHA-256 of a dataset that is stored there: nothing is sent where its content is already.

        progress: is told how many bytes of how many were sent.
        """
        with storage_errors(path):
            sha256, size = sha256_file(path), path.stat().st_size
        taken = {each["name"]: each["sha256"] for each in self._ask("GET", "/api/datasets")["datasets"]}
        if sha256 in taken.values():
            return sha256
        name = path.name if path.name not in taken else f"{path.stem}-{sha256[:8]}{path.suffix}"
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(size),
            "Content-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:",
        }
        self._ask("POST", f"/api/datasets?{urlencode({'name': name})}", _pieces(path, size, progress), headers)
        return sha256

    def runs(self) -> dict[str, Any]:
        """Every run, as `oneseek runs list --json`."""
        return self._ask("GET", "/api/runs")

    def run(self, run_id: str) -> dict[str, Any]:
        """One run, as `oneseek runs show --json`."""
        return self._ask("GET", _of(run_id))

    def stop(self, run_id: str, *, now: bool = False) -> dict[str, Any]:
        """Ask a run to stop after its epoch, or at once."""
        return self._ask("POST", f"{_of(run_id)}/stop", {"when": "now" if now else "after-epoch"})

    def resume(self, run_id: str) -> dict[str, Any]:
        """Let a run go on when it is its turn."""
        return self._ask("POST", f"{_of(run_id)}/resume", {})

    def watch(self, run_id: str, lost: Callable[[str], None] = lambda _: None) -> Iterator[Record | str]:
        """Every record of a run's journal, once and in order, its chain checked, and the run's status whenever that is
        told. It ends when nothing more can come; a connection that breaks is made again.

        lost: is told why, once, when it breaks.

        Raises:
            JournalDamaged: what was told is not one journal.
            OneSeekError: the server refuses; ServerUnavailable: it can't be reached, or not again.
        """
        seq, head, tries, broken_at = 0, GENESIS, 0, None
        while True:
            try:
                for text in self._told(run_id, seq):
                    broken_at, tries = None, 1
                    beat = msgspec.json.decode(text, type=_Heartbeat)
                    if beat.type:
                        yield beat.status
                        continue
                    part = decode(text.encode() + b"\n", seq=seq + 1, prev=head)
                    seq, head = seq + len(part.records), part.head
                    yield from part.records
                return
            except _Broken as broken:
                if not tries:
                    raise ServerUnavailable(str(broken), _CHECK) from broken
                if broken_at is None:
                    broken_at = time.monotonic()
                    lost(str(broken))
                if time.monotonic() - broken_at > PATIENCE:
                    raise ServerUnavailable(str(broken), "The run goes on without it; watch it later.") from broken
                time.sleep(min(PAUSES[0] * 2**tries, _LONGEST_PAUSE) * random.uniform(1.0, 1.5))
                tries += 1
            except msgspec.DecodeError as error:
                raise self._no_server(f"what it tells can't be read ({error})") from error

    def _told(self, run_id: str, after: int) -> Iterator[str]:
        """What comes over one connection, until nothing more can."""
        from websockets.exceptions import ConnectionClosed

        with self._connected(run_id, after) as socket:
            while True:
                try:
                    message = socket.recv()
                except ConnectionClosed as closed:
                    code, reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "")
                    if code == 1000:
                        return
                    if code == 1008:
                        raise Refused(self._repeated(reason), "See docs/api.md.") from closed
                    if code == 1011:
                        raise tree.Failed(self._repeated(reason), "See the server's own log.") from closed
                    raise _Broken(f"The connection to {self.url} broke ({code}).") from closed
                yield message if isinstance(message, str) else message.decode()

    @contextmanager
    def _connected(self, run_id: str, after: int) -> Iterator[ClientConnection]:
        from websockets.exceptions import InvalidHandshake, InvalidProxy, InvalidStatus
        from websockets.sync.client import connect

        query = urlencode({"runId": run_id, "after": after, "form": "journal"})
        try:
            socket = connect(
                f"ws{self.url.removeprefix('http')}/ws/training?{query}",
                additional_headers=self._headers,
                create_connection=_straight(),
                proxy=None if self.url.startswith("http://") else True,
                open_timeout=_CONNECTING,
                max_size=_LARGEST_RECORD,
            )
        except InvalidStatus as error:
            status = error.response.status_code
            if status in _BUSY:
                raise _Broken(f"The server at {self.url} can't answer now (status {status}).") from error
            self._refuse(status, bytes(error.response.body or b""))
        except InvalidProxy as error:
            raise ConfigError("The proxy that the environment names can't be used.", "Unset it.") from error
        except (OSError, TimeoutError, EOFError, InvalidHandshake) as error:
            if tls_failure(error):
                raise self._unreached(error) from error
            raise _Broken(f"The server at {self.url} can't be reached: {_words(error)}.") from error
        with socket:
            yield socket

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | Iterator[bytes] | None = None, headers: Any = None
    ) -> dict[str, Any]:
        """The answer to a request. What changes nothing is tried three times where the server is away or busy."""
        from httpx2 import HTTPError, Timeout

        content: Any = body
        sent = {**self._headers, **(headers or {})}
        if isinstance(body, Mapping):
            content, sent["Content-Type"] = msgspec.json.encode(body), "application/json"
        for pause in (*(PAUSES if method == "GET" else ()), None):
            try:
                response = self._http.request(
                    method,
                    f"{self.url}{path}",
                    content=content,
                    headers=sent,
                    timeout=Timeout(PATIENCE, connect=_CONNECTING),
                )
            except HTTPError as error:
                if pause is None or tls_failure(error):
                    raise self._unreached(error) from error
            else:
                if pause is None or response.status_code not in _BUSY:
                    return self._answer(response)
            time.sleep(pause * random.uniform(1.0, 1.5))
        raise AssertionError("the last try answers or raises")

    def _answer(self, response: httpx2.Response) -> dict[str, Any]:
        if not response.is_success:
            self._refuse(response.status_code, response.content)
        try:
            return msgspec.json.decode(response.content, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._no_server("its answer can't be read") from error

    def _refuse(self, status: int, body: bytes) -> NoReturn:
        """Raise what the server's error is, in its own words."""
        try:
            said = msgspec.json.decode(body, type=_Error).error
        except (msgspec.DecodeError, UnicodeDecodeError):
            if 300 <= status < 400:
                raise self._no_server("it points to another address, and we don't follow") from None
            raise self._no_server(f"it answers with status {status}") from None
        if said.code == PreflightError.__name__ and said.findings:
            raise PreflightError(said.findings)
        problem, fix = self._repeated(said.message), self._repeated(said.fix)
        if status == 401:
            raise AccessRefused(f"The server at {self.url} does not know who asks.", _TOKEN)
        raise _kind(said.code, status)(problem, fix)

    def _repeated(self, words: str) -> str:
        """A server's own words; a token that it sends back is not among them."""
        return words.replace(self._token, "ONESEEK_TOKEN") if self._token else words

    def _unreached(self, error: Exception) -> ServerUnavailable:
        if failure := tls_failure(error):
            why = _words(getattr(failure, "verify_message", "") or failure.reason)
            fix = "Where its CA is your own, set SSL_CERT_FILE to that CA's certificate."
            return ServerUnavailable(f"The server at {self.url} can't be trusted: {why}.", fix)
        return ServerUnavailable(f"The server at {self.url} can't be reached: {_words(error)}.", _CHECK)

    def _no_server(self, what: str) -> ServerUnavailable:
        return ServerUnavailable(f"There is no OneSeek at {self.url}: {what}.", _CHECK)


def settings(resolved: Resolved) -> dict[str, Any]:
    """The settings that somebody gave, in their sections. Defaults are left to the server."""
    body: dict[str, Any] = {}
    for path, value in leaves(resolved.config.model_dump(mode="json")):
        if resolved.origins.get(".".join(path), "default") != "default":
            section = body
            for name in path[:-1]:
                section = section.setdefault(name, {})
            section[path[-1]] = value
    return body


def address(url: str) -> str:
    """The address without a slash at its end. What is refused is not repeated: it may hold a password.

    Raises:
        ConfigError: it is none of a server, or one to which the token would travel unencrypted.
    """
    wrong = ConfigError(
        "That is not the address of a OneSeek server.",
        "Write it as https://oneseek.example.org, without user, password, or a path.",
    )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # brackets that are no address, a port that is none
        raise wrong from None
    known = parts.scheme in ("http", "https") and parts.hostname and port != 0 and parts.path in ("", "/")
    if not (known and re.fullmatch(r"[!-~]+", url)) or set("@?#\\") & set(url):
        raise wrong
    if parts.scheme == "http" and not is_this_machine(parts.hostname or ""):
        raise ConfigError(
            f"The way to {parts.hostname} is unencrypted: ONESEEK_TOKEN could be read on it.",
            f"Use https, or a tunnel: ssh -L 3001:127.0.0.1:3001 {parts.hostname}, then http://127.0.0.1:3001.",
        )
    return f"{parts.scheme}://{parts.netloc.lower()}"


def _kind(code: str, status: int) -> type[OneSeekError]:
    """The error of a code; where that is none of ours, the nearest of the status."""
    kind = getattr(tree, code, None)
    if isinstance(kind, type) and issubclass(kind, OneSeekError) and kind.__init__ is OneSeekError.__init__:
        return kind
    if status >= 500:
        return ServerUnavailable
    return AccessRefused if status == 403 else Refused


def _of(run_id: str) -> str:
    return f"/api/runs/{quote(run_id, safe='')}"


def _pieces(path: Path, size: int, progress: Progress | None) -> Iterator[bytes]:
    done = 0
    with storage_errors(path), path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece
            done += len(piece)
            if progress:
                progress(done, size)


def _straight() -> type[ClientConnection]:
    """A connection that is not led elsewhere: websockets follows redirects by itself, unless the handshake fails with
    another error."""
    from websockets.exceptions import InvalidHandshake, InvalidStatus
    from websockets.sync.client import ClientConnection

    class Straight(ClientConnection):
        def handshake(self, *arguments: Any, **options: Any) -> None:
            try:
                super().handshake(*arguments, **options)
            except InvalidStatus as error:
                if 300 <= error.response.status_code < 400:
                    raise InvalidHandshake("it points to another address") from error
                raise

    return Straight


def _words(said: object) -> str:
    """What others say, in one short line without a full stop."""
    return " ".join(str(said).split())[:300].rstrip(".")
