"""The ledger services that a home knows, each by its address and the key that it showed first: one a line."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock

from oneseek.errors import KeyRefused
from oneseek.files.durable import make_directory, storage_errors, write_bytes
from oneseek.files.secrets import keep_secret
from oneseek.ledger.note import VerifierKey


def read(path: Path) -> dict[str, VerifierKey]:
    """Each service's key by its address; empty lines and comments (#) are left out. No file, no services.

    Raises:
        KeyRefused: the file can't be read, or a line of it is none.
    """
    known: dict[str, VerifierKey] = {}
    for number, line in enumerate(_text(path).split("\n"), 1):
        if line.strip() and not line.startswith("#"):
            url, _, key = line.partition(" ")
            try:
                if known.setdefault(url, found := VerifierKey.parse(key.strip())) != found:
                    raise KeyRefused(f"{url} stands there with two keys.")
            except KeyRefused as error:
                raise KeyRefused(
                    f"Line {number} of {path} is not a ledger's address and its public key.", "Mend or remove the line."
                ) from error
    return known


def remember(path: Path, url: str, key: VerifierKey) -> VerifierKey:
    """Add a service unless its address is known; the key that is kept for it now.

    Raises:
        KeyRefused: as `read`.
        StorageError: it could not be written.
    """
    with storage_errors(path):
        make_directory(path.parent, 0o700)
        with FileLock(path.with_name(f".{path.name}.lock")):
            known = read(path)
            line = f"{url} {key}\n"
            if url not in known and not keep_secret(path, line.encode()):
                before = _text(path)
                write_bytes(path, (before + "\n" * (before[-1:] not in ("", "\n")) + line).encode())
    return known.get(url, key)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise KeyRefused(
            f"{path} can't be read: {error}.", "Give yourself read permission, or move it away."
        ) from error
