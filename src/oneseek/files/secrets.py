"""Files that only their owner may read: private keys."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from filelock import FileLock

from oneseek.errors import KeyRefused, StorageError
from oneseek.files.durable import TEMP_SUFFIX, create_exclusively, make_directory, storage_errors, sync_directory

_OTHERS = 0o077
_LARGEST = 1 << 16  # bytes; far more than any key has
_MAKE_ONE = "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out FILE && chmod 600 FILE"


def is_there(path: Path) -> bool:
    """Whether there is such a file. A directory that can't be looked into does not mean that there is none.

    Raises:
        StorageError: nobody can tell.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise StorageError(
            f"{path} can't be read: {error.strerror or error}.",
            "Give yourself permission to read it, or run this as the user whose it is.",
        ) from error
    return True


def read_secret(path: Path) -> bytes:
    """The bytes of a private key's file.

    Raises:
        KeyRefused: it is not there, can't be read, is too large to be a key, or others than its owner may read it.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise KeyRefused(
            f"The private key {path} cannot be read: {error.strerror or error}.", "Name a file that you may read."
        ) from error
    if os.name != "nt" and mode & _OTHERS:  # Windows keeps who may read a file elsewhere
        raise KeyRefused(
            f"The private key {path} can be read by others than its owner.", f"Run: chmod 600 {shlex.quote(str(path))}"
        )
    if len(content) > _LARGEST:
        raise KeyRefused(f"{path} is too large to be a private key.", "Name the key's own file.")
    return content


def read_signer_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The ECDSA key on P-256 that runs are signed with, from a PEM file without a password.

    Raises:
        KeyRefused: as `read_secret`, or it is no such key.
    """
    content = read_secret(path)
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except TypeError as error:
        raise KeyRefused(
            f"The private key {path} is encrypted, and there is nobody to ask for its password.",
            f"Write it without one: openssl pkcs8 -topk8 -nocrypt -in {shlex.quote(str(path))} -out FILE",
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        if b"PUBLIC KEY-----" in content:
            raise KeyRefused(f"{path} is a public key.", "Name the private key that belongs to it.") from error
        raise KeyRefused(f"{path} is not a private key in PEM form.", f"Make one: {_MAKE_ONE}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise KeyRefused(
            f"{path} is {_kind(key)}; runs are signed with an ECDSA key on P-256.", f"Make one: {_MAKE_ONE}"
        )
    return key


def keep_secret(path: Path, content: bytes) -> bool:
    """Make the file, readable by its owner alone, unless it is there; says whether it was made.

    It is there whole or not at all: of many that make it at once, the others find the whole file of the first. The
    lock lies beside the directory, which so holds nothing but what its owner keeps.

    Raises:
        StorageError: it could not be written.
    """
    directory, temporary = path.parent, path.with_name(path.name + TEMP_SUFFIX)
    with storage_errors(path):
        make_directory(directory, mode=0o700)
        with FileLock(directory.with_name(f".{directory.name}.lock")):
            temporary.unlink(missing_ok=True)  # of one who was killed here; it was never used
            if _is_taken(path):
                return False
            create_exclusively(temporary, content, mode=0o600)
            if _is_taken(path):  # by somebody who asked for no lock, as when a backup is restored
                temporary.unlink()
                return False
            temporary.replace(path)
            sync_directory(directory)
    return True


def _is_taken(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _kind(key: object) -> str:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return f"an ECDSA key on {key.curve.name}"
    return f"an {type(key).__name__.lstrip('_').removesuffix('PrivateKey')} key"
