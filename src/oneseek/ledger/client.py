"""A ledger service as a log. What it answers is believed only as far as its signature and its tree prove it.

It is read as every log of c2sp.org/tlog-tiles is; only its key (`/key`) and appending (`/entries`) are our own.
"""

from __future__ import annotations

import ipaddress
import os
import random
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from oneseek import __version__
from oneseek.errors import (
    ConfigError,
    KeyRefused,
    LedgerDamaged,
    LedgerUnavailable,
    OneSeekError,
    ProofInvalid,
    StorageError,
)
from oneseek.ledger import checkpoint, known, proof
from oneseek.ledger.checkpoint import Checkpoint
from oneseek.ledger.entry import encode, entry_of, stamped, statement_of
from oneseek.ledger.log import Log, Logged
from oneseek.ledger.merkle import Hash, check_consistency, consistency_proof, inclusion_proof
from oneseek.ledger.note import VerifierKey
from oneseek.ledger.proof import Proof
from oneseek.ledger.served import ServedTree
from oneseek.ledger.tiles import LARGEST_ENTRY, WIDTH

if TYPE_CHECKING:
    import httpx2

PAUSES = (0.25, 1.0)
"""Seconds before the second and the third try; up to half as much is added, so that many clients don't come at once."""

SILENCE = 30.0
"""Seconds without a byte after which an answer is given up."""

PATIENCE = 60.0
"""Seconds that all tries of one request may take together, whatever the service sends meanwhile."""

_CONNECTING = 5.0  # seconds
_LONGEST_PAUSE = 10.0  # seconds, whatever a service asks for
_LARGEST_ANSWER = WIDTH * (LARGEST_ENTRY + 2)  # bytes: a bundle of the largest entries
_LARGEST_WORDS = 300  # characters of a service's own words that are repeated
_BUSY = (429, 502, 503, 504)

# How many statements are sent at once. As JSON they take twice their bytes at most.
_MOST_STATEMENTS = 1000
_MOST_BYTES = 1 << 20

_JSON = "application/json"
_LATER = "Check that it runs and that LEDGER_URL is its address, and try again in a while."
_CHECK = "Check LEDGER_URL."
_TOKEN = "Set LEDGER_TOKEN to the token that it was started with."
_TRUST = (
    "Where its CA is your own, set SSL_CERT_FILE to that CA's certificate. Else check LEDGER_URL, and ask who runs it "
    "for a valid certificate."
)
_KINDS: dict[str, type[OneSeekError]] = {"LedgerDamaged": LedgerDamaged, "StorageError": StorageError}
"""A service's errors that are a log's own; trying again would not help."""

_SOME_TIME = "2000-01-01T00:00:00.000Z"  # every timestamp is as long


class _Busy(LedgerUnavailable):
    """Trying again may help, after so many seconds at the earliest."""

    def __init__(self, problem: str, fix: str, after: float = 0.0) -> None:
        super().__init__(problem, fix)
        self.after = after


class _NotThere(LedgerUnavailable):
    """Status 404."""


class _Added(msgspec.Struct):
    leaf: str
    proof: str


class _Answer(msgspec.Struct):
    entries: list[_Added]


class _Said(msgspec.Struct):
    code: str
    message: str
    fix: str = ""


class _Error(msgspec.Struct):
    error: _Said


