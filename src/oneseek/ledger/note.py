"""Signed notes (c2sp.org/signed-note): a text, an empty line, and a signature line by a named Ed25519 key.

The texts of keys are those of Go's `golang.org/x/mod/sumdb/note`. Every text is accepted in one spelling only.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from oneseek.errors import KeyRefused, ProofInvalid

_ED25519 = b"\x01"
_SECRET = "PRIVATE+KEY+"

# Beside white space and plus, no control characters, and nothing that UTF-8 can't say.
_NAME = r"(?P<name>[^\s+\x00-\x1f\ud800-\udfff]+)"
_SIGNATURE = re.compile(rf"\u2014 {_NAME} (?P<signature>[A-Za-z0-9+/]+={{0,2}})\n")
_KEY = re.compile(rf"{_NAME}\+[0-9a-f]{{8}}\+(?P<key>[A-Za-z0-9+/]{{44}})")  # 33 bytes, the first says which kind


class VerifierKey(msgspec.Struct, frozen=True):
    """The public half of a log's key. `name` is the log's origin, `public` 32 bytes."""

    name: str
    public: bytes

    @property
    def hash(self) -> bytes:
        """Four bytes that tell keys of one name apart."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.public).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.hash.hex()}+{encode64(_ED25519 + self.public)}"

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """`<origin>+<hash>+<key>`, as `oneseek ledger key` prints it.

        Raises:
            KeyRefused: it is no such text.
        """
        match = _KEY.fullmatch(text)
        found = cls(match["name"], base64.b64decode(match["key"])[1:]) if match else None
        if found is None or str(found) != text:
            said = "A private key" if _SECRET in text else repr(text)
            raise KeyRefused(f"{said} is not a log's public key.", "Copy it from `oneseek ledger key`.")
        return found


@dataclass(frozen=True)
class SignerKey:
    """A log's private key: 32 bytes that an Ed25519 key follows from. Its `repr` tells none of them."""

    name: str
    seed: bytes = field(repr=False)

    @property
    def verifier(self) -> VerifierKey:
        return VerifierKey(self.name, self._private.public_key().public_bytes_raw())

    def text(self) -> str:
        """How it is kept in a file."""
        return f"{_SECRET}{self.name}+{self.verifier.hash.hex()}+{encode64(_ED25519 + self.seed)}"

    @classmethod
    def parse(cls, text: str) -> SignerKey:
        """The reverse of `text`.

        Raises:
            KeyRefused: it is no such text. What it is, is not repeated.
        """
        match = _KEY.fullmatch(text.removeprefix(_SECRET))
        found = cls(match["name"], base64.b64decode(match["key"])[1:]) if match else None
        if found is None or found.text() != text:
            raise KeyRefused("This is not a log's private key.", "Restore the file from a backup.")
        return found

    def sign(self, text: str) -> str:
        """The note: `text` (which ends in a newline) with this key's signature behind it."""
        signature = self.verifier.hash + self._private.sign(text.encode())
        return f"{text}\n\u2014 {self.name} {encode64(signature)}\n"

    @property
    def _private(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)


def text_of(note: str, key: VerifierKey) -> str:
    """The text of a note that `key`, and nobody else, has signed.

    Raises:
        ProofInvalid: it is no note, or another key's.
    """
    text, empty, line = note.rpartition("\n\n")
    match = _SIGNATURE.fullmatch(line)
    if not empty or match is None:
        raise ProofInvalid("A signed note ends in an empty line and one line with a signature; this one doesn't.")
    signature = decode64(match["signature"], "the note's signature")
    if match["name"] != key.name or signature[:4] != key.hash:
        raise ProofInvalid(f"The note is signed by another key, of {match['name']!r}, not by {key}.")
    try:
        Ed25519PublicKey.from_public_bytes(key.public).verify(signature[4:], f"{text}\n".encode())
    except (InvalidSignature, ValueError) as error:
        raise ProofInvalid(f"The note's signature by {key.name} is not valid for its text.") from error
    return f"{text}\n"


def encode64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def decode64(text: str, name: str) -> bytes:
    """The bytes of standard base64 in its one spelling: padded, and no bit in the padding.

    Raises:
        ProofInvalid: it is not that; `name` says what was to be read.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ProofInvalid(f"{name[0].upper()}{name[1:]} is not base64.") from error
    if encode64(data) != text:
        raise ProofInvalid(f"{name[0].upper()}{name[1:]} has bits that base64 leaves free.")
    return data
