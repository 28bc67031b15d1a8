"""Ledger services on loopback: the real one under the real server, and what else may answer at an address."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pytest_socket import enable_socket, socket_allow_hosts
from starlette.types import ASGIApp, Receive, Scope, Send

from oneseek.ledger.entry import Statement, encode
from oneseek.ledger.log import Log, Logged
from oneseek.ledger.merkle import Hash
from oneseek.ledger.note import SignerKey, VerifierKey
from oneseek.ledger.store import Store
from oneseek.server.ledger import create_app
from oneseek.server.listening import configured

TOKEN = "planted-token-0123456789abcdef"
KEY = SignerKey("ledger.example.org", b"\x01" * 32)
OTHER_KEY = SignerKey("ledger.example.org", b"\x02" * 32)


def statement(number: int) -> bytes:
    """The statement of run `number`."""
    return encode(
        Statement(
            run_id=f"run-{number}",
            dna="OneSeek-7B-Zero.v1.0.00000000.00000000.00000000",
            base_models=("alfa-1b", "beta-1b"),
            final_weights={"alfa-1b": 0.75, "beta-1b": 0.25},
            manifest_sha256=f"{number:064x}",
        )
    )


def statements(stop: int, start: int = 0) -> list[bytes]:
    return [statement(number) for number in range(start, stop)]


def store(entries: int = 0, key: SignerKey = KEY, first: int = 0) -> Store:
    """A log in memory of so many entries."""
    log = Store.open(Path(":memory:"), key)
    log.append(statements(first + entries, first))
    return log


class Behind(Log):
    """Passes everything on to `log`, which may be another one the next time. Tests override what shall be a lie."""

    def __init__(self, log: Log) -> None:
        self.log = log

    @property
    def key(self) -> VerifierKey:
        return self.log.key

    def append(self, statements: Sequence[bytes]) -> list[Logged]:
        return self.log.append(statements)

    def checkpoint(self) -> str:
        return self.log.checkpoint()

    def node(self, level: int, index: int) -> Hash:
        return self.log.node(level, index)

    def entries(self, start: int, stop: int) -> list[bytes]:
        return self.log.entries(start, stop)

    def prove(self, index: int) -> Logged:
        return self.log.prove(index)

    def close(self) -> None:
        self.log.close()


class Stage:
    """An address at which one application after the other plays."""

    def __init__(self) -> None:
        self.app: ASGIApp = _nobody
        self.address = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)

    def service(self, log: Log) -> str:
        """Play the real service over a log; the address."""
        return self.play(create_app(log, TOKEN))

    def play(self, app: ASGIApp) -> str:
        allow_loopback()
        self.app = app
        return self.address


@contextmanager
def stage() -> Iterator[Stage]:
    """A stage under the service's own server. Starting one takes longer than a test should, so many tests share it."""
    allow_loopback()
    found = Stage()
    server = uvicorn.Server(configured(found))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found.address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=lambda: server.run(sockets=[listener]), daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.005)
        try:
            yield found
        finally:
            server.should_exit = True
            thread.join()


def allow_loopback() -> None:
    enable_socket()
    socket_allow_hosts(["127.0.0.1"], allow_unix_socket=True)


def body_of(*texts: bytes) -> bytes:
    """What is sent to append statements."""
    return json.dumps({"statements": [text.decode() for text in texts]}).encode()


def self_signed(directory: Path, address: str = "127.0.0.1", days: int = 1) -> tuple[Path, Path]:
    """A certificate for an address that is valid so many days more, and its private key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, address)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=3))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = directory / "certificate.pem", directory / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


async def _nobody(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("nobody plays yet")