class Client(Log):
    """The ledger service at `url`, for one thread.

    token: LEDGER_TOKEN; it is sent only where something is appended. known_logs: where the keys of services are kept:
    the key that one shows first is trusted, and added there if `remembers`; None keeps it for this client only.
    Raises:
        ConfigError: the address is none, the token holds characters that no token has, or SSL_CERT_FILE or a proxy's
            variable names nothing that can be used.
    """

    def __init__(self, url: str, *, token: str | None, known_logs: Path | None, remembers: bool = True) -> None:
        self.url = service_address(url)
        self._token = usable_token(token)
        self._known_logs, self._remembers = known_logs, remembers
        self._key: VerifierKey | None = None
        self._seen: Checkpoint | None = None
        self._tree: ServedTree | None = None
        self._http = http_client()
        self._deadline = _Deadline()

    @property
    def key(self) -> VerifierKey:
        if self._key is None:
            self._key = self._first_contact()
        return self._key

    def append(self, statements: Sequence[bytes]) -> list[Logged]:
        for each in statements:  # all of them before one of them is sent
            encode(stamped(statement_of(each), _SOME_TIME))
        return [logged for batch in _batches(statements) for logged in self._append(batch)]

    def checkpoint(self) -> str:
        return self._newest()[0]

    def node(self, level: int, index: int) -> Hash:
        with self._lies():
            return self._reaching((index + 1) << level).node(level, index)

    def entries(self, start: int, stop: int) -> list[bytes]:
        with self._lies():
            return self._reaching(stop).entries(start, stop)

    def prove(self, index: int) -> Logged:
        note, found = self._newest()
        if not 0 <= index < found.size:
            raise ProofInvalid(f"The ledger has no entry {index}; it has {found.size}.")
        with self._lies():
            tree = self._tree_of(found)
            (entry,) = tree.entries(index, index + 1)
            return Logged(entry, Proof(index, inclusion_proof(index, tree.size, tree.node), note))

    def close(self) -> None:
        self._http.close()

    def _first_contact(self) -> VerifierKey:
        """The key that is kept for this address; where there is none, the one that the service shows first."""
        kept = known.read(self._known_logs).get(self.url) if self._known_logs else None
        shown = self._shown_key()
        if kept is None and shown is not None:
            with self._lies():
                checkpoint.read(self._text("checkpoint"), shown)
            kept = shown
            if self._known_logs and self._remembers:
                kept = known.remember(self._known_logs, self.url, shown)
        if kept is None:
            raise LedgerUnavailable(
                f"There is no ledger at {self.url}: it shows no public key.",
                f"Check LEDGER_URL. For a log of another kind, add the line '{self.url} KEY' to {self._known_logs}.",
            )
        if shown not in (None, kept):
            raise LedgerDamaged(
                f"The ledger at {self.url} had the key {kept} and now shows {shown}.",
                f"Ask who runs it. If the key was replaced on purpose, remove the line from {self._known_logs}.",
            )
        return kept

    def _shown_key(self) -> VerifierKey | None:
        try:
            return VerifierKey.parse(self._text("key").removesuffix("\n"))
        except _NotThere:
            return None
        except KeyRefused as error:
            raise self._no_ledger("what it shows as its key is none") from error

    def _append(self, statements: Sequence[bytes]) -> list[Logged]:
        key = self.key  # before the token is shown to whoever answers
        body = msgspec.json.encode({"statements": [each.decode() for each in statements]})
        answer = self._ask("entries", body)
        try:
            added = msgspec.json.decode(answer, type=_Answer).entries
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._no_ledger(f"its answer can't be read ({error})") from error
        with self._lies():
            if len(added) != len(statements):
                raise ProofInvalid(f"It proves {len(added)} entries instead of {len(statements)}.")
            logged = [Logged(each.leaf.encode(), proof.parse(each.proof)) for each in added]
            newest = {_proved(*pair, key) for pair in zip(statements, logged, strict=True)}
            for found in sorted(newest, key=lambda found: found.size):
                self._see(found)
        return logged

    def _newest(self) -> tuple[str, Checkpoint]:
        key = self.key
        note = self._text("checkpoint")
        with self._lies():
            found = checkpoint.read(note, key)
            self._see(found)
        return note, found

    def _see(self, found: Checkpoint) -> None:
        """Take a checkpoint as the newest, if its log begins with that of the one before."""
        if (seen := self._seen) is not None:
            steps: tuple[Hash, ...] = ()
            if seen.size <= found.size:
                steps = consistency_proof(seen.size, found.size, lambda *place: self._tree_of(found).node(*place))
            check_consistency(seen.size, seen.root, found.size, found.root, steps)
        self._seen = found

    def _reaching(self, size: int) -> ServedTree:
        """The tree of the newest checkpoint seen; where that has fewer than `size` entries, of the log's newest."""
        seen = self._seen
        return self._tree_of(self._newest()[1] if seen is None or seen.size < size else seen)

    def _tree_of(self, found: Checkpoint) -> ServedTree:
        if self._tree is None or (self._tree.size, self._tree.root) != (found.size, found.root):
            self._tree = ServedTree(found.size, found.root, lambda tile: self._ask(tile.path))
        return self._tree

    @contextmanager
    def _lies(self) -> Iterator[None]:
        """What proves to be invalid inside is a lie of the service."""
        try:
            yield
        except ProofInvalid as error:
            raise LedgerDamaged(
                f"The ledger at {self.url} is not what it signed: {error.problem}",
                "Keep the run directories, which hold its checkpoints, and ask who runs it.",
            ) from error

    def _text(self, path: str) -> str:
        try:
            return self._ask(path).decode()
        except UnicodeDecodeError as error:
            raise self._no_ledger(f"/{path} is not text") from error

    def _ask(self, path: str, body: bytes | None = None) -> bytes:
        """The answer to a GET, or to a POST of `body`; three tries where the service is away or busy."""
        with self._deadline.after(PATIENCE) as left:
            for pause in PAUSES:
                try:
                    return self._answer(path, body, left())
                except _Busy as busy:
                    wait = max(min(busy.after, _LONGEST_PAUSE), pause * random.uniform(1.0, 1.5))
                    if wait >= left():
                        raise
                    time.sleep(wait)
            return self._answer(path, body, left())

    def _answer(self, path: str, body: bytes | None, left: float) -> bytes:
        from httpx2 import HTTPError, Timeout

        method, headers = "GET", {}
        if body is not None:
            method, headers = "POST", {"Authorization": f"Bearer {self._needed_token()}", "Content-Type": _JSON}
        within = Timeout(SILENCE, connect=max(0.001, min(_CONNECTING, left)))
        seen = {"trace": self._deadline.look}
        try:
            with self._http.stream(
                method, f"{self.url}/{path}", content=body, headers=headers, timeout=within, extensions=seen
            ) as response:
                answer = self._body(response)
        except HTTPError as error:
            raise self._unreached(error) from error
        if self._deadline.over:  # what was cut off may look whole
            raise self._too_slow()
        if response.status_code != 200:
            raise self._refusal(response, path, answer)
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise self._no_ledger("it answers with a web page")
        return answer

    def _body(self, response: httpx2.Response) -> bytes:
        body = bytearray()
        for chunk in response.iter_raw():
            body += chunk
            if len(body) > _LARGEST_ANSWER:
                raise self._no_ledger(f"its answer has more than {_LARGEST_ANSWER:,} bytes")
        return bytes(body)

    def _unreached(self, error: httpx2.HTTPError) -> LedgerUnavailable:
        """What it means that no answer came."""
        if self._deadline.over:
            return self._too_slow()
        failure = tls_failure(error)
        if isinstance(failure, ssl.SSLCertVerificationError):
            why = _words(getattr(failure, "verify_message", "") or failure.reason)
            return LedgerUnavailable(
                f"The TLS certificate of the ledger at {self.url} can't be trusted: {why}.", _TRUST
            )
        if failure is not None:
            why = _words((failure.reason or "unknown").replace("_", " ").lower())
            return LedgerUnavailable(
                f"TLS with the ledger at {self.url} fails: {why}.",
                "Check that LEDGER_URL names a port that speaks TLS.",
            )
        return _Busy(f"The ledger at {self.url} can't be reached: {_words(error)}.", _LATER)

    def _too_slow(self) -> LedgerUnavailable:
        return LedgerUnavailable(
            f"The ledger at {self.url} is too slow: we stopped waiting after {PATIENCE:g} seconds.", _LATER
        )

    def _refusal(self, response: httpx2.Response, path: str, body: bytes) -> OneSeekError:
        """What an answer with another status than 200 means."""
        status, said = response.status_code, _said(body)
        if status in (401, 403) and "Authorization" in response.request.headers:
            return LedgerUnavailable(f"The ledger at {self.url} refuses LEDGER_TOKEN (status {status}).", _TOKEN)
        if said is not None and said.code in _KINDS:
            return _KINDS[said.code](*self._repeated(said))
        if status in _BUSY:
            asked = response.headers.get("Retry-After", "")
            after = float(asked) if re.fullmatch(r"\d{1,9}", asked, re.ASCII) else 0.0
            return _Busy(f"The ledger at {self.url} can't answer now (status {status}).", _LATER, after)
        if status == 404:
            return _NotThere(f"There is no ledger at {self.url}: it has no /{path}.", _CHECK)
        if 300 <= status < 400:
            return self._no_ledger("it points to another address, and we don't follow")
        if said is not None:
            return LedgerUnavailable(*self._repeated(said))
        return self._no_ledger(f"it answers with status {status}")

    def _repeated(self, said: _Said) -> tuple[str, str]:
        """A service's own words, in short lines; a token that it sends back is not among them."""
        problem, fix = said.message, said.fix or _CHECK
        if self._token is not None:
            problem, fix = (words.replace(self._token, "LEDGER_TOKEN") for words in (problem, fix))
        return f"The ledger at {self.url} says: {_words(problem)}.", f"{_words(fix)}."

    def _no_ledger(self, what: str) -> LedgerUnavailable:
        return LedgerUnavailable(f"There is no ledger at {self.url}: {what}.", _CHECK)

    def _needed_token(self) -> str:
        if self._token is None:
            raise LedgerUnavailable(
                f"LEDGER_TOKEN is missing: who appends to the ledger at {self.url} must know it.", _TOKEN
            )
        return self._token


