"""The key of the ledger in a home: made on first use, kept where only its owner reads it."""

from __future__ import annotations

import hashlib
import secrets

from oneseek.errors import KeyRefused
from oneseek.files.layout import Home
from oneseek.files.secrets import is_there, keep_secret, read_secret
from oneseek.ledger.note import SignerKey, VerifierKey

_SEED_BYTES = 32


def log_key(home: Home, origin: str | None = None) -> SignerKey:
    """The key that this home's ledger signs with. It is made on first use; of many that make it at once, all get one.

    origin: the log's name. Unless given, it is that of the key that is there, or `oneseek-ledger/` with the first 16
        hex digits of the new public key's SHA-256.

    Raises:
        KeyRefused: the file is no key of a log, others may read it, or its origin is another one.
        StorageError: it could not be written, or its directory can't be looked into.
    """
    if not is_there(home.log_key):
        keep_secret(home.log_key, f"{_new(origin).text()}\n".encode())
    key = _kept(home)  # whoever made it
    if origin not in (None, key.name):
        raise KeyRefused(
            f"The key {home.log_key} is that of the log {key.name!r}, not of {origin!r}.",
            f"Leave the origin out, or keep the log {origin!r} in a home of its own.",
        )
    return key


def known_log_key(home: Home) -> VerifierKey | None:
    """The public half of this home's key; None where none was made yet.

    Raises:
        KeyRefused: as `log_key`.
        StorageError: its directory can't be looked into.
    """
    return _kept(home).verifier if is_there(home.log_key) else None


def _kept(home: Home) -> SignerKey:
    content = read_secret(home.log_key)
    try:
        return SignerKey.parse(content.decode().removesuffix("\n"))
    except (KeyRefused, UnicodeDecodeError) as error:
        raise KeyRefused(
            f"{home.log_key} is not a log's private key.",
            "Restore it from a backup; without it nothing can be added to this ledger.",
        ) from error


def _new(origin: str | None) -> SignerKey:
    seed = secrets.token_bytes(_SEED_BYTES)
    if origin is None:
        public = SignerKey("", seed).verifier.public
        return SignerKey(f"oneseek-ledger/{hashlib.sha256(public).hexdigest()[:16]}", seed)
    try:
        return SignerKey.parse(SignerKey(origin, seed).text())
    except KeyRefused as error:
        raise KeyRefused(
            f"{origin!r} can't be the origin of a log.",
            "Write it without blanks and plus signs, as in ledger.example.org.",
        ) from error
