"""Whose signatures count: the key that runs are signed with here, and the public keys that are pinned."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from oneseek.certificate.signature import public_key, public_pem
from oneseek.errors import KeyRefused, StorageError
from oneseek.files.layout import Home
from oneseek.files.secrets import is_there, keep_secret, read_signer_key
from oneseek.ledger import known
from oneseek.ledger.keys import known_log_key
from oneseek.ledger.note import VerifierKey

VARIABLE = "LEDGER_PRIVATE_KEY_PATH"

Found = TypeVar("Found")

_PEM = re.compile(r"-----BEGIN PUBLIC KEY-----\n.*?-----END PUBLIC KEY-----(?:\n|\Z)", re.DOTALL)
_LOG = re.compile(r"(?:https?://\S+ )?([^\s+]+\+[0-9a-f]{8}\+[A-Za-z0-9+/=]+) *")  # alone, or as in known-logs


class Pins(msgspec.Struct, frozen=True):
    """Public keys that are trusted: `signers` of runs as PEM, `logs` as the texts of verifier keys.

    `bound` are the signers that were pinned together with ledgers: their runs are in one of `logs`. Of the others, a
    run names its ledger itself.
    """

    signers: frozenset[str]
    logs: frozenset[str]
    bound: frozenset[str] = frozenset()

    def __or__(self, other: Pins) -> Pins:
        return Pins(self.signers | other.signers, self.logs | other.logs, self.bound | other.bound)


def _together(signers: Iterable[str], logs: Iterable[str]) -> Pins:
    """Keys that come from one place."""
    both = frozenset(signers), frozenset(logs)
    return Pins(*both, bound=both[0] if both[1] else frozenset())


def signer_key(home: Home, environment: Mapping[str, str]) -> ec.EllipticCurvePrivateKey:
    """The private key that runs are signed with: the one that LEDGER_PRIVATE_KEY_PATH names, else the home's own, made
    when it is first needed.

    Raises:
        KeyRefused: it is not there, others than its owner may read it, or it is no ECDSA key on P-256.
        StorageError: none could be made, or the keys' directory can't be looked into.
    """
    if named := environment.get(VARIABLE):
        return read_signer_key(Path(named))
    if not is_there(home.signer_key):
        keep_secret(home.signer_key, _new_key())
    return read_signer_key(home.signer_key)


def known_signer(home: Home, environment: Mapping[str, str]) -> str | None:
    """The public half (PEM) of the key that runs are signed with; None where there is none yet: none is made.

    Raises:
        KeyRefused: as `signer_key`.
        StorageError: the keys' directory can't be looked into.
    """
    if environment.get(VARIABLE) or is_there(home.signer_key):
        return public_pem(signer_key(home, environment).public_key())
    return None


def pins_in(text: str) -> Pins:
    """The public keys in a text, as `oneseek ledger key` prints them: PEM blocks, and verifier keys, each on a line of
    its own. Lines that begin with # are comments.

    Raises:
        KeyRefused: there is none, or one of them is damaged.
    """
    lines = [line for line in text.replace("\r\n", "\n").split("\n") if not line.startswith("#")]
    signers = [public_pem(public_key(f"{found.rstrip()}\n")) for found in _PEM.findall("\n".join(lines))]
    logs = [str(VerifierKey.parse(found[1])) for line in lines if (found := _LOG.fullmatch(line))]
    if not signers and not logs:
        raise KeyRefused("There is no public key in it.", "Write it with: oneseek ledger key > keys.txt")
    return _together(signers, logs)


def pins_of(home: Home, environment: Mapping[str, str]) -> Pins:
    """What a home trusts: its own keys, that of LEDGER_PRIVATE_KEY_PATH, and the ledger services that it has used.

    A key that can't be read or used is no pin, and no error: private keys may well be closed to those who verify.
    """
    own = [_if_usable(lambda: known_signer(home, {})), _if_usable(lambda: known_signer(home, environment))]
    services = _if_usable(lambda: known.read(home.known_logs)) or {}
    logs = [_if_usable(lambda: known_log_key(home)), *services.values()]
    return _together(filter(None, own), map(str, filter(None, logs)))


def _if_usable(read: Callable[[], Found | None]) -> Found | None:
    try:
        return read()
    except (KeyRefused, StorageError):
        return None


def _new_key() -> bytes:
    form = serialization.PrivateFormat.PKCS8
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