class _Deadline:
    """Cuts the connection of a request when its time is up. Timeouts of a socket don't: each begins anew with every
    byte that comes, so that a service which sends one now and then would be waited for without end."""

    def __init__(self) -> None:
        self.over = False
        self._stream: Any = None  # of httpcore2: the connection made last, which later requests use too

    @contextmanager
    def after(self, seconds: float) -> Iterator[Callable[[], float]]:
        """Inside, time is up after so many seconds; yields how many are left."""
        self.over = False
        end = time.monotonic() + seconds
        timer = threading.Timer(seconds, self._end)
        timer.daemon = True
        timer.start()
        try:
            yield lambda: end - time.monotonic()
        finally:
            timer.cancel()
            timer.join()  # one that is ending this request must not cut the next one's connection

    def look(self, event: str, about: dict[str, Any]) -> None:
        """httpx2 tells what it does: https://www.python-httpx.org/advanced/extensions/#trace"""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._stream = about["return_value"]
            if self.over:
                self._cut()

    def _end(self) -> None:
        self.over = True
        self._cut()

    def _cut(self) -> None:
        # Closing a socket wakes no thread that reads from it; shutting it down does, also under TLS.
        with suppress(OSError):  # it is closed already
            if self._stream is not None:
                socket.socket.shutdown(self._stream.get_extra_info("socket"), socket.SHUT_RDWR)


