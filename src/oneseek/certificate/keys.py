"""Whose signatures count: the key that runs are signed with here, and the public keys that are pinned."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from oneseek.certificate.signature import public_key, public_pem
from oneseek.errors import KeyRefused
from oneseek.files.durable import storage_errors
from oneseek.files.layout import Home
from oneseek.files.secrets import keep_secret, read_signer_key
from oneseek.ledger import known
from oneseek.ledger.keys import known_log_key
from oneseek.ledger.note import VerifierKey

VARIABLE = "LEDGER_PRIVATE_KEY_PATH"

_PEM = re.compile(r"-----BEGIN PUBLIC KEY-----\n.*?-----END PUBLIC KEY-----(?:\n|\Z)", re.DOTALL)
_LOG = re.compile(r"(?:^|\s)([^\s+]+\+[0-9a-f]{8}\+[A-Za-z0-9+/=]+)\s*$", re.MULTILINE)


class Pins(msgspec.Struct, frozen=True):
    """Public keys that are trusted: `signers` of runs as PEM, `logs` as the texts of verifier keys."""

    signers: frozenset[str]
    logs: frozenset[str]

    def __or__(self, other: Pins) -> Pins:
        return Pins(self.signers | other.signers, self.logs | other.logs)


def signer_key(home: Home, environment: Mapping[str, str]) -> ec.EllipticCurvePrivateKey:
    """The private key that runs are signed with: the one that LEDGER_PRIVATE_KEY_PATH names, else the home's own, made
    when it is first needed.

    Raises:
        KeyRefused: it is not there, others than its owner may read it, or it is no ECDSA key on P-256.
        StorageError: none could be made.
    """
    if named := environment.get(VARIABLE):
        return read_signer_key(Path(named))
    if not _is_there(home.signer_key):
        keep_secret(home.signer_key, _new_key())
    return read_signer_key(home.signer_key)


def known_signer(home: Home, environment: Mapping[str, str]) -> str | None:
    """The public half (PEM) of the key that runs are signed with; None where there is none yet: none is made.

    Raises:
        KeyRefused: as `signer_key`.
    """
    if environment.get(VARIABLE) or _is_there(home.signer_key):
        return public_pem(signer_key(home, environment).public_key())
    return None


def pins_in(text: str) -> Pins:
    """The public keys in a text, as `oneseek ledger key` prints them: PEM blocks, and verifier keys at a line's end.

    Raises:
        KeyRefused: there is none, or one of them is damaged.
    """
    text = text.replace("\r\n", "\n")
    signers = frozenset(public_pem(public_key(f"{found.rstrip()}\n")) for found in _PEM.findall(text))
    logs = frozenset(str(VerifierKey.parse(found)) for found in _LOG.findall(_PEM.sub("", text)))
    if not signers and not logs:
        raise KeyRefused("There is no public key in it.", "Write it with: oneseek ledger key > keys.txt")
    return Pins(signers, logs)


def pins_of(home: Home, environment: Mapping[str, str]) -> Pins:
    """What a home trusts: its own keys, that of LEDGER_PRIVATE_KEY_PATH, and the ledger services that it has used.

    Raises:
        KeyRefused: as `signer_key`; or a key of a ledger service is not what was written.
        StorageError: the keys' directory can't be looked into.
    """
    own = [known_signer(home, {}), known_signer(home, environment)]
    log = known_log_key(home)
    logs = [*([] if log is None else [log]), *known.read(home.known_logs).values()]
    return Pins(frozenset(filter(None, own)), frozenset(map(str, logs)))


def _is_there(path: Path) -> bool:
    with storage_errors(path):
        return path.exists()


def _new_key() -> bytes:
    form = serialization.PrivateFormat.PKCS8
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