def service_address(url: str) -> str:
    """The address without a slash at its end. What is refused is not repeated: it may hold a password.

    Raises:
        ConfigError: it is none of a service, or one to which everything would travel unencrypted.
    """
    wrong = ConfigError(
        "LEDGER_URL is not the address of a ledger.",
        "Write it as https://ledger.example.org, without user, password, or anything after the path.",
    )
    try:
        parts = urlsplit(url)
        known_scheme = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # brackets that are no address, a port that is none
        raise wrong from None
    if not (known_scheme and re.fullmatch(r"[!-~]+", url)) or set("@?#\\") & set(url):
        raise wrong
    if parts.scheme == "http" and not is_this_machine(parts.hostname or ""):
        raise ConfigError(
            f"LEDGER_URL is unencrypted: LEDGER_TOKEN could be read, and the ledger's key exchanged, on the way to "
            f"{parts.hostname}.",
            f"Use https. Where it speaks none, reach it by a tunnel (ssh -L 8080:127.0.0.1:8080 {parts.hostname}) as "
            "http://127.0.0.1:8080, or put a proxy that speaks TLS in front of it.",
        )
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


def is_this_machine(host: str) -> bool:
    """Whether what is sent to a host, by name or number, never leaves this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def usable_token(token: str | None, variable: str = "LEDGER_TOKEN") -> str | None:
    """A token as a header can carry it; None where there is none. variable: where it comes from.

    Raises:
        ConfigError: no header can carry it. It is not repeated.
    """
    if token and not re.fullmatch(r"[!-~]+", token):
        raise ConfigError(f"{variable} holds characters that no token has.", f"Set {variable} anew.")
    return token or None


def http_client() -> httpx2.Client:
    """What asks: this machine by no proxy, and nobody by a redirect.

    Raises:
        ConfigError: what the environment names for TLS, or as a proxy, can't be used.
    """
    import httpx2

    try:
        return httpx2.Client(
            headers={"User-Agent": f"oneseek/{__version__}", "Accept-Encoding": "identity"},
            mounts={"http://": None},  # by no proxy: that is on this machine, and unencrypted
        )
    except OSError as error:
        # An ssl.SSLError is one too; its number is none of the system's.
        why = "it holds no certificate in PEM" if isinstance(error, ssl.SSLError) else os.strerror(error.errno or 0)
        if named := os.environ.get("SSL_CERT_FILE"):
            raise ConfigError(
                f"SSL_CERT_FILE={named} can't be used: {why}.",
                "Set it to a file of certificates in PEM, or unset it to trust those of this system.",
            ) from error
        raise ConfigError(
            f"The certificates that this system trusts can't be used: {why}.",
            "Set SSL_CERT_FILE to a file of certificates in PEM.",
        ) from error
    except (ImportError, ValueError, httpx2.InvalidURL) as error:  # it may hold a password, and is not repeated
        raise ConfigError(
            "The proxy that HTTPS_PROXY, ALL_PROXY or their like name can't be used.",
            "Write it as http://proxy.example.org:8080, or unset them.",
        ) from error


def tls_failure(error: BaseException | None) -> ssl.SSLError | None:
    """What TLS itself refuses: asking again would not help. A connection that only broke off is no such thing."""
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return None if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)) else error
        error = error.__cause__ or error.__context__  # httpcore2 raises some again `from None`
    return None


def _proved(statement: bytes, logged: Logged, key: VerifierKey) -> Checkpoint:
    """The checkpoint by which this very statement is in the log of `key`."""
    if encode(entry_of(logged.entry).statement) != statement:
        raise ProofInvalid(f"It proves another entry than that of {statement_of(statement).run_id}.")
    return proof.check(logged.proof, logged.entry, key)


def _batches(statements: Sequence[bytes]) -> Iterator[list[bytes]]:
    """As many at once as a service takes."""
    batch: list[bytes] = []
    for each in statements:
        if len(batch) == _MOST_STATEMENTS or sum(map(len, batch)) + len(each) > _MOST_BYTES:
            yield batch
            batch = []
        batch.append(each)
    if batch:
        yield batch


def _said(body: bytes) -> _Said | None:
    try:
        return msgspec.json.decode(body, type=_Error).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _words(said: object) -> str:
    """What others say, in one short line without a full stop."""
    return " ".join(str(said).split())[:_LARGEST_WORDS].rstrip(".")
